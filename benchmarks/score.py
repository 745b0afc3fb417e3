"""One yardstick for every answer, whoever gave it."""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.sparse

from catallax.market.certify import certify
from catallax.market.problem import Market


@dataclasses.dataclass(frozen=True)
class Score:
    """How far an answer is from equilibrium.

    Args:
        gap: Σ_i B_i log(best affordable utility / utility) / ΣB, after scaling the answer to sell all supply.
        regret: The largest buyer's 1 − utility / best affordable utility, at the same prices.
        clearing: The largest |sold − supply| / supply of the answer as it was given.
        prices: Whose prices gave the smaller gap: "own", or "recomputed" from the allocation.
    """

    gap: float
    regret: float
    clearing: float
    prices: str


def score(
    valuations: Any, budgets: np.ndarray, supply: np.ndarray, prices: np.ndarray | None, allocation: Any
) -> Score:
    """Score prices and an allocation of a market with linear utilities by `catallax.market.certify`.

    No solver is punished for its scaling: what it sold is scaled to the supply good by good, prices are
    scaled to be worth the budgets, and p_j = max_i B_i v_ij / u_i count where the solver's own do worse.

    Args:
        valuations: Shape (n, m), dense or sparse.
        budgets: Shape (n,).
        supply: Shape (m,).
        prices: Shape (m,), or None for an answer without prices.
        allocation: Shape (n, m), dense or sparse; negative entries count as zero.

    Returns:
        The score; all infinite for an answer that is not finite or gives a buyer with money nothing.
    """
    market = Market(valuations, budgets, supply)
    nothing = Score(math.inf, math.inf, math.inf, "own")
    given = allocation.data if scipy.sparse.issparse(allocation) else allocation
    if not np.isfinite(given).all():
        return nothing
    sold = np.asarray(allocation.sum(axis=0), float).ravel()
    clearing = float(np.max(np.abs(sold - supply) / supply))
    cleared = _cleared(allocation, supply)
    utilities = market.utility.of(market.valuations, cleared)
    if not (utilities[budgets > 0] > 0).all():
        return nothing
    offers = {"recomputed": _recomputed(market, utilities)}
    if prices is not None and np.all(np.isfinite(prices)) and prices @ supply > 0:
        offers["own"] = np.maximum(prices, 0.0)
    tried = {whose: _gap_and_regret(market, offer, cleared) for whose, offer in offers.items()}
    whose = min(tried, key=lambda which: tried[which][0])
    return Score(*tried[whose], clearing, whose)


def _gap_and_regret(market: Market, prices: np.ndarray, allocation: Any) -> tuple[float, float]:
    values = {c.name: float(c.value) for c in certify(market, prices, allocation)}
    gap, regret = (values[name] if math.isfinite(values[name]) else math.inf for name in ("gap", "regret"))
    return gap, regret


def _cleared(allocation: Any, supply: np.ndarray) -> Any:
    """Scale what was sold of each good to its supply; a good that nobody got stays unsold."""
    if not scipy.sparse.issparse(allocation):
        allocation = np.maximum(allocation, 0.0)
        sold = allocation.sum(axis=0)
        return allocation * (supply / np.where(sold > 0, sold, np.inf))
    table: Any = scipy.sparse.csr_array(allocation, copy=True)
    table.data = np.maximum(table.data, 0.0)
    sold = np.bincount(table.indices, weights=table.data, minlength=table.shape[1])
    table.data *= (supply / np.where(sold > 0, sold, np.inf))[table.indices]
    return table


def _recomputed(market: Market, utilities: np.ndarray) -> np.ndarray:
    """Return p_j = max_i B_i v_ij / u_i: the least prices at which no buyer could afford more utility."""
    table = market.sparse()
    rate = market.budgets / np.where(market.budgets > 0, utilities, 1.0)
    offers = table.data * np.repeat(rate, np.diff(table.indptr))
    prices = np.zeros(market.m)
    np.maximum.at(prices, table.indices, offers)
    return prices
