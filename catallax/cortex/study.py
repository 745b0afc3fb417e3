"""What `catallax run cortex` does: learn, encode what was held out, compare, and write tables, pictures, report."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..errors import InputError
from ..runs.files import write_whole
from ..runs.store import RunContext
from ..study import Outcome
from . import activations_study, memory_study, volume_study
from .certify import scores
from .compare import MEASURES, compare
from .figures import draw_dictionary, draw_intervals, draw_lines, draw_pictures, draw_rasters
from .frontier import Question, frontier, in_motion, rebuilt
from .gabor import fit_gabors
from .images import panned, patches, photographs, read_image, whiten
from .learn import Learning, Lesson, learn
from .options import EPOCHS, PATCHES, PENALTY, SEEDS, SIZE, Options
from .sections import Findings, sections, summary

UNITS = 256
"""How many neurons learn from images if nothing else is asked for."""

HELD_OUT = 4
"""One part in so many of each image, at its right or lower end, is kept from learning."""

ENCODED, SHOWN = 2000, 200
"""So many patches of what was held out are encoded and certified, and so many of these are compared."""

PRICES = (0.7, 1.0, 1.4, 2.0)
"""Prices of activity at which methods are compared, in units of the penalty."""

FRAMES, WINDOWS = 16, 12
"""A window moves for so many frames, in so many places."""

CROP = 10
"""A reconstruction shows at most so many patches a side."""

COMPARED: dict[str, Any] = {"units": 96, "active": 6, "passes": 1, "steps": 500, "held_out": 200}
"""What the comparison over seeds is done with: less than the rest, since every seed learns everything anew."""

COMPARED_PATCHES, COMPARED_SIZE, COMPARED_WINDOWS = 6000, 8, 2
"""How many patches the comparison over seeds has, their side, and in how many places a seed's window moves."""

