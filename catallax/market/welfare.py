"""How good an allocation is: for all together, for each against each, and against what was possible.

NumPy and SciPy only; nothing here knows how an allocation was found.
"""

from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse

from ..errors import InputError
from .problem import Market

MOST_ENVY_CELLS = 50_000_000
"""Pairs of buyers times goods beyond which `envy` refuses, since it compares every buyer with every other."""


def utilities_of(market: Market, allocation: Any) -> np.ndarray:
    """Return what each buyer's bundle is worth to it, shape (n,); unspent money is not counted."""
    return market.utility.of(market.valuations, allocation)


def relative_utilities(market: Market, allocation: Any) -> np.ndarray:
    """Return each buyer's utility as a share of what owning all supply would give it, shape (n,).

    It lies within [0, 1] and makes buyers comparable, whatever the scale on which each states its valuations.
    """
    everything = market.sparse()
    whole = scipy.sparse.csr_array(
        (market.supply[everything.indices], everything.indices, everything.indptr), shape=everything.shape
    )
    return utilities_of(market, allocation) / market.utility.of(market.valuations, whole)


def nash_welfare(market: Market, allocation: Any) -> float:
    """Return Nash social welfare: the budget-weighted geometric mean of relative utilities, within [0, 1].

    A competitive equilibrium maximises it. It is zero if any buyer with money gets nothing of worth.

    Reference:
        Nash (1950), The bargaining problem; Eisenberg & Gale (1959).
    """
    live = market.budgets > 0
    share = market.budgets[live] / market.budgets.sum()
    with np.errstate(divide="ignore"):
        return float(np.exp(share @ np.log(relative_utilities(market, allocation)[live])))


def utilitarian_welfare(market: Market, allocation: Any) -> float:
    """Return the mean over buyers of relative utilities: one buyer one vote, within [0, 1].

    Each buyer's utility is counted as a share of what owning all supply would give it.
    """
    return float(relative_utilities(market, allocation).mean())


def pareto_slack(market: Market, allocation: Any) -> float:
    """Return by how much the buyers' relative utilities could rise on average with nobody losing.

    A linear program over all reallocations of the supply: maximise the mean rise subject to no buyer with
    money falling below its utility. Zero for an efficient allocation: the first welfare theorem says that a
    competitive equilibrium is one. Buyers without money are owed nothing and count for nothing.

    Args:
        market: With linear or Leontief utility, for which the question is a linear program.
        allocation: (n, m), dense or sparse.

    Returns:
        At least zero, up to the linear program's tolerance of about 1e-7.

    Raises:
        InputError: for other utilities.
        RuntimeError: if the linear program cannot be solved, as when more is allocated than there is.

    Reference:
        Arrow (1951), An extension of the basic theorems of classical welfare economics.
    """
    rho = market.utility.rho
    if rho not in (1, -np.inf) or market.utility.money:
        raise InputError(
            f"pareto_slack solves a linear program, and with {market.utility.name} utility it is none; "
            "use linear or leontief"
        )
    values = market.sparse()[np.flatnonzero(market.budgets > 0)]
    got = relative_utilities(market, allocation)[market.budgets > 0]
    rows, columns = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr)), values.indices
    if rho == 1:
        # Variables: share of the supply of a good, one for each pair that means something.
        worth = values.data * market.supply[columns]
        worth = worth / np.bincount(rows, weights=worth)[rows]
        gain = scipy.sparse.csr_array((worth, (rows, np.arange(values.nnz))))
        size = market.m, values.nnz
        use = scipy.sparse.csr_array((np.ones(values.nnz), (columns, np.arange(values.nnz))), shape=size)
    else:
        # Variables: relative utility, each unit of which takes the goods in their proportions.
        need = values.data / market.supply[columns]
        most = 1 / np.maximum.reduceat(need, values.indptr[:-1])
        gain = scipy.sparse.eye_array(values.shape[0], format="csr")
        size = market.m, values.shape[0]
        use = scipy.sparse.csr_array((need * most[rows], (columns, rows)), shape=size)
    answer = scipy.optimize.linprog(
        -np.asarray(gain.sum(axis=0)).ravel(),
        A_ub=scipy.sparse.vstack([-gain, use]),
        b_ub=np.concatenate([-got, np.ones(market.m)]),
        method="highs",
    )
    if answer.status != 0:
        raise RuntimeError(f"the linear program of the first welfare theorem was not solved: {answer.message}")
    return max(0.0, float(-answer.fun - got.sum()) / market.n)


def envy(market: Market, allocation: Any) -> float:
    """Return the largest relative envy: how much more a buyer would get from another's bundle.

    The other's bundle is scaled by the ratio of budgets, so that at equal budgets this is plain envy and at
    unequal ones it asks whether somebody's money was better spent. Zero at a competitive equilibrium, where
    everybody could have bought what the other bought.

    Args:
        market: The question; buyers without money neither envy nor are envied.
        allocation: (n, m), dense or sparse.

    Returns:
        max over i, k of u_i(x_k B_i / B_k) / u_i(x_i) − 1, and at least zero; infinite if a buyer has nothing
        of worth and another has.

    Raises:
        InputError: if buyers × buyers × goods is too much to compare, or if utility counts unspent money.

    Reference:
        Foley (1967), Resource allocation and the public sector; Varian (1974), Equity, envy, and efficiency.
    """
    if market.utility.money:
        raise InputError("envy compares bundles of goods, and quasilinear buyers keep money as well")
    if market.n**2 * market.m > MOST_ENVY_CELLS:
        raise InputError(f"envy compares all pairs of buyers: {market.n} buyers with {market.m} goods are too many")
    live = market.budgets > 0
    budgets, values = market.budgets[live], market.dense()[live]
    held = allocation.toarray() if scipy.sparse.issparse(allocation) else np.asarray(allocation, float)
    per_money = held[live] / budgets[:, None]
    own = market.utility.of(values, per_money)
    worst = 0.0
    for bundle in per_money:
        others = market.utility.of(values, np.broadcast_to(bundle, values.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = max(worst, float(np.max(np.where(others > own, others / own - 1, 0.0))))
    return worst


def replicas(market: Market, k: int) -> Market:
    """Return the market with k copies of every buyer, budget and all, and k times the supply.

    Competitive prices and bundles stay as they are; what changes is how much one buyer weighs.

    Args:
        market: The question.
        k: At least one.

    Raises:
        InputError: if k is less than one.

    Reference:
        Debreu & Scarf (1963), A limit theorem on the core of an economy.
    """
    if k < 1:
        raise InputError(f"{k} replicas of each buyer: give at least one")
    values = scipy.sparse.vstack([market.sparse()] * k, format="csr")
    if not scipy.sparse.issparse(market.valuations):
        values = values.toarray()
    names = [f"{name} ({copy})" for copy in range(1, k + 1) for name in market.buyers] if k > 1 else market.buyers
    return Market(
        values,
        np.tile(market.budgets, k),
        market.supply * k,
        utility=market.utility,
        buyers=names,
        goods=market.goods,
    )
