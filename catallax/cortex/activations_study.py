"""The part of `catallax run cortex` that trains sparse autoencoders on a file of activations."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from safetensors.numpy import load_file

from ..certificate import Certificate
from ..errors import InputError
from ..study import Outcome, Section
from .activations import read_activations
from .autoencoder import Autoencoder, Training, first_training, load, train
from .figures import draw_lines
from .labels import class_section, preferred, read_labels
from .measure import effective_units, redundancy, unexplained
from .options import ACTIVE, STEPS, Options
from .pursuit import refit

if TYPE_CHECKING:
    from ..runs.store import RunContext

KINDS = ("competition", "topk", "jumprelu")
"""What is trained if nothing else is asked for."""

HELD_OUT, MEASURED = 10, 2000
"""The last part in so many of the samples is kept from training; at most so many of these are measured."""

SLACK = 1e-4
"""How far the exported file, read anew, may be from what was measured."""

WHAT = {
    "competition": "units compete for what each explains, at a falling price; fields learn by Hebb's rule",
    "topk": "the k units of largest drive",
    "jumprelu": "units whose drive exceeds a threshold of their own",
    "relu": "units with a positive drive, and a price on all activity",
    "matryoshka": "units above a common price; nested groups of units explain alone",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
    """What one autoencoder makes of samples that it has not seen.

    Args:
        model: The autoencoder.
        activity: Shape (samples, units).
        unexplained: The share of variance that is left, with its own amplitudes.
        fitted: The same with amplitudes fitted anew to the active units.
        redundancy: Mean |cosine| of fields active together.
        seconds: For encoding these samples, compiled.
    """

    model: Autoencoder
    activity: np.ndarray
    unexplained: float
    fitted: float
    redundancy: float
    seconds: float

    @property
    def used(self) -> np.ndarray:
        """The share of samples on which each unit is active, shape (units,)."""
        return np.count_nonzero(self.activity, axis=0) / len(self.activity)


def execute(options: Options, run: "RunContext") -> Outcome:
    """Train each kind of autoencoder, measure it on what was held out, and export it.

    Raises:
        InputError: for input that is refused; nothing has been written then.
    """
    began = time.monotonic()
    path = options.array
    assert path is not None
    data = read_activations(path, tensor=options.tensor, units=options.units)
    units, active = sizes(options, data)
    rest = len(data) - max(1, len(data) // HELD_OUT)
    seen = slice(rest, rest + MEASURED)
    held = np.asarray(data[seen], np.float32)
    labels = None if options.labels is None else read_labels(options.labels, len(data), seen)
    models = trained(options, run, data[:rest], units, active)
    coded = {kind: measured(model, held) for kind, model in models.items()}
    claims = [claim for kind, found in coded.items() for claim in certify_export(run.directory, kind, found, held)]
    write_units(run, coded, rest, labels)
    figures = pictures(run, coded)
    report = sections(options, data.shape, len(held), units, active, coded, figures)
    if labels is not None:
        report.insert(2, class_section({kind: found.activity for kind, found in coded.items()}, labels))
    return Outcome(
        title=f"Sparse autoencoders of {path.name}: {units:,} units, {active} active",
        status="stopped" if run.stopped else "trained",
        certificates=claims,
        summary=summary(coded, time.monotonic() - began),
        sections=report,
    )


def sizes(options: Options, data: np.ndarray) -> tuple[int, int]:
    """Return how many units there are and how many of them describe a sample.

    Raises:
        InputError: if there are too few samples for the units, or too few units for that.
    """
    samples, inputs = data.shape
    units, active = options.units or 2 * inputs, options.active or ACTIVE
    learnt = samples - max(1, samples // HELD_OUT)
    if learnt < units:
        raise InputError(
            f"has {samples:,} samples, of which {learnt:,} are learnt from: fewer than {units:,} units; "
            "give more, or ask for fewer --units",
            file=options.array,
        )
    if active >= units:
        raise InputError(f"{active} of {units} units cannot be active; give a smaller --active, or more --units")
    return units, active


def trained(options: Options, run: "RunContext", data: np.ndarray, units: int, active: int) -> dict[str, Autoencoder]:
    """Train one kind after another, and export each; continue where a run was interrupted.

    Raises:
        KeyboardInterrupt: after a checkpoint, if the user wishes to stop.
    """
    kinds, steps = options.kinds or KINDS, options.steps or STEPS

    def begin(kind: str) -> Training:
        return first_training(data, units, kind=kind, active=active, seed=run.seed)

    place, state = run.restore((0, begin(kinds[0])))
    models = {}
    for number, kind in enumerate(kinds):
        file = run.directory / "answer" / f"{kind}.safetensors"
        if number < place:
            models[kind] = load(file)
            continue
        # Of a checkpoint's state only the arrays are stored; what names its kind is put back here.
        start = begin(kind)
        start = jax.tree.unflatten(jax.tree.structure(start), jax.tree.leaves(state)) if number == place else start

        def watch(now: Training, kind: str = kind, number: int = number) -> None:
            left, count, step = float(now.unexplained), float(now.active), int(now.step)
            run.record({"kind": kind, "step": step, "unexplained": left, "active": count})
            run.checkpoint((number, now))
            run.progress.update(round=step, total=steps, certificate=left, note=kind)
            if run.stopped:
                raise KeyboardInterrupt

        models[kind] = train(
            data, units, kind=kind, active=active, steps=steps, seed=run.seed, watch=watch, state=start
        )
        file.parent.mkdir(exist_ok=True)
        models[kind].save(file)
    return models


def measured(model: Autoencoder, held: np.ndarray) -> Coded:
    """Encode samples that the autoencoder has not seen, and measure the code."""
    model.encode(held)
    began = time.monotonic()
    activity = model.encode(held)
    seconds = time.monotonic() - began
    fields, offset = np.asarray(model.W_dec), np.asarray(model.b_dec)
    fitted = refit(held - offset, activity, fields)
    return Coded(
        model=model,
        activity=activity,
        unexplained=unexplained(held, activity, fields, offset),
        fitted=unexplained(held, fitted, fields, offset),
        redundancy=redundancy(activity, fields),
        seconds=seconds,
    )


def certify_export(directory: Path, kind: str, found: Coded, held: np.ndarray) -> list[Certificate]:
    """Check the exported file with NumPy alone: its fields have norm one, and it leaves what was measured."""
    tensors = load_file(directory / "answer" / f"{kind}.safetensors")
    fields, offset = tensors["W_dec"].astype(np.float64), tensors["b_dec"].astype(np.float64)
    norm = float(np.max(np.abs(np.linalg.norm(fields, axis=1) - 1)))
    left = held - found.activity.astype(np.float64) @ fields - offset
    share = float(np.sum(left**2) / np.sum((held - held.mean(axis=0, dtype=np.float64)) ** 2))
    said = np.asarray(found.model.decode(found.activity), np.float64)
    away = float(np.sum((said - held) ** 2) / np.sum((held - held.mean(axis=0, dtype=np.float64)) ** 2))
    return [
        Certificate(f"{kind} norm", norm, SLACK, "how far the exported field of a unit is from norm one"),
        Certificate(
            f"{kind} export",
            abs(share - away) / max(share, 1e-12),
            SLACK,
            "how far the exported file is from leaving unexplained what the trained autoencoder leaves",
        ),
    ]


def write_units(run: "RunContext", coded: Mapping[str, Coded], first: int, labels: np.ndarray | None) -> None:
    """Write units.csv: for each unit, how often and how strongly it is active, and on which sample and class most.

    Args:
        run: Where to.
        coded: What each kind made of the samples held out.
        first: The number of the first of these in the file.
        labels: Their classes, if they are known.
    """
    parts = []
    for kind, found in coded.items():
        amounts = found.activity
        count = np.count_nonzero(amounts, axis=0)
        strongest = [
            first + int(row) if some else None for row, some in zip(amounts.argmax(axis=0), count, strict=True)
        ]
        parts.append(
            {
                "kind": [kind] * count.size,
                "unit": list(range(count.size)),
                "share active": (count / len(amounts)).tolist(),
                "mean when active": (amounts.sum(axis=0) / np.maximum(count, 1)).tolist(),
                "strongest sample": strongest,
            }
            | ({} if labels is None else dict(zip(("class", "class share"), preferred(amounts, labels), strict=True)))
        )
    run.write_table("units", {name: [value for part in parts for value in part[name]] for name in parts[0]})


def past(run: "RunContext") -> list[dict[str, Any]]:
    """Return all that the history holds, what an interrupted run wrote before it was resumed included."""
    lines = (run.directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pictures(run: "RunContext", coded: Mapping[str, Coded]) -> dict[str, str]:
    """Draw training, and how often units are used; return the pictures' texts by name."""
    history = past(run)
    curves = {}
    for kind in coded:
        rows = [(row["step"], row["unexplained"]) for row in history if row["kind"] == kind]
        curves[kind] = tuple(np.array(rows, float).T)
    uses = {}
    for kind, found in coded.items():
        used = np.sort(found.used)[::-1]
        uses[kind] = (np.arange(1, used.size + 1), used)
    drawn = {
        "training": draw_lines(curves, "steps", "unexplained part of the variance", marks=False),
        "uses": draw_lines(uses, "units, the busiest first", "active on so many samples", log=True, marks=False),
    }
    return {name: run.write_figure(name, figure) for name, figure in drawn.items()}


