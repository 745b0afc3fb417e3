"""The part of `catallax run cortex --show memory` that lets neurons remember patterns, and draws what they recall."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..certificate import Certificate
from ..errors import InputError
from ..study import Outcome, Section
from .figures import draw_lines, draw_pictures
from .images import photographs
from .memory import cubic, exponential, hebb, recall, recall_table
from .options import Options

if TYPE_CHECKING:
    from ..runs.store import RunContext

UNITS, LEAST, SEEDS = 1000, 100, 3
"""How many neurons remember if nothing else is asked for; how many must; and how many networks are asked."""

LOADS = (0.02, 0.05, 0.08, 0.1, 0.12, 0.13, 0.14, 0.15, 0.16, 0.18, 0.2)
"""Patterns per neuron; the capacity of Hebb's rule is 0.138."""

HELD = (0.05, 0.1)
"""Loads at which cues are noisy, and neurons die."""

NOISE = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5)
REMOVED = (0.0, 0.2, 1 / 3, 0.5, 0.6, 0.7, 0.8, 0.9)

DENSE_UNITS, DENSE_LOADS = 40, (0.1, 0.5, 1.0, 4.0, 10.0, 40.0)
"""How many neurons dense memories are shown with, and at which loads."""

SIDE = 32
"""Pixels a side of the photograph that is remembered; one neuron each."""

WRONG, GONE = 0.3, 1 / 3
"""Of the photograph's cue so many pixels are flipped, and so many neurons die."""

SURE = 0.12
"""Up to this load the certificate compares with the theory, whose limit is one of many neurons."""

RULES = {"Hebb": hebb, "cubic": cubic, "exponential": exponential}


def execute(options: Options, run: "RunContext") -> Outcome:
    """Recall against load, noise and loss of neurons; write tables and pictures."""
    began = time.monotonic()
    units = options.units or UNITS
    if units < LEAST:
        raise InputError(f"--units is {units}, but a memory takes at least {LEAST}")
    tables = {name: averaged(run, name, **asked) for name, asked in questions(units).items()}
    pictures, rest = photograph(run.seed)
    figures = {name: run.write_figure(name, drawn) for name, drawn in draw(tables, pictures).items()}
    for name, table in tables.items():
        run.write_table(name, table)
    claims = [against_theory(tables["load"], units), rest]
    capacity = measured_capacity(tables["load"])
    said = [
        f"capacity: half of the patterns are recalled at {capacity:.3f} patterns per neuron; the theory for many "
        "neurons says 0.138",
        f"after the loss of a third of the neurons {at(tables['removed'], 'removed', 1 / 3):.0%} of the patterns are "
        f"recalled at {HELD[0]:g} patterns per neuron",
        f"{time.monotonic() - began:.1f} s",
    ]
    return Outcome(
        title=f"A memory in patterns: {units:,} neurons",
        status="finished",
        certificates=claims,
        summary=said,
        sections=sections(units, capacity, tables, figures),
        attribution="\n\n".join(one.attribution for one in photographs()[:1]),
    )


def questions(units: int) -> dict[str, dict[str, Any]]:
    """Return what `recall_table` is asked, by the name of the answer's table."""
    dense = {"units": DENSE_UNITS, "loads": DENSE_LOADS, "noise": (0.1,)}
    return {
        "load": {"units": units, "loads": LOADS},
        "noise": {"units": units, "loads": HELD, "noise": NOISE},
        "removed": {"units": units, "loads": HELD, "removed": REMOVED},
        **{f"dense-{name}": {**dense, "separation": rule} for name, rule in RULES.items()},
    }


def averaged(run: "RunContext", name: str, **asked: Any) -> dict[str, np.ndarray]:
    """Ask several networks, and average what they recall.

    Raises:
        KeyboardInterrupt: if the user wishes to stop.
    """
    found = []
    for seed in range(SEEDS):
        run.progress.update(round=seed, total=SEEDS, note=f"recall: {name}")
        if run.stopped:
            raise KeyboardInterrupt
        found.append(recall_table(**asked, seed=run.seed + seed))
    asked_for = {name: np.array(found[0][name]) for name in ("load", "noise", "removed", "expected")}
    return asked_for | {name: np.mean([one[name] for one in found], axis=0) for name in ("overlap", "recalled")}


def at(table: Mapping[str, np.ndarray], column: str, value: float) -> float:
    """Return the share of patterns recalled at a value of a column, at the first of the loads."""
    rows = (table[column] == value) & (table["load"] == table["load"][0])
    return float(table["recalled"][rows][0])


def measured_capacity(table: Mapping[str, np.ndarray]) -> float:
    """Return the load at which half of the patterns are recalled, between the two measured ones about it."""
    load, recalled = table["load"], table["recalled"]
    return float(np.interp(-0.5, -np.minimum.accumulate(recalled), load))


def against_theory(table: Mapping[str, np.ndarray], units: int) -> Certificate:
    """Compare the overlaps with those of the theory of Amit, Gutfreund & Sompolinsky, well below capacity."""
    sure = table["load"] <= SURE
    away = float(np.max(np.abs(table["overlap"] - table["expected"])[sure]))
    return Certificate("theory", away, 20 / units, "how far overlaps are from those of a network of very many neurons")


