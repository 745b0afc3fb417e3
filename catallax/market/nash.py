"""An independent check of the trading-post game: exact best responses, in float64 NumPy.

At a trading post the supply of a good is shared out in proportion to bids. A buyer who bids b_j where the
others bid o_j gets s_j b_j / (b_j + o_j).
"""

from typing import Any

import numpy as np
import scipy.sparse

from ..certificate import Certificate
from ..errors import InputError
from .problem import Market

ROUNDING = 1e-12
"""What sums in float64 are held to."""


def require_linear(market: Market) -> None:
    """Refuse utilities for which best responses at trading posts have no closed form.

    Raises:
        InputError: unless utility is linear without money.
    """
    if market.utility.name != "linear":
        raise InputError(
            "strategic behaviour is worked out for linear utility, and this market's is "
            f"{market.utility.name}; choose linear"
        )


def others(bids: np.ndarray) -> np.ndarray:
    """Return the sum of all other buyers' bids, for each buyer and good, shape (n, m).

    Added up from both ends rather than subtracted from the total, so that a buyer who bids nearly everything
    does not lose the others in rounding.
    """
    n, m = bids.shape
    if n == 1:
        return np.zeros((1, m))
    result = np.zeros((n, m))
    np.cumsum(bids[:-1], axis=0, out=result[1:])
    result[:-1] += np.cumsum(bids[:0:-1], axis=0)[::-1]
    return result


def posts(market: Market, bids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return prices (m,) and the allocation (n, m) that bids lead to.

    A good on which nobody bids has price zero. If exactly one buyer with money values it, that buyer gets all
    of it: the limit of ever smaller bids, since the least bid of all would do. Otherwise nobody gets it.
    """
    money = bids.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        allocation = np.where(money > 0, bids / money, 0.0)
    allocation = np.where((money == 0) & sole(market), 1.0, allocation)
    return money / market.supply, allocation * market.supply


def sole(market: Market) -> np.ndarray:
    """Say where a buyer with money is the only one to value a good, shape (n, m)."""
    wants = (market.dense() > 0) & (market.budgets > 0)[:, None]
    return wants & (wants.sum(axis=0) == 1)


def best_responses(market: Market, bids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each buyer's best bids against the others' as they stand, and the utility they give.

    Maximise Σ_j w_j b_j / (b_j + o_j) with w = v s over b ≥ 0, Σ b = B. The solution is water-filling:
    b_j = √(w_j o_j / λ) − o_j for the goods with the highest w_j / o_j, as many of them as gives positive
    bids. Goods on which nobody else bids are had for the least bid of all: their full worth counts and costs
    nothing, which is the supremum and not attained unless the bid is zero by the convention of `posts`.

    Args:
        market: With linear utility.
        bids: (n, m), at least zero.

    Returns:
        The bids (n, m), which leave out goods that cost nothing, and the largest utilities (n,).

    Raises:
        InputError: for other utilities.

    Reference:
        Water-filling: Boyd & Vandenberghe (2004), Convex optimization, example 5.2; for trading posts,
        Feldman, Lai & Zhang (2009), The proportional-share allocation market for computational resources.
    """
    require_linear(market)
    worth, against = market.dense() * market.supply, others(bids)
    wanted, contested = worth > 0, (worth > 0) & (against > 0)
    # Worth of a first unit of money; the highest are filled first.
    first = np.divide(worth, against, out=np.zeros_like(worth), where=contested)
    order = np.argsort(-first, axis=1, kind="stable")
    o = np.take_along_axis(np.where(contested, against, 0.0), order, axis=1)
    root = np.sqrt(np.take_along_axis(np.where(contested, worth, 0.0), order, axis=1) * o)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 1/√λ if the first k goods are filled: the budget must pay for exactly these.
        level = (market.budgets[:, None] + np.cumsum(o, axis=1)) / np.cumsum(root, axis=1)
        filled = np.sqrt(np.take_along_axis(first, order, axis=1)) * level > 1
        last = np.maximum(np.sum(filled, axis=1), 1) - 1
        level = np.take_along_axis(level, last[:, None], axis=1)
        response = np.where(contested, np.sqrt(worth * against) * level - against, 0.0)
        response = np.where(contested & (response > 0), response, 0.0)
        gained = np.where(contested, worth * response / (response + against), 0.0)
    # Without money no bid is possible, not even the least.
    free = np.where(wanted & ~contested & (market.budgets > 0)[:, None], worth, 0.0)
    return response, (gained + free).sum(axis=1)


def certify_nash(market: Market, bids: np.ndarray, allocation: Any, *, tol: float = 1e-8) -> list[Certificate]:
    """Check bids and the allocation that they are said to lead to, without the solver.

    nash regret: the largest buyer's 1 − utility / best utility against the others' bids. spending: the
    largest |Σ_j b_ij − B_i| / B_i, where a buyer all of whose goods are free may keep its money. posts: the
    largest deviation of the allocation from proportional shares, per unit of supply.

    Args:
        market: The question, with linear utility.
        bids: (n, m).
        allocation: (n, m), dense or sparse.
        tol: The tolerance of the regret; the others are held to rounding.
    """
    budgets = market.budgets
    held = allocation.toarray() if scipy.sparse.issparse(allocation) else np.asarray(allocation, float)
    _, best = best_responses(market, bids)
    _, rightful = posts(market, bids)
    got = market.utility.of(market.valuations, held)
    live = budgets > 0
    regret = np.max(1 - got[live] / best[live], initial=0.0)
    spent = bids.sum(axis=1)
    idle = np.all((market.dense() == 0) | sole(market), axis=1)
    off = np.where(idle, np.maximum(spent - budgets, 0.0), np.abs(spent - budgets))
    off = np.max(off[live] / budgets[live], initial=0.0) + np.max(spent[~live], initial=0.0)
    off = max(float(off), -float(bids.min(initial=0.0)) / budgets.sum())
    shares = float(np.max(np.abs(held - rightful) / market.supply))
    return [
        Certificate("nash regret", float(regret), tol, "largest share of its best response that a buyer misses"),
        Certificate("spending", off, ROUNDING, "largest deviation of a buyer's bids from its budget"),
        Certificate("posts", shares, ROUNDING, "largest deviation from proportional shares, per unit of supply"),
    ]