def summary(coded: Mapping[str, Coded], seconds: float) -> list[str]:
    """Return the terminal's lines."""
    lines = [
        f"{kind}: {found.unexplained:.4f} unexplained with {found.used.sum():.1f} units active, "
        f"{int(np.sum(found.used == 0)):,} silent"
        for kind, found in coded.items()
    ]
    return [*lines, f"{seconds:.1f} s"]


def sections(
    options: Options,
    shape: Sequence[int],
    held: int,
    units: int,
    active: int,
    coded: Mapping[str, Coded],
    figures: Mapping[str, str],
) -> list[Section]:
    """Return the body of the report."""
    text = (
        "A sparse autoencoder describes each sample by a few units, each with a field in the space of the activations. "
        "The kinds differ in who decides which units are active."
    )
    terms = {
        "File": f"{options.array}: {shape[0]:,} samples of {shape[1]:,} inputs",
        "Held out": f"the last part in {HELD_OUT} of the file, of which {held:,} samples are measured",
        "Units": f"{units:,}, of which {active} describe a sample",
        "Training": f"{options.steps or STEPS:,} steps",
    } | {kind: WHAT[kind] for kind in coded}
    return [
        Section("What was trained", text, terms=terms),
        _codes(coded),
        Section(
            "How units are used",
            "The share of held-out samples on which each unit is active. A unit that is never active explains nothing; "
            "one that is always active tells nothing.",
            figure=figures["uses"],
            note="For each unit the table says on which sample, counted from 0, it is strongest: look there for what "
            "it means.",
            file="answer/units.csv",
        ),
        Section("Training", figure=figures["training"], file="history.jsonl"),
        _export(coded),
    ]