def photograph(seed: int) -> tuple[dict[str, np.ndarray], Certificate]:
    """Let neurons, one a pixel, remember a photograph among other patterns, and recall it from a bad cue.

    Returns:
        What was shown and what was recalled, pictures of ±1 by name, by all neurons and by those that are left; and
        the check that what all recalled is at rest under couplings that are written down, in float64.
    """
    draw = np.random.default_rng(seed)
    units = SIDE * SIDE
    patterns = draw.choice([-1.0, 1.0], (round(HELD[0] * units), units))
    patterns[0] = black_and_white(photographs()[0].pixels).ravel()
    cue = np.where(draw.random(units) < WRONG, -patterns[0], patterns[0])
    found = {"learnt": patterns[0]}
    for alive, whose in ((np.ones(units), ""), (draw.random(units) >= GONE, ", a third dead")):
        shown = (jnp.asarray(one, float) for one in (patterns * alive, cue[None] * alive))
        found[f"shown{whose}"] = cue * alive
        found[f"recalled{whose}"] = np.asarray(recall(*shown, key=jax.random.key(seed)))[0]
    couplings = patterns.T @ patterns - len(patterns) * np.eye(units)
    recalled = found["recalled"].astype(np.float64)
    unsettled = float(np.mean((couplings @ recalled) * recalled < 0))
    claim = Certificate("rest", unsettled, 0.0, "the share of neurons whose couplings, written down, would flip them")
    return {name: one.reshape(SIDE, SIDE) for name, one in found.items()}, claim


def black_and_white(pixels: np.ndarray) -> np.ndarray:
    """Return the middle of an image as `SIDE` × `SIDE` cells of ±1, half of them each."""
    block = min(pixels.shape) // SIDE
    top, left = ((length - block * SIDE) // 2 for length in pixels.shape)
    middle = pixels[top : top + block * SIDE, left : left + block * SIDE]
    means = middle.reshape(SIDE, block, SIDE, block).mean(axis=(1, 3))
    return np.where(means > np.median(means), 1.0, -1.0)


def draw(tables: Mapping[str, Mapping[str, np.ndarray]], pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the pictures by name."""
    load = tables["load"]
    curves = {"overlap": (load["load"], load["overlap"]), "share recalled": (load["load"], load["recalled"])}
    curves["overlap, theory"] = (load["load"], load["expected"])

    def by_load(table: Mapping[str, np.ndarray], column: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        rows = {f"{one:g} patterns per neuron": table["load"] == one for one in HELD}
        return {name: (table[column][row], table["overlap"][row]) for name, row in rows.items()}

    dense = {name: tables[f"dense-{name}"] for name in RULES}
    overlap = "overlap with the pattern asked for"
    return {
        "photograph": draw_pictures(pictures, across=3),
        "load": draw_lines(curves, "patterns per neuron", "overlap, or share"),
        "noise": draw_lines(by_load(tables["noise"], "noise"), "part of the cue that is wrong", overlap),
        "removed": draw_lines(by_load(tables["removed"], "removed"), "part of the neurons that died", overlap),
        "dense": draw_lines(
            {name: (one["load"], one["overlap"]) for name, one in dense.items()},
            "patterns per neuron",
            overlap,
            log=True,
        ),
    }


def sections(
    units: int, capacity: float, tables: Mapping[str, Mapping[str, np.ndarray]], figures: Mapping[str, str]
) -> list[Section]:
    """Return the body of the report."""
    networks = f"Means over {SEEDS} networks of {units:,} neurons, 20 patterns each."
    load = {name: tables["load"][name] for name in ("load", "overlap", "recalled", "expected")}
    return [
        Section(
            "What is remembered",
            "Neurons learn patterns of active and silent by Hebb's rule: two that are active together come to excite "
            "each other. Shown a pattern with faults, each neuron follows what the others tell it, until none has "
            "cause to change. What is public is how well the network's state agrees with each pattern; no table of "
            f"couplings is needed.\n\nBelow, neurons remember a photograph, one pixel each, among other patterns. "
            f"{WRONG:.0%} of the pixels shown are wrong; then a third of the neurons die as well.",
            figure=figures["photograph"],
            note="White is active, black silent, grey dead.",
        ),
        Section(
            "How much a network remembers",
            f"Half of the patterns are recalled (overlap above 0.95) at {capacity:.3f} patterns per neuron. Theory "
            "for very many neurons has recall break down at 0.138 (Amit, Gutfreund & Sompolinsky 1985); smaller "
            "networks keep a few patterns beyond.",
            load,
            figures["load"],
            networks,
            file="answer/load.csv",
        ),
        Section("How wrong a cue may be", figure=figures["noise"], note=networks, file="answer/noise.csv"),
        Section(
            "No single neuron holds it",
            "Neurons die after learning, at random; the others keep what they know. The overlap is taken among those "
            "that are left: the memory fades, and no part of it is lost with a neuron.",
            figure=figures["removed"],
            note=networks,
            file="answer/removed.csv",
        ),
        Section(
            "Memories that hold more than there are neurons",
            "A neuron that weighs patterns by more than their overlap hears the nearest one above all others: the cube "
            "of the overlap (Krotov & Hopfield 2016) or its exponential (Demircigil et al. 2017), which is the "
            "attention of language models. A tenth of each cue is wrong.",
            figure=figures["dense"],
            note=f"Means over {SEEDS} networks of {DENSE_UNITS} neurons.",
            file="answer/dense-exponential.csv",
        ),
    ]
