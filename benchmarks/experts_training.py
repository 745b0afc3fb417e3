"""Training with experts: routers compared over seeds, objectives of the experts' own, what the market adds to a step.

    python -m benchmarks.experts_training [--only NAME] [--quick] [--out FILE]

Three domains that every machine has (plays, Python source, C headers or licence texts), capacity 1.0 enforced, the
price frozen in validation; beside it stands the price that moves from there with earlier positions. All routers begin
alike and see the same batches for the same seed. A dense network of equal floating-point work is trained for reference.
"""

import argparse
import dataclasses
import json
import sys
from collections import UserDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from catallax.experts.compare import (
    BYTE_BITS,
    DOMAIN_BITS,
    HELD_VIOLATION,
    LOSS,
    LOSS_ROOMY,
    MOVING_VIOLATION,
    PACE,
    ROUTERS,
    TRAIN_VIOLATION,
    Comparison,
    compare,
    interval,
)
from catallax.experts.model import CAUSAL, DENSE, SPECIALIST, VACANT, WEIGHED, Shape
from catallax.experts.regimes import NO_TRADE, compare_objectives
from catallax.experts.text import machine_domains, split
from catallax.experts.train import Progress, Settings, train

from . import report

Say = Callable[[str], Any]

CELLS = Path(__file__).resolve().parent / "results" / "experts-routers.json"

BOTH_WAYS = ("market", VACANT, "auction", "late", "sinkhorn", "auxiliary")
"""The routers that are trained with relative affinities and with absolute ones: the best of either kind of rule."""

TRAINING, VALIDATION, MARGIN, ADDED = 0.03, 0.05, 0.003, 0.03
"""Aims: MaxVio of training and of validation, nats per byte behind the best rival, share of a step."""

LOST = "dropped in training"

BOUNDS = {
    TRAIN_VIOLATION: (f"training MaxVio ≤ {TRAINING:g} from the first step on", TRAINING),
    HELD_VIOLATION: (f"validation MaxVio ≤ {VALIDATION:g} at the frozen price", VALIDATION),
    MOVING_VIOLATION: (f"validation MaxVio ≤ {VALIDATION:g} at the price that moves along a batch", VALIDATION),
    LOST: ("no token dropped at capacity 1.0 after repair", 0.0),
}
"""What no seed may exceed, in words and numbers."""

CAPACITIES = {LOSS: "1.0", LOSS_ROOMY: "1.25"}

WANTED = {
    "market": (*BOUNDS, *CAPACITIES, BYTE_BITS, DOMAIN_BITS),
    VACANT: (TRAIN_VIOLATION, HELD_VIOLATION, *CAPACITIES),
    SPECIALIST: (*CAPACITIES, BYTE_BITS, DOMAIN_BITS),
}
"""What is judged: all of the market, and of the other two what they are made for and what it may cost."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a run is.

    Args:
        shape: The models'.
        batch: Windows per step.
        seeds: Of each router and regime.
        steps: Of each training of a router.
        own_steps: Of each training of a regime.
        further: Steps after an expert left or entered.
        windows: Validation windows of each domain.
        rounds: Times that each router's steps are timed, in turns.
        chunk: Steps per timing.
    """

    shape: Shape
    batch: int
    seeds: int
    steps: int
    own_steps: int
    further: int
    windows: int
    rounds: int
    chunk: int


FULL = Size(Shape(), 16, 5, 1000, 150, 40, 480, 31, 10)
QUICK = Size(Shape(width=16, heads=2, context=32, experts=8, hidden=16), 6, 2, 20, 10, 4, 12, 3, 2)


def routers(size: Size, say: Say) -> dict[str, Any]:
    """Compare all routers; at full size what was measured is kept, and a second start goes on from there."""
    problem, found = _compared(size, ROUTERS, None, say)
    unwon = [line for line in found.unwon() if f" in {PACE}:" not in line]
    return _tabled("routers", problem, found) | {"aims": aims(found), "unwon": unwon}


def _compared(size: Size, names: Sequence[str], relative: bool | None, say: Say) -> tuple[str, Comparison]:
    """Compare routers, by what is known and what has to be measured; `relative` as of `Shape`."""
    problem = f"{size.steps} steps of {size.batch * size.shape.context:,} bytes, {size.seeds} seeds"
    cells = Cells(CELLS if size is FULL else None, problem)
    if cells:
        say(f"  {len(cells)} trainings are known from results/{CELLS.name}; delete it to measure them anew")
    return problem, compare(
        machine_domains(),
        names,
        shape=dataclasses.replace(size.shape, relative=relative),
        settings=Settings(batch=size.batch),
        seeds=size.seeds,
        steps=size.steps,
        windows=size.windows,
        known=cells,
        watch=say,
    )


