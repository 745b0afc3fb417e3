"""What a dictionary can do with units that compete and with units that do not: still, in motion, on a whole picture.

Shapes: stimuli (samples, inputs), dictionary (units, inputs) with rows of unit norm, activity (samples, units). A
signed activity of a dictionary D is an activity of at least zero of the fields D and −D, which is how methods that
know no negative activity are asked.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from .compare import dense, pursuing
from .measure import redundancy, turnover, unexplained
from .pursuit import driven, matching_pursuit, orthogonal_pursuit, refit
from .solve import Codes, encode

METHODS = ("competition", "drive alone", "matching pursuit", "orthogonal pursuit")
"""How activity is found: by local competition; by each unit's own drive; by a loop that picks units one by one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A dictionary, and how its units compete.

    Args:
        dictionary: Receptive fields of unit norm, shape (units, inputs).
        penalty: λ, the price of activity.
        signed: Whether a unit may be active with either sign.
        law: How competition comes to rest, as for `encode`; so are `tol` and `max_rounds`.
    """

    dictionary: np.ndarray
    penalty: float
    signed: bool = True
    law: str = "fast"
    tol: float = 1e-5
    max_rounds: int | None = None

    def compete(self, stimuli: np.ndarray) -> Codes:
        """Return the rest of competition, with its certificates."""
        return encode(
            stimuli,
            self.dictionary,
            self.penalty,
            signed=self.signed,
            law=self.law,
            tol=self.tol,
            max_rounds=self.max_rounds,
        )

    def activity(self, stimuli: np.ndarray) -> np.ndarray:
        """Return the activity at rest as an array."""
        return dense(self.compete(stimuli).activity)

    @property
    def both(self) -> np.ndarray:
        """The fields that activity of at least zero needs: D, and −D if signed."""
        fields = np.asarray(self.dictionary)
        return np.concatenate([fields, -fields]) if self.signed else fields

    def folded(self, activity: np.ndarray) -> np.ndarray:
        """Return the activity of D that an activity of `both` is."""
        if not self.signed:
            return activity
        plus, minus = np.split(activity, 2, axis=-1)
        return plus - minus


def answers(question: Question, stimuli: np.ndarray) -> dict[str, np.ndarray]:
    """Return the activity that each of `METHODS` finds, with as many units active on average as in competition.

    A method is left out if it cannot have so many active, within 1%, as may be with few stimuli.
    """
    competing = question.activity(stimuli)
    rate, fields = np.count_nonzero(competing) / len(stimuli), question.both
    found = {"competition": competing, "drive alone": question.folded(driven(stimuli, fields, rate))}
    for method, pursuit in (("matching pursuit", matching_pursuit), ("orthogonal pursuit", orthogonal_pursuit)):
        with contextlib.suppress(InputError):
            found[method] = question.folded(pursuing(pursuit, stimuli, fields, rate))
    return found


def frontier(
    question: Question, stimuli: np.ndarray, penalties: Iterable[float], watch: Callable[[str], Any] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Measure every method at several prices of activity.

    Args:
        question: Its own penalty is not used.
        stimuli: What no unit has learnt from.
        penalties: The prices at which units compete.
        watch: Called with a line that says what is being done.

    Returns:
        For each method, by "penalty": "active" units per sample, "error", the share of variance that amplitudes
        fitted anew leave unexplained, and "redundancy", the mean |cos| of fields active together.
    """
    found: dict[str, list[tuple[float, ...]]] = {method: [] for method in METHODS}
    for penalty in penalties:
        if watch is not None:
            watch(f"competition against none at penalty {penalty:g}")
        here = dataclasses.replace(question, penalty=float(penalty))
        for method, activity in answers(here, stimuli).items():
            fitted = refit(stimuli, activity, here.dictionary)
            found[method].append(
                (
                    here.penalty,
                    np.count_nonzero(activity) / len(activity),
                    unexplained(stimuli, fitted, here.dictionary),
                    redundancy(activity, here.dictionary),
                )
            )
    columns = ("penalty", "active", "error", "redundancy")
    return {method: dict(zip(columns, np.array(rows).T, strict=True)) for method, rows in found.items() if rows}


def in_motion(question: Question, moving: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Let every method follow windows that move across an image.

    Args:
        question: Dictionary and price.
        moving: Shape (frames, windows, inputs).

    Returns:
        By method: the activity, shape (frames, windows, units), and the share of active units that are replaced from
        one frame to the next.
    """
    flat = answers(question, moving.reshape(-1, moving.shape[2]))
    seen = {method: activity.reshape(*moving.shape[:2], -1) for method, activity in flat.items()}
    return seen, {method: turnover(activity) for method, activity in seen.items()}


def rebuilt(question: Question, picture: np.ndarray, penalties: Iterable[float]) -> Mapping[str, np.ndarray]:
    """Represent a picture patch by patch, and build it again from the activity.

    Patches do not overlap and are brought to unit norm before units compete for them, and back afterwards.

    Args:
        question: Its own penalty is not used.
        picture: Grey values, cut to whole patches.
        penalties: The prices at which units compete.

    Returns:
        The picture as it was, and as each price leaves it, under names that say how many units were active.
    """
    side = round(question.dictionary.shape[1] ** 0.5)
    down, across = (length // side for length in picture.shape)
    tiles = picture[: down * side, : across * side].reshape(down, side, across, side).swapaxes(1, 2)
    stimuli = tiles.reshape(-1, side * side).astype(np.float32)
    norms = np.maximum(np.linalg.norm(stimuli, axis=1, keepdims=True), np.float32(1e-12))

    def whole(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)

    found = {"as it was": whole(stimuli)}
    for penalty in penalties:
        activity = dataclasses.replace(question, penalty=float(penalty)).activity(stimuli / norms)
        rate = np.count_nonzero(activity) / len(activity)
        found[f"{rate:.1f} of {len(question.dictionary):,} units active"] = whole(
            norms * (refit(stimuli / norms, activity, question.dictionary) @ question.dictionary)
        )
    return found
