"""An independent check of activities, in float64 NumPy, from the problem and the activities alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from ..certificate import Certificate
from .problem import SparseCoding

BLOCK = 2**21
"""Entries of activity that are looked at together."""


class Scores(NamedTuple):
    """What can be said of each sample's activity; every array has shape (samples,), float64.

    Args:
        objective: ½|x − aD|² + λ|a|₁.
        gap: The duality gap: no activity has an objective below `objective − gap`.
        violation: The largest violation of the conditions of optimality by a unit, per unit of penalty.
        active: How many units are active.
    """

    objective: np.ndarray
    gap: np.ndarray
    violation: np.ndarray
    active: np.ndarray

    @property
    def relative_gap(self) -> np.ndarray:
        """The gap per objective; 0 where both are zero."""
        return self.gap / np.where(self.objective > 0, self.objective, 1.0)


def scores(problem: SparseCoding, activity: Any) -> Scores:
    """Score the activity of each sample.

    The dual point is the residual scaled into the dual's feasible set |Dν|∞ ≤ λ (or Dν ≤ λ for non-negative
    activity), with the best such scale; the dual objective there is ν·x − ½|ν|².

    Args:
        problem: The question.
        activity: a, shape (samples, units), dense or any SciPy sparse.

    Raises:
        ValueError: if the activity has another shape.

    Reference:
        Kim, Koh, Lustig, Boyd & Gorinevsky (2007), An interior-point method for large-scale l1-regularized least
        squares, eqs. 10-11; non-negative case with one-sided constraints.
    """
    parts = [_score(*block) for block in _blocks(problem, activity)]
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def certify(problem: SparseCoding, activity: Any, *, tol: float = 1e-5) -> list[Certificate]:
    """Check that activities are those of least objective, without the solver.

    gap: the largest duality gap of a sample per its objective. conditions: the largest amount by which a unit's
    drive φ·r misses the penalty (an active unit) or exceeds it (a silent one), per penalty; a forbidden negative
    activity counts with its size. The gap proves the objective; the conditions, a stricter sign that also sees
    units of little weight, are given ten times its tolerance.

    Args:
        problem: The question.
        activity: Shape (samples, units), dense or any SciPy sparse.
        tol: The tolerance of the gap.

    Returns:
        The certificates `gap` and `conditions`.
    """
    found = scores(problem, activity)
    gap, violation = float(np.max(found.relative_gap)), float(np.max(found.violation))
    return [
        Certificate("gap", gap, tol, "largest duality gap of a sample per its objective"),
        Certificate("conditions", violation, 10 * tol, "largest violation of optimality by a unit per penalty"),
    ]


def certify_hard(problem: SparseCoding, activity: Any, *, tol: float = 1e-5) -> list[Certificate]:
    """Check that activities are a rest of competition with a hard threshold.

    At rest an active unit has nothing left to explain, φ·r = 0, and is above the threshold, and a silent unit's
    drive is at most the threshold. Such a rest is a local optimum of ½|x − aD|² + ½λ²·(number active).

    Args:
        problem: The question; its penalty is the threshold.
        activity: Shape (samples, units), dense or any SciPy sparse.
        tol: The tolerance, per penalty.

    Returns:
        The certificate `rest`.

    Reference:
        Rozell, Johnson, Baraniuk & Olshausen (2008), section 3.3.
    """
    worst = 0.0
    for x, fields, penalty, signed, a in _blocks(problem, activity):
        drive = (x - a @ fields) @ fields.T
        size, reach = (np.abs(a), np.abs(drive)) if signed else (a, drive)
        missed = np.where(a != 0, np.maximum(np.abs(drive), penalty - size), np.maximum(reach - penalty, 0.0))
        worst = max(worst, float(np.max(missed / penalty)))
    return [Certificate("rest", worst, tol, "largest violation of rest by a unit per threshold")]


def _blocks(problem: SparseCoding, activity: Any) -> Iterator[tuple]:
    """Yield stimuli, dictionary, penalties as a column, whether signed, and activity, block by block in float64."""
    shape = (problem.samples, problem.units)
    if activity.shape != shape:
        raise ValueError(f"the activity has shape {activity.shape}; the problem asks for {shape}")
    activity = scipy.sparse.csr_array(activity) if scipy.sparse.issparse(activity) else activity
    fields = problem.dictionary.astype(float)
    penalty = np.broadcast_to(problem.penalty, problem.samples)
    step = max(1, BLOCK // problem.units)
    for first in range(0, problem.samples, step):
        rows = slice(first, first + step)
        a = activity[rows]
        a = a.toarray() if scipy.sparse.issparse(a) else np.asarray(a)
        yield problem.stimuli[rows].astype(float), fields, penalty[rows, None], problem.signed, a.astype(float)


def _score(x: np.ndarray, fields: np.ndarray, penalty: np.ndarray, signed: bool, a: np.ndarray) -> tuple:
    price = penalty[:, 0]
    residual = x - a @ fields
    drive = residual @ fields.T
    size, reach = np.abs(a), np.abs(drive) if signed else drive
    left = np.sum(residual**2, axis=1)
    objective = left / 2 + price * size.sum(axis=1)
    strongest = reach.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.where(strongest > 0, price / strongest, np.inf)
        best = np.where(left > 0, np.sum(residual * x, axis=1) / left, 0.0)
    scale = np.clip(best, -most if signed else 0.0, most)
    dual = scale * np.sum(residual * x, axis=1) - scale**2 * left / 2
    missed = np.where(a != 0, np.abs(drive - penalty * np.sign(a)), np.maximum(reach - penalty, 0.0)) / penalty
    gap = np.maximum(objective - dual, 0.0)
    if not signed:
        missed = np.maximum(missed, np.maximum(-a, 0.0) / penalty)
        gap = np.where(np.any(a < 0, axis=1), np.inf, gap)
    return objective, gap, missed.max(axis=1), np.count_nonzero(a, axis=1)