class Cells(UserDict):
    """What was measured of each router and seed, written to a file as soon as it is there.

    Args:
        path: The file; None keeps nothing.
        problem: What is measured; a file of another problem counts for nothing.
    """

    def __init__(self, path: Path | None, problem: str):
        self.path, self.problem = path, problem
        kept = {} if path is None or not path.exists() else json.loads(path.read_text(encoding="utf-8"))
        super().__init__(kept["cells"] if kept.get("problem") == problem else {})

    def __setitem__(self, name: str, cell: dict[str, Any]) -> None:
        super().__setitem__(name, cell)
        if self.path is not None:
            text = json.dumps({"problem": self.problem, "cells": self.data}, indent=1) + "\n"
            self.path.write_text(text, encoding="utf-8")


def aims(found: Comparison) -> list[dict[str, Any]]:
    """Return what was wanted of the markets, what was found, and whether it was reached."""
    rivals = [name for name in found.methods if name not in ("market", CAUSAL, VACANT, SPECIALIST, WEIGHED, DENSE)]
    wanted = []
    for method, measures in WANTED.items():
        for measure in measures if method in found.methods else ():
            if measure in BOUNDS:
                text, most = BOUNDS[measure]
                worst = float(found.of(method, measure).max())
                wanted.append((f"{method}: {text}, all seeds", worst, worst <= most))
                continue
            way = found.measures[measure]
            best = max(rivals, key=lambda name: way * found.interval(name, measure)[0])
            ahead, half = interval(found.of(method, measure) - found.of(best, measure))
            if way < 0:
                text = f"nats/byte behind the best rival at capacity {CAPACITIES[measure]} ({best}, ± {half:.2g})"
                wanted.append((f"{method}: {text} ≤ {MARGIN:g}", ahead, ahead <= MARGIN))
            else:
                text = f"more {measure} than every rival (most: {best}, ± {half:.2g})"
                wanted.append((f"{method}: {text}", ahead, ahead > 0))
    return _aims(wanted)


def _aims(wanted: Sequence[tuple[str, float, bool]]) -> list[dict[str, Any]]:
    """Return aims as results hold them, from what was wanted, what was found, and whether that reaches it."""
    return [{"wanted": text, "found": value, "reached": bool(reached)} for text, value, reached in wanted]


def relative(size: Size, say: Say) -> dict[str, Any]:
    """Compare some routers, their affinities absolute and relative: what is due to these, and what to prices."""
    (problem, absolute), (_, beside) = (_compared(size, BOTH_WAYS, way, say) for way in (False, True))
    shown = {LOSS: 4, LOSS_ROOMY: 4, HELD_VIOLATION: 3, BYTE_BITS: 3, DOMAIN_BITS: 3}
    rows, changes = [], {}
    for router in BOTH_WAYS:
        row, changes[router] = [router], {}
        for measure, places in shown.items():
            before, after = absolute.of(router, measure), beside.of(router, measure)
            changes[router][measure] = interval(after - before)
            change, half = changes[router][measure]
            row.append(
                f"{before.mean():.{places}f} → {after.mean():.{places}f} ({change:+.{places}f} ± {half:.{places}f})"
            )
        rows.append(row)
    rivals = [name for name in BOTH_WAYS if name not in ("market", VACANT)]
    best = min(rivals, key=lambda name: beside.interval(name, LOSS)[0])
    behind, half = interval(beside.of("market", LOSS) - beside.of(best, LOSS))
    held, spread = beside.interval("market", HELD_VIOLATION)
    worst, lost = (float(beside.of("market", measure).max()) for measure in (HELD_VIOLATION, LOST))
    even, most = BOUNDS[HELD_VIOLATION]
    wanted = [
        (f"market: {even}, mean of the seeds (± {spread:.2g}, worst {worst:.2g})", held, held <= most),
        (f"market: {BOUNDS[LOST][0]}, all seeds", lost, lost <= BOUNDS[LOST][1]),
        (
            f"market: nats/byte behind the best rival at capacity 1.0, affinities of all relative "
            f"({best}, ± {half:.2g}) ≤ {MARGIN:g}",
            behind,
            behind <= MARGIN,
        ),
    ]
    return {
        "name": "relative",
        "problem": f"{problem}, affinities absolute → relative",
        "header": ["router", *shown],
        "rows": rows,
        "changes": changes,
        "aims": _aims(wanted),
    }