PANELS = ("error", "redundancy", "specialisation", "turnover")
"""The measures that are drawn."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stimuli:
    """What units learn from, and what they have not seen.

    Args:
        names: The images' names.
        images: The whitened images.
        unseen: The part of each image that is held out.
        learnt: Patches to learn from, (samples, inputs).
        source: From which image each of these is.
        held: Patches of what is held out.
        attribution: Whose photographs they are.
    """

    names: list[str]
    images: list[np.ndarray]
    unseen: list[np.ndarray]
    learnt: np.ndarray
    source: np.ndarray
    held: np.ndarray
    attribution: str


def execute(options: Options, run: RunContext) -> Outcome:
    """Learn from images, train autoencoders on a file of activations, or show memory or volume transmission.

    Raises:
        InputError: for input that is refused; nothing has been written then.
    """
    if run.devices > 1:
        raise InputError(f"the study of cortex runs on one device; leave out --devices {run.devices}")
    if options.show is not None:
        return {"memory": memory_study, "volume": volume_study}[options.show].execute(options, run)
    if options.array is not None:
        return activations_study.execute(options, run)
    began = time.monotonic()
    stimuli = cut(options, run.seed)
    question = learnt(options, run, stimuli)
    run.progress.update(round=len(stimuli.learnt), note="encoding what was held out")
    codes = question.compete(stimuli.held)
    findings = Findings(
        options=options,
        names=stimuli.names,
        question=question,
        samples=len(stimuli.learnt),
        codes=codes,
        scores=scores(codes.problem, codes.activity),
        seen=activations_study.past(run),
        gabors=fit_gabors(question.dictionary),
    )
    findings = shown(options, run, stimuli, findings)
    findings = dataclasses.replace(findings, seconds=time.monotonic() - began)
    write_tables(run, findings)
    findings = dataclasses.replace(findings, figures=pictures(run, stimuli, findings))
    return Outcome(
        title=f"{len(question.dictionary):,} competing neurons and {', '.join(stimuli.names)}",
        status="stopped" if run.stopped else str(codes.status),
        certificates=list(codes.certificates),
        summary=summary(findings),
        sections=sections(findings),
        attribution=stimuli.attribution,
    )


def cut(options: Options, seed: int) -> Stimuli:
    """Read the images, whiten them, keep a part of each from learning, and cut patches.

    Raises:
        InputError: naming the image that cannot be used; or if there are fewer patches than units.
    """
    size = options.size or SIZE
    if options.data:
        found = [(path.name, read_image(path, least=size), path) for path in options.data]
        attribution = ""
    else:
        found = [(one.name, one.pixels, None) for one in photographs()]
        attribution = "\n\n".join(one.attribution for one in photographs())
    images, parts = [], []
    for _, pixels, path in found:
        try:
            images.append(whiten(pixels))
            parts.append(parted(images[-1], size))
        except InputError as error:
            raise InputError(error.message, file=path) from None
    seen, unseen = map(list, zip(*parts, strict=True))
    learnt, source = drawn(seen, size, options.patches, PATCHES, seed)
    held, _ = drawn(unseen, size, None, ENCODED, seed)
    units = options.units or UNITS
    if len(learnt) < units:
        raise InputError(
            f"the images give {len(learnt):,} patches to learn from, fewer than {units:,} units; "
            "give larger images, or ask for fewer --units"
        )
    return Stimuli([name for name, *_ in found], images, unseen, learnt, source, held, attribution)


def parted(picture: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a picture across its longer side: what is learnt from, and what is held out.

    Raises:
        InputError: if there is no room for a patch in both.
    """
    axis = int(np.argmax(picture.shape[::-1]) == 0)
    length = picture.shape[axis]
    if length < 2 * size:
        rows, columns = picture.shape
        raise InputError(
            f"the image has {rows} × {columns} pixels, too few for patches of {size} × {size} to learn from and others "
            "to hold out; give a larger one, or a smaller --size"
        )
    first = length - max(size, length // HELD_OUT)
    seen, unseen = np.split(picture, [first], axis=axis)
    return seen, unseen


def drawn(
    pictures: Sequence[np.ndarray], size: int, asked: int | None, usual: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many patches as asked for; if nothing was, the usual number, or all where they are fewer."""
    if asked is not None:
        return patches(pictures, size, asked, seed=seed)
    try:
        return patches(pictures, size, usual, seed=seed)
    except InputError:
        return patches(pictures, size, None, seed=seed)


def learnt(options: Options, run: RunContext, stimuli: Stimuli) -> Question:
    """Learn receptive fields, batch by batch; continue where a run was interrupted, and stop where it is."""
    units, penalty, law = options.units or UNITS, options.penalty or PENALTY, options.law or "fast"
    epochs, inputs = options.epochs or EPOCHS, stimuli.learnt.shape[1]
    blank = Learning(
        np.zeros((units, inputs), np.float32), np.zeros(units, np.float32), np.zeros(units, np.int64), 0, 0
    )
    state = run.restore(blank)

    def watch(now: Learning, lesson: Lesson) -> bool:
        said = dataclasses.asdict(lesson)
        run.record({name: said[name] for name in ("seen", "objective", "unexplained", "active", "revived")})
        run.checkpoint(now)
        run.progress.update(round=lesson.seen, total=epochs * len(stimuli.learnt), note="patches learnt from")
        return run.stopped

    done = learn(
        stimuli.learnt,
        units,
        penalty,
        signed=options.signed,
        epochs=epochs,
        seed=run.seed,
        # The reference dynamics comes to the same rest, but too slowly to learn with.
        law="fast" if law == "competition" else law,
        state=state if state.batches else None,
        watch=watch,
    )
    return Question(done.dictionary, penalty, options.signed, law, options.tol, options.max_rounds)


def shown(options: Options, run: RunContext, stimuli: Stimuli, findings: Findings) -> Findings:
    """Compare with methods that do not compete, on the same fields and over seeds; nothing if the run is stopped.

    Raises:
        KeyboardInterrupt: if the user wishes to stop meanwhile; what was learnt is in the checkpoint.
    """

    def watch(note: str) -> None:
        run.progress.update(round=findings.samples, note=note)
        if run.stopped:
            raise KeyboardInterrupt

    if run.stopped:
        return findings
    question, size = findings.question, options.size or SIZE
    front = frontier(question, stimuli.held[:SHOWN], [price * question.penalty for price in PRICES], watch)
    watch("a window that moves")
    moving = moved(stimuli.unseen, size, WINDOWS, run.seed)
    motion = None if moving is None else in_motion(question, moving)
    seeds = SEEDS if options.seeds is None else options.seeds
    findings = dataclasses.replace(findings, front=front, motion=motion)
    if not seeds:
        return findings
    try:
        learnt, source = drawn(stimuli.images, COMPARED_SIZE, None, COMPARED_PATCHES, run.seed)
        moving = moved(stimuli.images, COMPARED_SIZE, COMPARED_WINDOWS * seeds, run.seed)
        found = compare(learnt, source, moving, seeds=seeds, watch=watch, **COMPARED)
    except InputError as error:
        return dataclasses.replace(findings, why_not=f"It could not be made: {error}.")
    return dataclasses.replace(findings, comparison=found)


def moved(pictures: Sequence[np.ndarray], size: int, windows: int, seed: int) -> np.ndarray | None:
    """Move windows across the first picture that has room for them; None if no picture has."""
    for picture in pictures:
        for step in ((0, 1), (1, 0)):
            try:
                return panned(picture, size, FRAMES, step=step, windows=windows, seed=seed)
            except InputError:
                continue
    return None


def write_tables(run: RunContext, findings: Findings) -> None:
    """Write the dictionary, the units, the activity of what was held out, and what was compared."""
    fields, activity = findings.question.dictionary, findings.activity
    write_whole(run.directory / "answer" / "dictionary.safetensors", save({"dictionary": np.ascontiguousarray(fields)}))
    run.write_table("units", findings.unit_table)
    sample, unit = np.nonzero(activity)
    run.write_table("activity", {"sample": sample, "unit": unit, "activity": activity[sample, unit]})
    if findings.front:
        rows = [
            {"method": method, **dict(zip(found, values, strict=True))}
            for method, found in findings.front.items()
            for values in zip(*found.values(), strict=True)
        ]
        run.write_table("frontier", columns(rows))
    if findings.motion is not None:
        run.write_table("turnover", {"method": list(findings.motion[1]), "turnover": list(findings.motion[1].values())})
    if (found := findings.comparison) is not None:
        rows = [
            {"method": method, "measure": measure, "seed": seed, "value": value}
            for method, of_method in zip(found.methods, found.values, strict=True)
            for measure, values in zip(MEASURES, of_method, strict=True)
            for seed, value in enumerate(values.tolist())
        ]
        run.write_table("comparison", columns(rows))


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Turn rows into columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def liveliest(picture: np.ndarray, side: int) -> np.ndarray:
    """Return the square of at most so many pixels a side, of those that lie side by side, that holds most."""
    starts = [range(0, max(1, length - side + 1), max(1, side // 4)) for length in picture.shape]
    squares = [picture[row : row + side, column : column + side] for row in starts[0] for column in starts[1]]
    return max(squares, key=lambda square: float(np.median(np.abs(square))))


def pictures(run: RunContext, stimuli: Stimuli, findings: Findings) -> dict[str, str]:
    """Draw what there is to see; return the pictures' texts by name."""
    question = findings.question
    drawn = {"dictionary": draw_dictionary(question.dictionary[np.argsort(-findings.used, kind="stable")])}
    drawn["learning"] = draw_lines(
        {"": findings.curve}, "patches seen", "objective per patch", marks=len(findings.curve[0]) < 60
    )
    crop = liveliest(stimuli.unseen[0], CROP * (findings.options.size or SIZE))
    drawn["reconstruction"] = draw_pictures(
        rebuilt(question, crop, [price * question.penalty for price in (2, 1, 0.5)])
    )
    if findings.front:
        curves = {method: (found["active"], found["error"]) for method, found in findings.front.items()}
        drawn["frontier"] = draw_lines(curves, "active units", "unexplained part of the variance", log=True)
    if findings.motion is not None:
        seen = {method: activity[:, 0] for method, activity in findings.motion[0].items()}
        drawn["motion"] = draw_rasters(
            {name: seen[name] for name in ("competition", "matching pursuit") if name in seen}
        )
    if (found := findings.comparison) is not None:
        panels = {name: np.array([found.interval(method, name) for method in found.methods]).T for name in PANELS}
        panels = {name: (pair[0], pair[1]) for name, pair in panels.items() if np.isfinite(pair[0]).any()}
        drawn["comparison"] = draw_intervals(found.methods, panels)
    return {name: run.write_figure(name, figure) for name, figure in drawn.items()}
