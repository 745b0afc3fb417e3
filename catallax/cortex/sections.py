"""The words and tables of the report on neurons that learnt from images."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..study import Section
from .certify import Scores
from .compare import MEASURES, Comparison, dense
from .frontier import Question
from .measure import effective_units, unexplained
from .options import Options
from .solve import Codes

GOOD_FIT = 0.8
"""A field counts as a Gabor function if one explains more than this part of its variance (R²)."""

MOST = 12
"""How many rows the table of learning shows."""

LAWS = {
    "fast": "All neurons take some accelerated steps together, and the strongest of each stimulus then settle among "
    "themselves, until no neuron has cause to change.",
    "kernel": "Neuron after neuron takes what the others have left unexplained, until none has cause to change.",
    "competition": "Local competition as Rozell et al. (2008) put it: every neuron's potential leans towards what it "
    "reads through its field in the residual, and what exceeds the threshold is its activity.",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """All that a report on images is made from.

    Args:
        options: What was asked for.
        names: The images' names.
        question: The dictionary learnt, and how its units compete.
        samples: How many patches were learnt from.
        codes: What the units answer to patches that they have not seen.
        scores: The objective, the gap and the number of active units of each of these.
        seen: The history of learning.
        gabors: Gabor functions fitted to the fields.
        front: Error and redundancy of each method at several prices, as `frontier` returns them.
        motion: What each method does when the input moves, as `in_motion` returns it; None if nothing could move.
        comparison: Competition against none over seeds, if it was made.
        why_not: Why it was not.
        seconds: From reading the images to the answer.
        figures: The pictures' texts by name.
    """

    options: Options
    names: Sequence[str]
    question: Question
    samples: int
    codes: Codes
    scores: Scores
    seen: Sequence[Mapping[str, Any]]
    gabors: Any
    front: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    motion: tuple[dict[str, np.ndarray], dict[str, float]] | None = None
    comparison: Comparison | None = None
    why_not: str = "It was not asked for."
    seconds: float = 0.0
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def activity(self) -> np.ndarray:
        """What the units answer to what was held out, an array of shape (samples, units)."""
        return dense(self.codes.activity)

    @property
    def used(self) -> np.ndarray:
        """The share of held-out patches on which each unit is active, shape (units,)."""
        return np.count_nonzero(self.activity, axis=0) / len(self.activity)

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Patches seen so far, and the objective of each batch before the neurons learn from it."""
        rows = [(row["seen"], row["objective"]) for row in self.seen]
        return tuple(np.array(rows, float).T) if rows else (np.zeros(0), np.zeros(0))

    @property
    def error(self) -> float:
        """The share of the held-out patches' variance that is left unexplained."""
        return unexplained(self.codes.problem.stimuli, self.codes.activity, self.question.dictionary)

    @property
    def unit_table(self) -> dict[str, np.ndarray]:
        """Each unit: how often and how strongly it is active, and how well a Gabor function explains its field."""
        amount, count = np.abs(self.activity), np.count_nonzero(self.activity, axis=0)
        return {
            "unit": np.arange(count.size),
            "share active": self.used,
            "mean when active": amount.sum(axis=0) / np.maximum(count, 1),
            "gabor r2": np.asarray(self.gabors.r2, np.float64),
        }

    @property
    def gabor_share(self) -> float:
        """The share of fields that are Gabor functions."""
        return float(np.mean(self.gabors.r2 > GOOD_FIT))


def summary(findings: Findings) -> list[str]:
    """Return the terminal's lines."""
    active, units = findings.scores.active, len(findings.question.dictionary)
    lines = [
        f"held out: {active.mean():.1f} of {units:,} neurons active per patch, objective "
        f"{findings.scores.objective.mean():.5f}, {findings.error:.1%} of the variance unexplained",
        f"{findings.gabor_share:.0%} of the receptive fields are Gabor functions (R² > {GOOD_FIT:g}); "
        f"{np.count_nonzero(findings.used == 0):,} neurons are silent",
    ]
    if findings.front:
        rows = _asked(findings.front, findings.question.penalty)
        parts = [f"{name} {row['error']:.3f}" for name, row in rows.items()]
        lines.append(f"unexplained, amplitudes fitted anew: {', '.join(parts)}")
    if findings.motion is not None:
        parts = [f"{name} {value:.3f}" for name, value in findings.motion[1].items()]
        lines.append(f"active units replaced per frame of moving input: {', '.join(parts)}")
    return [*lines, f"{findings.seconds:.1f} s"]