def _codes(coded: Mapping[str, Coded]) -> Section:
    best = min(coded, key=lambda kind: coded[kind].unexplained)
    found = list(coded.values())
    table = {
        "kind": list(coded),
        "active units": [float(one.used.sum()) for one in found],
        "unexplained": [one.unexplained for one in found],
        "amplitudes fitted anew": [one.fitted for one in found],
        "redundancy": [one.redundancy for one in found],
        "effective units": [effective_units(one.activity) for one in found],
        "silent units": [int(np.sum(one.used == 0)) for one in found],
        "encoding, µs a sample": [1e6 * one.seconds / len(one.activity) for one in found],
    }
    text = (
        f"On samples that none has seen, {best} leaves least of the variance unexplained, "
        f"{coded[best].unexplained:.2%}. Compare at equal numbers of active units only."
    )
    note = (
        "Unexplained: Σ|x − x̂|² / Σ|x − mean x|². Redundancy: mean |cosine| of the fields of two units active on the "
        "same sample. Effective units: exponential of the entropy of the units' shares in all activations. A low error "
        "alone does not show that units mean something: with more features than inputs it also rewards "
        "describing their interference."
    )
    return Section("What they explain", text, table, note=note)


def _export(coded: Mapping[str, Coded]) -> Section:
    files = ", ".join(f"answer/{kind}.safetensors" for kind in coded)
    text = (
        f"{files}: the tensors W_enc (inputs, units), b_enc, W_dec (units, inputs), b_dec and threshold, as PyTorch "
        "and SAELens lay them out. One pass is z = x W_enc + b_enc; what is explained is a W_dec + b_dec."
    )
    return Section("To use them elsewhere", text)
