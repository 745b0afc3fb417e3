"""A large crowd solved: `python -m benchmarks.meanfield_large [SIDE] [HORIZON]`, and how its time grows with states.

Without a side, the ladder: fields of 32² to 1,024² cells, each in a process of its own, with horizons in proportion
to the side (200 at 512²), so that a player can walk as far on each map. Every answer is certified in float64 NumPy at
the tolerance 1e-3 of the reward range; the time holds all: coarser maps, compilation, rounds, certificate.
"""

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from catallax.core.run import Progress
from catallax.meanfield.games.grid import CrowdMotion
from catallax.meanfield.solve import solve

from . import machine
from .measure import alone, peak_bytes

RESULTS = Path(__file__).resolve().parent / "results" / "meanfield.json"
SIDES = (32, 64, 128, 256, 512, 1024)
TOL = 1e-3
SECONDS, GIGABYTES = 600.0, 8.0
LIMIT = 3600.0
BARS = ((0.2, 0.3, 10.0), (0.7, 0.15, 8.0), (0.85, 0.8, 10.0), (0.3, 0.75, 9.0), (0.6, 0.6, 7.0))
"""Where the five bars of the fair are, as parts of the side, and what it earns to be there."""


def horizon_of(side: int) -> int:
    """Return the horizon that belongs to a side."""
    return round(200 * side / 512)


def fair(side: int, horizon: int, noise: float = 0.5) -> CrowdMotion:
    """Return a fair on an open field: five bars draw a crowd that at first is spread evenly and that shuns itself.

    Each bar of strength p earns p·(1 − |s − bar|₁ / side), and a cell what its best bar does, less log(μ + 1e-10).
    A player can walk horizon / side of the field.
    """
    row, column = (np.indices((side, side)) + 0.5) / side
    drawn = [pull * (1 - np.abs(row - i) - np.abs(column - j)) for i, j, pull in BARS]
    return CrowdMotion(
        np.ones((side, side), bool),
        np.full((side, side), 1 / side**2),
        horizon=horizon,
        attraction=np.max(drawn, axis=0),
        noise=noise,
        floor=1e-10,
        shielded=False,
    )


def levels_of(side: int) -> int:
    """Return how many coarser maps to begin from: down to a side of 16 to 31."""
    return max(0, side.bit_length() - 5)


def measured(side: int, horizon: int) -> dict[str, Any]:
    """Solve a fair in this process; return what it took and what the certificate says."""

    def say(now: Progress) -> None:
        print(f"  {now.seconds:5.0f} s, round {int(now.recorded[-1])}: {float(now.record[-1]):.2e}", file=sys.stderr)

    game = fair(side, horizon)
    started = time.perf_counter(), time.process_time()
    answer = solve(game, tol=TOL, law="light", double=False, coarser=levels_of(side), max_rounds=400, watch=say)
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    found = answer.certificates[0]
    return {
        "states": game.states,
        "horizon": horizon,
        "law": answer.law,
        "levels": levels_of(side),
        "rounds": answer.rounds,
        "seconds": wall,
        "cpu_seconds": cpu,
        "exploitability": answer.exploitability,
        "relative": found.value,
        "reached": bool(found.holds),
        "peak_bytes": peak_bytes(),
    }


def wanted(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the aims of the crowd of 512² cells and 200 decisions, as the table of benchmarks reads them."""
    gigabytes = found["peak_bytes"] / 1e9
    rows = [
        (f"certified to {TOL:g} of the reward range", found["relative"], found["reached"]),
        (
            f"within {SECONDS:g} s on {machine.description()['cores']} cores",
            found["seconds"],
            found["seconds"] <= SECONDS,
        ),
        (f"within {GIGABYTES:g} GB", gigabytes, gigabytes <= GIGABYTES),
    ]
    return [{"wanted": text, "found": number, "reached": bool(reached)} for text, number, reached in rows]


def keep(points: list[dict[str, Any]]) -> None:
    """Put points into the results of the mean-field games, in the place of earlier ones of the same size."""
    results = json.loads(RESULTS.read_text())
    size = lambda point: (point["states"], point["horizon"])  # noqa: E731
    new = {size(point): point | {"date": date.today().isoformat()} for point in points}
    old = {size(point): point for point in results.get("large", {}).get("points", [])}
    kept = [point for _, point in sorted((old | new).items())]
    rising = [point for point in kept if point["reached"]]
    exponent = None
    if len(rising) > 2:
        logs = np.log([[point["states"], point["seconds"]] for point in rising])
        exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    aims = [aim for point in kept if size(point) == (512**2, 200) for aim in wanted(point)]
    results["large"] = {
        "problem": "a fair on an open field, `benchmarks.meanfield_large.fair`",
        "tolerance": TOL,
        "points": kept,
        "exponent": exponent,
        "aims": aims,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Measure one side, or the ladder, and say and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meanfield_large", description=__doc__)
    parser.add_argument("side", type=int, nargs="?", help="cells a side; by default the ladder from 32 to 1,024")
    parser.add_argument(
        "horizon", type=int, nargs="?", help="decisions; by default 200 at a side of 512, in proportion"
    )
    parser.add_argument("--keep", action="store_true", help=f"write the result into {RESULTS.name}")
    options = parser.parse_args()
    points = []
    for side in SIDES if options.side is None else (options.side,):
        found = alone(measured, (side, options.horizon or horizon_of(side)), LIMIT)
        print(json.dumps(found, indent=1) if isinstance(found, dict) else f"{side}²: {found}", flush=True)
        points += [found] if isinstance(found, dict) else []
        if options.keep and points:
            keep(points)


if __name__ == "__main__":
    main()