def sections(findings: Findings) -> list[Section]:
    """Return the body of the report."""
    found = [_question(findings), _dictionary(findings), _reconstruction(findings)]
    if findings.front:
        found.append(_frontier(findings))
    if findings.motion is not None:
        found.append(_motion(findings))
    return [*found, *_comparison(findings), _learning(findings), _words()]


def _question(findings: Findings) -> Section:
    question = findings.question
    units, inputs = question.dictionary.shape
    side = round(inputs**0.5)
    text = (
        "Every neuron reads what remains unexplained of a patch, through its own receptive field; where two fields "
        "overlap, whichever explains more silences the other. At rest the activity is the one of least objective: half "
        "the squared error plus a price on all activity."
    )
    terms = {
        "Images": ", ".join(findings.names) + "; whitened, and the last quarter of each, across its longer side, is "
        "kept from learning",
        "Patches": f"{findings.samples:,} of {side} × {side} pixels to learn from, {len(findings.scores.active):,} of "
        "what was held out; flat ones left out, each scaled to norm one",
        "Neurons": f"{units:,}, activity {'of either sign' if question.signed else 'of at least zero'}",
        "Penalty": f"λ = {question.penalty:g}, the price of a unit of activity",
        "Law of motion": LAWS[question.law],
    }
    return Section("What was asked", text, terms=terms)


def _dictionary(findings: Findings) -> Section:
    used, gabors = findings.used, findings.gabors
    units = used.size
    text = (
        f"Each square is the receptive field of one neuron, the busiest first. A Gabor function, a wave under a bell, "
        f"explains more than {GOOD_FIT:.0%} of the variance of {findings.gabor_share:.0%} of them, which is how simple "
        f"cells of the visual cortex are described; the median R² is {np.median(gabors.r2):.2f}. "
        f"On the patches held out, the work is spread over {effective_units(findings.activity):,.0f} of {units:,} "
        f"neurons (exponential of the entropy of their shares), and {np.count_nonzero(used == 0):,} are silent."
    )
    shown = f"The first {256} of {units:,}. " if units > 256 else ""
    note = f"{shown}Grey is zero; each field is scaled to its own largest value."
    return Section(
        "What the neurons have come to look for",
        text,
        figure=findings.figures.get("dictionary"),
        note=note,
        file="answer/units.csv",
    )


def _reconstruction(findings: Findings) -> Section:
    active = findings.scores.active
    text = (
        f"On patches that no neuron has seen, {active.mean():.1f} of {len(findings.question.dictionary):,} neurons are "
        f"active on average, and leave {findings.error:.1%} of the variance unexplained. Below, a part of the first "
        "image's held-out end, whitened, and what each price of activity leaves of it."
    )
    quarters = np.quantile(active, [0.1, 0.5, 0.9]).astype(int)
    note = (
        f"In one patch of ten at most {quarters[0]} neurons are active, in half at most {quarters[1]}, in nine of ten "
        f"at most {quarters[2]}. Amplitudes are fitted anew to the active neurons."
    )
    return Section(
        "What they make of a picture", text, figure=findings.figures.get("reconstruction"), note=note,
        file="answer/activity.csv",
    )  # fmt: skip


def _frontier(findings: Findings) -> Section:
    rows = _asked(findings.front, findings.question.penalty)
    names, error = list(rows), {name: row["error"] for name, row in rows.items()}
    better = [name for name in names[1:] if error[name] < error["competition"]]
    worse = [name for name in names[1:] if error[name] > error["competition"]]
    said = [f"less than {_listed(worse)}"] if worse else []
    said += [f"more than {_listed(better)}"] if better else []
    text = (
        "The same receptive fields, and four ways to decide which neurons are active: competition; each neuron by "
        "its own drive, as if inhibition were cut; and two loops outside the neurons that pick one after another. The "
        "number of active units is that of competition, and amplitudes are fitted anew for all.\n\n"
        f"At the penalty asked for, competition leaves {error['competition']:.1%} of the variance unexplained"
        + (f", {' and '.join(said)}." if said else ".")
    )
    table = {
        "method": names,
        "active units": [row["active"] for row in rows.values()],
        "unexplained": list(error.values()),
        "redundancy": [row["redundancy"] for row in rows.values()],
    }
    note = (
        "Pursuit sees all neurons at once and decides for them, which no neuron could. The soft threshold of this "
        "competition prices amplitudes, and so favours many small ones; a hard threshold prices activity alone."
    )
    return Section(
        "Error against active units", text, table, findings.figures.get("frontier"), note, file="answer/frontier.csv"
    )


