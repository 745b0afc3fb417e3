"""Write benchmarks/results/ into README.md, what was wanted and found, and into docs/benchmarks.md, all tables.

python3 tools/benchmark_table.py
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks: written by tools/benchmark_table.py -->", "<!-- end of benchmarks -->"
PEERS = ("Clarabel", "ECOS", "SCS", "proportional response")


def seconds(value: float) -> str:
    """Return a time with two or three digits."""
    return f"{value:.3f} s" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def table(results: dict) -> list[str]:
    """Return the lines of the table: our warm wall time, and each peer's time and how many times ours it is."""
    lines = ["| Problem | Gap asked | Catallax, warm | cold | " + " | ".join(PEERS) + " |", "|---" * 8 + "|"]
    for case in results["cases"]:
        ours = case.get("ours")
        if not ours or not ours.get("reached") or "target" not in case:
            continue
        cells = [
            f"`{case['problem']}`",
            f"{case['target']:.0e}",
            seconds(ours["seconds"]),
            seconds(ours["first_seconds"]),
        ]
        peers = {peer["method"]: peer for peer in case.get("peers", [])}
        for name in PEERS:
            peer, ratio = peers.get(name), case.get("ratios", {}).get(name, {}).get("wall")
            reached = peer is not None and peer.get("reached") and ratio
            cells.append(f"{seconds(peer['seconds'])} (**{ratio:.3g}×**)" if reached else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def games(results: dict) -> list[str]:
    """Return the lines of the mean-field games' table: a round's wall time, and how exploitable the answers are."""
    heads = "Game", "Rounds of", "a round", "rounds", "exploitability", "times ours"
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for case in results["cases"]:
        solved = [] if case["solve"] == case["ours"] else [case["solve"]]
        timed = [found for found in (case["ours"], *solved, *case["peers"]) if found["seconds_per_round"] is not None]
        for place, found in enumerate(timed):
            ratio = case["ratios"].get(found["method"], {}).get("round")
            cells = [
                f"`{case['problem']}`" if place == 0 else "",
                found["method"],
                f"{1e3 * found['seconds_per_round']:.3g} ms",
                f"{found['rounds']}",
                "–" if found["exploitability"] is None else f"{found['exploitability']:.3g}",
                f"**{ratio:.3g}×**" if ratio else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def coding(results: dict) -> list[str]:
    """Return the lines of the cortex's table: CPU time, and how far the objective is from the best certified bound."""
    heads = "Task", "By", "setting", "CPU time", "relative gap", "active", "times ours"
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for case in results["cases"]:
        other = [] if case["solve"] == case["ours"] else [case["solve"]]
        timed = [found for found in (case["ours"], *other, *case["peers"]) if found["cpu_seconds"] is not None]
        for place, found in enumerate(timed):
            ratio = case["ratios"].get(found["method"], {})
            few = f", from {found['samples']:,} samples" if found["samples"] < case["ours"]["samples"] else ""
            cells = [
                case["problem"] if place == 0 else "",
                found["method"],
                f"{found['setting']:g}" if found["setting"] else "–",
                seconds(found["cpu_seconds"]) + few,
                f"{found['gap']:.1g}",
                f"{found['active']:.3g}",
                ("> " if ratio["at_least"] else "") + f"**{ratio['cpu']:.3g}×**" if ratio.get("cpu") else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def routed(results: dict) -> list[str]:
    """Return the tables of results that come with their rows, one for each part."""
    lines = []
    for case in results["cases"]:
        heads, rows = case.get("header"), case.get("rows", [])
        if heads is None:
            heads = list(dict.fromkeys(head for row in rows for head in row))
            rows = [[shown(row.get(head)) for head in heads] for row in rows]
        lines += [f"{case['name'].capitalize()}, {case['problem']}:", ""]
        lines += ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
        lines.append("")
    return lines


def shown(value: object) -> str:
    """Return a cell: numbers with three digits."""
    return "" if value is None else value if isinstance(value, str) else f"{value:,.3g}"


def climbs(results: dict) -> list[str]:
    """Return a line on how the kernel's time and memory grow with the units; none without a ladder."""
    points = [point for point in results.get("ladder", {}).get("points", []) if "microseconds" in point]
    if not points:
        return []
    said = "; ".join(
        f"{point['units']:,} units and {point['samples']:,} samples {point['microseconds']:.3g} µs each, "
        f"{point['peak_bytes'] / 2**20:,.0f} MiB"
        for point in points
    )
    return [f"The kernel, CPU time and the most memory of its process, fields being patches: {said}.", ""]


def rungs(results: dict) -> list[str]:
    """Return a line on how the time of a round grows with the states; none without a ladder."""
    points = [point for point in results.get("ladder", {}).get("points", []) if point.get("seconds_per_round")]
    if not points:
        return []
    said = ", ".join(f"{point['states']:,} states {1e3 * point['seconds_per_round']:.3g} ms" for point in points)
    horizon, exponent = points[0]["horizon"], results["ladder"]["exponent"]
    fitted = f"; time grows as states^{exponent:.2f}" if exponent is not None else ""
    return [f"A round of mirror descent on an open field, {horizon} decisions: {said}{fitted}.", ""]


def crowds(results: dict) -> list[str]:
    """Return a line on what whole solves of ever larger crowds take; none without them."""
    large = results.get("large", {})
    said = "; ".join(
        f"{point['states']:,} states and {point['horizon']} decisions {point['seconds']:.3g} s, "
        f"{point['rounds']} rounds, {point['peak_bytes'] / 1e9:.2g} GB"
        for point in large.get("points", [])
        if point["reached"]
    )
    return (
        [f"From nothing to a certificate of {large['tolerance']:g} ({large['problem']}): {said}.", ""] if said else []
    )


def aims(results: dict) -> list[tuple[str, str, str, str]]:
    """Return for each aim the problem, what was wanted, what was found, and whether that reaches it."""
    parts = [*results["cases"], *(results[part] for part in ("ladder", "large") if part in results)]
    return [
        (
            part.get("problem", "ladder"),
            aim["wanted"],
            f"{aim['found']:.4g}",
            "reached" if aim["reached"] else "**not reached**",
        )
        for part in parts
        for aim in part.get("aims", [])
        if aim["found"] is not None
    ]


def listed(results: dict) -> list[str]:
    """Return one line for each aim."""
    return [f"* {problem}: {wanted}; measured {found}, {met}." for problem, wanted, found, met in aims(results)]


def digest(results: dict[str, dict]) -> list[str]:
    """Return the lines of the table of all aims."""
    lines = ["| System | Problem | Wanted | Measured | |", "|---" * 5 + "|"]
    for system, found in results.items():
        lines += ["| " + " | ".join((system, *aim)) + " |" for aim in aims(found)]
    return lines


def measured(results: dict, how: str = "wall time, medians") -> str:
    """Return when and on what it was measured."""
    machine = results["machine"]
    return f"Measured on {results['date']}: {machine['cores']} cores ({machine['processor']}), {how}."


def load(system: str) -> dict | None:
    """Return a system's results; None if there are none."""
    path = ROOT / "benchmarks" / "results" / f"{system}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


TABLES = {
    "market": lambda found: [*table(found), "", measured(found), ""],
    "meanfield": lambda found: [*games(found), "", measured(found), "", *rungs(found), *crowds(found)],
    "cortex": lambda found: [
        *coding(found), "", measured(found, "CPU time of the process, least of several runs"), "", *climbs(found),
    ],
    "autoencoders": lambda found: [*routed(found), measured(found, "CPU time; means over the seeds"), ""],
    "experts": lambda found: [*routed(found), measured(found), ""],
}  # fmt: skip


def main() -> None:
    """Write the tables between the markers of both files."""
    results = {system: found for system in TABLES if (found := load(system)) is not None}
    whole = [line for system, found in results.items() for line in (*TABLES[system](found), *listed(found), "")]
    for name, lines in (("README.md", [*digest(results), ""]), ("docs/benchmarks.md", whole)):
        path = ROOT / name
        body = "\n".join([BEGIN, "", *lines, END])
        path.write_text(re.sub(f"{BEGIN}.*{END}", lambda _, body=body: body, path.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
