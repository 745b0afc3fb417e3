"""Make the embedded market from FiveThirtyEight's Food World Cup survey.

    python tools/food_world_cup.py food-world-cup-data.csv

writes the three tables in `catallax/market/data`. Their ATTRIBUTION.md says what is done here, and why.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

TARGET = Path(__file__).parents[1] / "catallax" / "market" / "data"
QUESTION = "Please rate how much you like the traditional cuisine of "
BRACKETS = {  # as the survey writes it: as we write it, and the budget in thousands of dollars a year
    "$0 - $24,999": ("under $25,000", 12.5),
    "$25,000 - $49,999": ("$25,000 to $49,999", 37.5),
    "$50,000 - $99,999": ("$50,000 to $99,999", 75),
    "$100,000 - $149,999": ("$100,000 to $149,999", 125),
    "$150,000+": ("$150,000 and more", 200),
    "": ("not stated", 75),
}


def survey(path: Path) -> list[dict[str, str]]:
    """The answers of each respondent, with the headers' and cells' non-breaking spaces made plain."""
    # The file is Mac OS Roman: its one byte beyond ASCII is 0xCA, there a non-breaking space.
    text = path.read_bytes().decode("mac_roman").replace("\xa0", " ")
    return list(csv.DictReader(text.splitlines()))


def cuisine(header: str) -> str:
    """A good's name from its question: "Netherlands" from "... cuisine of the Netherlands."."""
    return header.removeprefix(QUESTION).rstrip(".: ").removeprefix("the ")


def write(name: str, header: list[str], lines: Sequence[Sequence[object]]) -> None:
    """Write one table, with plain line ends on every system."""
    with (TARGET / name).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
    print(f"{name}: {len(lines)} lines, {(TARGET / name).stat().st_size:,} bytes")


def main(source: Path) -> None:
    """Clean the survey and write the tables."""
    answers = survey(source)
    questions = [header for header in answers[0] if header.startswith(QUESTION)]
    kept = [one for one in answers if any(one[question] not in ("", "N/A") for question in questions)]
    print(f"{len(answers)} respondents, {len(answers) - len(kept)} of whom rated nothing and are dropped")
    ratings = [[one["RespondentID"], *(one[q].replace("N/A", "") for q in questions)] for one in kept]
    incomes = [(one["RespondentID"], *BRACKETS[one["Household Income"]]) for one in kept]
    for bracket, _ in BRACKETS.values():
        print(f"  {bracket}: {sum(group == bracket for _, group, _ in incomes)}")
    write("food-world-cup.csv", ["respondent", *map(cuisine, questions)], ratings)
    write("food-world-cup-budgets.csv", ["respondent", "budget"], [[who, budget] for who, _, budget in incomes])
    write("food-world-cup-groups.csv", ["respondent", "income"], [[who, group] for who, group, _ in incomes])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/food_world_cup.py food-world-cup-data.csv")
    main(Path(sys.argv[1]))