def _asked(front: Mapping[str, Mapping[str, np.ndarray]], penalty: float) -> dict[str, dict[str, float]]:
    """Return each method's row of the frontier at a penalty, for those that have one."""
    rows = {name: np.flatnonzero(found["penalty"] == penalty) for name, found in front.items()}
    return {
        name: {column: float(values[row[0]]) for column, values in front[name].items()}
        for name, row in rows.items()
        if row.size
    }


def _motion(findings: Findings) -> Section:
    assert findings.motion is not None
    activity, turnover = findings.motion
    frames, windows = next(iter(activity.values())).shape[:2]
    text = (
        f"{windows} windows move across the photograph by one pixel a frame, for {frames} frames. How many of "
        "the active neurons, with their signs, are replaced from one frame to the next? The less, the steadier the "
        "representation."
    )
    table = {"method": list(turnover), "replaced per frame": list(turnover.values())}
    note = "The picture shows one window: red and blue are activity of either sign."
    return Section(
        "A picture that moves", text, table, findings.figures.get("motion"), note, file="answer/turnover.csv"
    )


def _comparison(findings: Findings) -> list[Section]:
    title, found = "Competition against none, learnt anew with each seed", findings.comparison
    if found is None:
        return [Section(title, findings.why_not)]
    seeds = found.values.shape[2]
    text = (
        f"Each of {seeds} seeds learns everything from the beginning: a dictionary by competition, and autoencoders "
        "whose units answer their own drive. Then each code is measured on patches that were held out. All "
        "dictionaries are of one size, equally many units are active on average, no activity is negative, and "
        "amplitudes are fitted anew for the error. “Units competing” takes the fields that an autoencoder "
        "has learnt, and lets them compete."
    )
    heads, rows = found.table()
    table = {head: [row[place].replace(" ± ", "\u00a0±\u00a0") for row in rows] for place, head in enumerate(heads)}
    note = (
        f"Means over {seeds} seeds and 95% confidence intervals. The patches are of 8 × 8 pixels, and the "
        "autoencoders small; catallax.cortex.compare does the same at any size."
    )
    first = Section(title, text, table, findings.figures.get("comparison"), note, file="answer/comparison.csv")
    return [first, _verdicts(found)]


def _verdicts(found: Comparison) -> Section:
    text = (
        f"Beside “{found.methods[0]}”. Differences are taken seed by seed, and count as clear if their 95% confidence "
        "interval leaves zero out; with so many of them a few are clear by chance."
    )
    return Section("Where competition wins and where it does not", text, verdict_table(found))


def verdict_table(found: Comparison) -> dict[str, list[str]]:
    """Return, for each measure that has a better side, the methods that competition beats, and those that beat it."""
    verdicts = found.verdicts()
    measures = [measure for measure in MEASURES if any(one.measure == measure for one in verdicts)]

    def those(measure: str, outcome: str) -> str:
        return ", ".join(one.method for one in verdicts if (one.measure, one.outcome) == (measure, outcome)) or "–"

    return {
        "measure": measures,
        "competition is better than": [those(measure, "better") for measure in measures],
        "worse than": [those(measure, "worse") for measure in measures],
        "no clear difference": [those(measure, "open") for measure in measures],
    }


def _learning(findings: Findings) -> Section:
    patches, objective = findings.curve
    text = (
        "Learning is Hebb's rule: each neuron moves its field along what remained unexplained when it was active, "
        "scaled by the second moment of its own activity. It reads its own activity and the residual, nothing else. "
        "The objective is that of each batch of patches before the neurons learn from it."
    )
    table = None
    if patches.size:
        rows = sorted({int(k) - 1 for k in np.rint(np.geomspace(1, patches.size, MOST))})
        table = {"patches seen": [int(patches[k]) for k in rows], "objective": [float(objective[k]) for k in rows]}
    return Section("How they learnt", text, table, findings.figures.get("learning"), file="history.jsonl")


def _words() -> Section:
    terms = {
        "Objective": "½|x − aD|² + λ Σ|a|, mean over patches; x the patch, a the activity, D the receptive fields.",
        "Unexplained": "Σ|x − aD|² / Σ|x − mean x|² over all patches.",
        "Active units": "How many units have an activity other than zero, mean over patches.",
        "Redundancy": "Mean |cosine| of the fields of two units that are active on the same patch.",
        "Distinct share": "How many orthogonal fields the active ones amount to (participation ratio), over their "
        "number.",
        "Effective units": "Exponential of the entropy of the units' shares in all activations.",
        "Specialisation": "Mutual information of which unit is active and which image the patch is from, in bits, its "
        "bias taken off.",
        "Turnover": "The share of active units, with their signs, that is replaced from one frame to the next.",
    }
    return Section("What the words mean", terms=terms)


def _listed(names: Sequence[str]) -> str:
    """Write names with their commas and the last "and"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
