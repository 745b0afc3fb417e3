"""Write the benchmark table into README.md and docs/benchmarks.md from benchmarks/results/market.json.

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


def aims(results: dict) -> list[str]:
    """Return one line for each aim, reached or not."""
    parts = [*results["cases"], *([results["ladder"]] if "ladder" in results else [])]
    return [
        f"* {part.get('problem', 'ladder')}: {aim['wanted']}; measured {aim['found']:.4g}, "
        f"{'reached' if aim['reached'] else '**not reached**'}."
        for part in parts
        for aim in part.get("aims", [])
        if aim["found"] is not None
    ]


def main() -> None:
    """Write the table between the markers of both files."""
    results = json.loads((ROOT / "benchmarks/results/market.json").read_text())
    machine = results["machine"]
    said = f"Measured on {results['date']}: {machine['cores']} cores ({machine['processor']}), wall time, medians."
    body = "\n".join([BEGIN, "", *table(results), "", said, "", *aims(results), "", END])
    for name in ("README.md", "docs/benchmarks.md"):
        path = ROOT / name
        path.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: body, path.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
