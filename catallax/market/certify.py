"""An independent check of a market's answer, in float64 NumPy, from the problem and the answer alone."""

from typing import Any

import numpy as np
import scipy.sparse

from ..certificate import Certificate
from .problem import Exchange, Market


def best_utilities(market: Market, prices: np.ndarray) -> np.ndarray:
    """Return the most utility that each buyer's budget buys at the prices, shape (n,).

    A buyer who values a good of price zero could have it without bound: infinite.
    """
    rho, budgets = market.utility.rho, market.budgets
    if rho == 1 and not scipy.sparse.issparse(market.valuations):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            bang = np.where(market.valuations > 0, market.valuations / prices, 0.0).max(axis=1)
        return np.where(budgets > 0, budgets * (np.maximum(bang, 1.0) if market.utility.money else bang), 0.0)
    values = scipy.sparse.csr_array(market.sparse(), copy=True)
    at = prices[values.indices]
    starts = values.indptr[:-1]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if rho == 1:
            bang = np.maximum.reduceat(np.append(values.data / at, 0.0), starts)
            best = np.maximum(bang, 1.0) if market.utility.money else bang
        elif rho == -np.inf:
            best = 1.0 / np.add.reduceat(np.append(values.data * at, 0.0), starts)
        elif rho == 0:
            total = np.add.reduceat(values.data, starts)
            share = values.data / np.repeat(total, np.diff(values.indptr))
            best = np.exp(np.add.reduceat(share * (np.log(share) - np.log(at)), starts))
        else:
            # The price of a unit of utility: (Σ v^(1+η) p^(−η))^(−1/η), in logarithms around the largest term.
            eta = rho / (1 - rho)
            logs = (1 + eta) * np.log(values.data) - eta * np.log(at)
            most = np.maximum.reduceat(logs, starts)
            total = np.add.reduceat(np.exp(logs - np.repeat(most, np.diff(values.indptr))), starts)
            best = np.exp((most + np.log(total)) / eta)
    return np.where(budgets > 0, budgets * best, 0.0)


def regrets(market: Market, prices: np.ndarray, allocation: Any, money: np.ndarray | None = None) -> np.ndarray:
    """Return 1 − utility / best affordable utility for each buyer; 0 for one without money, shape (n,)."""
    best = best_utilities(market, prices)
    got = market.utility.of(market.valuations, allocation, money)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(market.budgets > 0, 1 - got / best, 0.0)


def certify(
    market: Market,
    prices: np.ndarray,
    allocation: Any,
    money: np.ndarray | None = None,
    *,
    tol: float = 1e-6,
) -> list[Certificate]:
    """Check prices and an allocation, without the solver.

    gap: Σ_i B_i log(best affordable utility / utility) / ΣB, the Eisenberg-Gale duality gap per unit of budget, at
    prices scaled to be worth the money spent. regret: the largest buyer's 1 − utility / best. clearing: the largest
    |sold − supply| / supply over goods with a price, and the largest oversale of a free good. spending: the largest
    overspending per unit of budget.

    Args:
        market: The question.
        prices: Shape (m,).
        allocation: Shape (n, m), dense or sparse.
        money: What each buyer keeps, shape (n,); quasilinear markets only.
        tol: The tolerance of each certificate.

    Returns:
        The certificates `gap`, `regret`, `clearing` and `spending`.

    Reference:
        Eisenberg & Gale (1959); the gap of a Fisher market as in Cheung, Cole & Devanur (2020), section 2.
    """
    budgets, supply = market.budgets, market.supply
    total = budgets.sum()
    money = np.zeros(market.n) if money is None else money
    sold = np.asarray(allocation.sum(axis=0)).ravel()
    spent = np.asarray(allocation @ prices).ravel() + money
    # Without a worth of money only relative prices matter; with it, the level is part of the answer.
    level = 1.0 if market.utility.money else total / (prices @ supply)
    prices = prices * level
    live = budgets > 0
    best = best_utilities(market, prices)[live]
    got = market.utility.of(market.valuations, allocation, money)[live]
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = float(budgets[live] @ (np.log(best) - np.log(got))) / total
        if market.utility.money:
            gap += float(prices @ supply + money.sum()) / total - 1
        regret = float(np.max(1 - got / best))
        clearing = np.where(prices > 0, np.abs(sold - supply), np.maximum(sold - supply, 0)) / supply
        overspent = float(np.max((spent[live] * level - budgets[live]) / budgets[live]))
    wasted = float(np.max(-np.minimum(0.0, _smallest(allocation)), initial=0.0))
    return [
        Certificate("gap", abs(gap), tol, "duality gap per unit of budget"),
        Certificate("regret", max(regret, 0.0), tol, "largest share of its best utility that a buyer misses"),
        Certificate("clearing", max(float(np.max(clearing)), wasted), tol, "largest excess or leftover per supply"),
        Certificate("spending", max(overspent, 0.0), tol, "largest overspending per unit of budget"),
    ]


def certify_exchange(economy: Exchange, prices: np.ndarray, allocation: Any, *, tol: float = 1e-6) -> list[Certificate]:
    """Check an answer to an exchange economy: the market's certificates at the incomes that the prices give.

    balance: the largest |value of the bundle − value of the endowment| per unit of income.

    Args:
        economy: The question.
        prices: Shape (m,).
        allocation: Shape (n, m), dense or sparse.
        tol: The tolerance of each certificate.

    Returns:
        The certificates `gap`, `regret`, `clearing`, `spending` and `balance`.
    """
    market = economy.market_at(prices)
    incomes = market.budgets
    spent = np.asarray(allocation @ prices).ravel()
    live = incomes > 0
    balance = float(np.max(np.abs(spent[live] - incomes[live]) / incomes[live]))
    return [
        *certify(market, prices, allocation, tol=tol),
        Certificate("balance", balance, tol, "largest difference of spending and income per unit of income"),
    ]


def _smallest(allocation: Any) -> float:
    if scipy.sparse.issparse(allocation):
        return float(allocation.data.min(initial=0.0))
    return float(np.min(allocation, initial=0.0))