def objectives(size: Size, say: Say) -> dict[str, Any]:
    """Compare objectives of the experts' own with the global one, and trade with none."""
    found = compare_objectives(
        machine_domains(),
        shape=size.shape,
        settings=Settings(batch=size.batch),
        seeds=size.seeds,
        steps=size.own_steps,
        further=size.further,
        points=4,
        held_windows=size.windows,
        watch=say,
    )
    problem = f"{size.own_steps} steps of {size.batch * size.shape.context:,} bytes, {size.seeds} seeds"
    pairs = [(NO_TRADE, "global"), (NO_TRADE, "revenue"), ("global", "revenue"), ("global", "gain")]
    return _tabled("objectives", problem, found.comparison) | {
        "aims": [],
        "unwon": found.comparison.unwon(),
        "pareto": {f"{before} to {after}": found.pareto(before, after).lines() for before, after in pairs},
        "steps": found.steps.tolist(),
        "curves": {name: curve.mean(axis=1).tolist() for name, curve in found.curves.items()},
    }


def overhead(size: Size, say: Say) -> dict[str, Any]:
    """Time a step of training with each router, in turns, so that whatever else the machine does hits all alike."""
    names = ("none", "market", VACANT, SPECIALIST, "auxiliary", "sinkhorn", "auction", DENSE)
    corpus, settings = split(machine_domains())[0], Settings(batch=size.batch)
    tokens, times = size.batch * size.shape.context, {name: [] for name in names}
    states: dict[str, Any] = dict.fromkeys(names)
    for number in range(size.rounds + 1):
        for name in names:
            paces: list[float] = []

            def pace(progress: Progress, paces: list[float] = paces) -> None:
                paces.append(1e3 * tokens / progress.speed)

            done = train(
                corpus,
                dataclasses.replace(size.shape, router=name),
                settings,
                steps=(number + 1) * size.chunk,
                state=states[name],
                every=size.chunk,
                watch=pace,
            )
            states[name] = done.training
            # The first round compiles.
            times[name] += paces if number else []
        say(f"  overhead: round {number} of {size.rounds}")
    ratios = {name: float(np.median(np.divide(times[name], times["none"]))) for name in names}
    added = {name: ratios[name] - 1 for name in ("market", VACANT)}
    rows = [[name, f"{np.median(times[name]):.1f}", f"{min(times[name]):.1f}", f"{ratios[name]:.3f}"] for name in names]
    return {
        "name": "overhead",
        "problem": f"steps of {tokens:,} bytes, {size.rounds} turns of {size.chunk}",
        "header": ["router", "ms a step", "least", "× none"],
        "rows": rows,
        "aims": _aims(
            [(f"{name}: adds at most {ADDED:.0%} to a step", share, share <= ADDED) for name, share in added.items()]
        ),
    }


def _tabled(name: str, problem: str, found: Comparison) -> dict[str, Any]:
    heads, values_shown = found.table()
    # Times belong to `overhead`, which takes them in turns.
    header, *rows = (
        [cell for head, cell in zip(heads, row, strict=True) if head != PACE] for row in (heads, *values_shown)
    )
    losses = {
        method: dict(zip(found.domains, map(float, found.losses[row].mean(axis=0)), strict=True))
        for row, method in enumerate(found.methods)
    }
    values = {
        method: {
            measure: [float(value) if np.isfinite(value) else None for value in found.of(method, measure)]
            for measure in found.measures
        }
        for method in found.methods
    }
    return {
        "name": name,
        "problem": problem,
        "header": header,
        "rows": rows,
        "domains": losses,
        "values": values,
        "verdicts": [dataclasses.asdict(verdict) for verdict in found.verdicts()],
    }


PARTS = {"overhead": overhead, "routers": routers, "relative": relative, "objectives": objectives}


def show(part: dict[str, Any]) -> None:
    """Print a part's table, what the market does not win, who is better off, and the aims."""
    table = Table(title=f"{part['name']}: {part['problem']}", title_justify="left")
    for number, name in enumerate(part["header"]):
        table.add_column(name, justify="right" if number else "left")
    for row in part["rows"]:
        table.add_row(*row)
    Console(width=260).print(table)
    for line in part.get("unwon", ()):
        report.say(f"  {line}")
    for title, lines in part.get("pareto", {}).items():
        report.say(f"from {title}")
        for line in lines:
            report.say(f"  {line}")
    for aim in part["aims"]:
        report.say(f"{'reached' if aim['reached'] else 'NOT REACHED'}: {aim['wanted']}: {aim['found']:.4g}")


def measure(size: Size, names: Sequence[str], say: Say = report.say) -> list[dict[str, Any]]:
    """Run and print some of `PARTS`; return their results, ready for JSON."""
    found = []
    for name in names:
        found.append(PARTS[name](size, say))
        show(found[-1])
    return found


def main(arguments: list[str]) -> int:
    """Run the parts asked for, print them, write them if told to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts_training", description=__doc__)
    parser.add_argument("--only", action="append", choices=tuple(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how it does")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go, as JSON")
    options = parser.parse_args(arguments)
    found = measure(QUICK if options.quick else FULL, options.only or tuple(PARTS))
    if options.out is not None:
        options.out.write_text(
            json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
