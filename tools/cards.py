"""Write the README's table of systems from the cards that open each rules.py. Standard library only."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES = (
    "Agents",
    "Signal",
    "Reads",
    "Emits",
    "Law of motion",
    "Conserves",
    "Rest",
    "Message size",
    "Source",
)
COLUMNS = ("Agents", "Signal", "Emits", "Rest", "Message size")
BEGIN, END = "<!-- systems: written by dev.py cards -->", "<!-- end of systems -->"


def systems() -> dict[str, Path]:
    """Find each system's rules.py, by the system's name."""
    return {path.parent.name: path for path in sorted(ROOT.glob("catallax/*/rules.py"))}


def card(source: str) -> dict[str, str]:
    """Parse the card of a rules.py: one sentence, an empty line, then the fixed lines in their order.

    Raises:
        ValueError: if it has no card, or the lines are not exactly the fixed ones.
    """
    docstring = ast.get_docstring(ast.parse(source)) or ""
    paragraphs = docstring.split("\n\n")
    lines = paragraphs[1].splitlines() if len(paragraphs) > 1 else []
    found = [line.partition(": ") for line in lines]
    if tuple(name for name, _, _ in found) != LINES:
        raise ValueError(f"the card's lines are {[name for name, _, _ in found]}, not {list(LINES)}")
    return {name: text.strip() for name, _, text in found}


def table() -> str:
    """Return the table of systems in Markdown."""
    rows = ["| System | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, path in systems().items():
        lines = card(path.read_text(encoding="utf-8"))
        cells = [f"`{name}`", *(lines[column].replace("|", "\\|") for column in COLUMNS)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def renewed(text: str) -> str:
    """Return a text with what stands between the two marks replaced by the table.

    Raises:
        ValueError: if the marks are missing.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the text needs the marks {BEGIN!r} and {END!r}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    try:
        readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"cards: {error}")
