"""The exchange economy: a fixed point in incomes around Fisher markets.

At given incomes the market is a Fisher market, solved by its fast law; at given prices a buyer's income is what its
own endowment sells for. The fixed point of the two is an Arrow-Debreu equilibrium. Prices, in logarithms, are
accelerated by Anderson's method between markets.

Reference:
    Arrow & Debreu (1954), Existence of an equilibrium for a competitive economy; Eisenberg & Gale (1959) for the
    market at fixed incomes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ..core.result import Status
from ..core.settle import Anderson
from .certify import certify_exchange
from .problem import Exchange
from .solve import Equilibrium, solve


def solve_exchange(
    economy: Exchange,
    *,
    tol: float = 1e-6,
    max_markets: int = 200,
    mesh: Mesh | None = None,
    watch: Callable[[Any], Any] | None = None,
) -> Equilibrium:
    """Find an equilibrium of an exchange economy, with prices scaled so that incomes average one.

    An equilibrium exists where everybody brings something of everything, or under weaker conditions on who wants
    what from whom; it need not be unique unless goods are gross substitutes (ρ ≥ 0). Where none is found the
    status says so.

    Args:
        economy: The question.
        tol: The tolerance of every certificate.
        max_markets: How many Fisher markets to solve at most.
        mesh, watch: As for `solve`.

    Returns:
        The answer. Its `market` is the Fisher market at the final incomes, its rounds are those of all markets
        together, its history counts markets, and its certificates are the market's and the budget balance.
    """
    accelerate, past, history, rounds = Anderson(depth=5), None, [], 0
    prices = economy.n / economy.m / economy.supply
    best: Equilibrium | None = None
    for _ in range(max_markets):
        answer = solve(economy.market_at(prices), tol=max(tol / 10, 1e-10), mesh=mesh, watch=watch)
        rounds += answer.rounds
        certificates = tuple(certify_exchange(economy, answer.prices, answer.allocation, tol=tol))
        distance = max(c.value / c.tolerance for c in certificates) * tol
        history.append(distance)
        holds = all(c.holds for c in certificates)
        if best is None or holds or distance <= min(history):
            best = dataclasses.replace(answer, certificates=certificates)
        if holds or not np.all(np.isfinite(answer.prices)):
            break
        prices, past = _next_prices(accelerate, prices, answer.prices, past, economy)
    assert best is not None
    status = Status.SETTLED if all(c.holds for c in best.certificates) else Status.OUT_OF_ROUNDS
    counted = np.arange(1, len(history) + 1), np.array(history)
    return dataclasses.replace(best, status=status, rounds=rounds, history=counted)


def _next_prices(accelerate: Anderson, prices: np.ndarray, answer: np.ndarray, past: Any, economy: Exchange) -> Any:
    """Return the prices at which to open the next market, and what to remember."""
    live = (prices > 0) & (answer > 0)
    with jax.enable_x64(True):
        x = jnp.asarray(np.log(np.where(live, prices, 1.0)))
        fx = jnp.asarray(np.log(np.where(live, answer, 1.0)))
        mixed, past = accelerate.step(x, fx, accelerate.start(x) if past is None else past)
        mixed = np.asarray(mixed)
    # A market is asked at most a factor of e away from its last answer.
    mixed = np.clip(mixed, np.log(np.where(live, answer, 1.0)) - 1, np.log(np.where(live, answer, 1.0)) + 1)
    following = np.where(live, np.exp(mixed), answer)
    return following * economy.n / (following @ economy.supply), past
