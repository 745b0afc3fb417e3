"""An independent check of an assignment of tokens to experts, in float64 NumPy, from the problem and the answer alone.

By weak duality no assignment within capacity is worth more than c·Σ_e max(p_e, 0) + Σ_i Σ_{top k} (a_ie − max(p_e, 0)),
whatever the prices p. The gap between that bound and what an assignment is worth is therefore the most by which any
other could be better. It is stated per token and active expert, in units of the mean range of a token's affinities, so
that neither the unit of the affinities nor a constant added to a token's matters.

Reference:
    Koopmans & Beckmann (1957), Assignment problems and the location of economic activities, section II.
"""

from typing import Any

import numpy as np

from ..certificate import Certificate
from .problem import Routing


def dual_value(problem: Routing, price: Any) -> float:
    """Return the upper bound on the worth of every assignment within capacity that prices prove.

    Args:
        problem: The question.
        price: One price per expert, shape (experts,); finite.
    """
    price = np.maximum(np.asarray(price, np.float64), 0.0)
    surplus = problem.affinity - price[None]
    best = np.partition(surplus, problem.experts - problem.active, axis=1)[:, problem.experts - problem.active :]
    return float(problem.capacity * price.sum() + best.sum())


def worth(problem: Routing, chosen: Any) -> float:
    """Return Σ a_ie over the chosen pairs.

    Args:
        problem: The question.
        chosen: Each token's experts, shape (tokens, active).
    """
    return float(np.take_along_axis(problem.affinity, np.asarray(chosen), axis=1).sum(dtype=np.float64))


def certify(problem: Routing, chosen: Any, price: Any, tol: float = 1e-3) -> list[Certificate]:
    """Check an assignment and its prices, without the solver.

    Args:
        problem: The question.
        chosen: Each token's experts, shape (tokens, active).
        price: One price per expert, shape (experts,).
        tol: The tolerance of the gap.

    Returns:
        The certificates `gap` (from the dual bound, in the unit that this module's head states), `load` (the most
        tokens above capacity that any expert serves) and `experts` (tokens that lack k different experts).

    Raises:
        ValueError: if the answer has another shape than the problem.
    """
    chosen, price = np.asarray(chosen), np.asarray(price, np.float64)
    if chosen.shape != (problem.tokens, problem.active) or price.shape != (problem.experts,):
        raise ValueError(
            f"the answer has the shapes {chosen.shape} and {price.shape}; "
            f"{problem} takes {(problem.tokens, problem.active)} and {(problem.experts,)}"
        )
    within = (chosen >= 0) & (chosen < problem.experts)
    ordered = np.sort(np.where(within, chosen, -1), axis=1)
    whole = within.all(axis=1) & (np.diff(ordered, axis=1) > 0).all(axis=1)
    over = max(int(np.bincount(chosen[within], minlength=problem.experts).max()) - problem.capacity, 0)
    gap = np.inf
    if whole.all() and np.isfinite(price).all():
        scale = problem.active * np.ptp(problem.affinity, axis=1).sum(dtype=np.float64)
        short = dual_value(problem, price) - worth(problem, chosen)
        gap = short / scale if scale > 0 else (0.0 if abs(short) <= 1e-9 else np.inf)
    meaning = "the most by which another assignment could be worth more, per token and expert, in ranges of affinities"
    return [
        # An answer above its bound breaks a constraint, which the other two say.
        Certificate("gap", abs(float(gap)), tol, meaning),
        Certificate("load", float(over), 0.0, "most tokens above an expert's capacity"),
        Certificate("experts", float((~whole).sum()), 0.0, "tokens that are not served by k different experts"),
    ]
