"""How equilibrium prices answer small changes of incomes, supplies and valuations.

The derivative is that of `settle`: the implicit function theorem at rest. Smooth demand rests at p = spending(p).
Linear demand jumps, so near an equilibrium each buyer is given its equilibrium spending as an anchor and leaves it
with a steep elasticity: spending ∝ anchor·((v/p)/(v/p)*)^η. As η grows this tends to the exact answer: prices of
goods that are linked through common buyers keep their ratio, and their level follows the money spent on them.
"""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from ..core.settle import settle
from ..core.system import AbstractSystem, State
from .problem import Market
from .rules import Buyer, best_spending
from .solve import Equilibrium, Normal

STEEPNESS = 1e7
"""The elasticity with which a buyer of linear utility leaves its equilibrium spending."""

NO_SHARE = 1e-7
"""A good that took less than this share of a buyer's budget was not bought."""


class Anchored(Buyer):
    """A buyer with linear utility near its equilibrium.

    Args:
        anchor: The share of the budget spent on each good (and on money) at equilibrium.
        bang: Value per unit of money of each good there.
    """

    anchor: Float[Array, " k1"] = eqx.field(kw_only=True)
    bang: Float[Array, " k1"] = eqx.field(kw_only=True)


class NearEquilibrium(AbstractSystem):
    """Prices are what is spent at them: the map whose rest is the equilibrium.

    Args:
        rho: The utility's ρ.
        rest: The logarithm of prices at the equilibrium.
        spent: The logarithm of what is spent there: `rest` but for the error of the answer, which is taken out, for
            steep demand would blow it up.
    """

    rho: float = eqx.field(static=True)
    rest: Float[Array, " m"]
    spent: Float[Array, " m"]

    def respond(self, agent, signal, key):
        del key
        if self.rho != 1:
            spending = best_spending(agent, jnp.exp(signal), self.rho)
        else:
            bought = agent.anchor > NO_SHARE
            bang = jnp.where(bought, agent.worth / jnp.exp(agent.reads(signal, 0.0)), 1.0)
            drift = jnp.log(bang) - jnp.log(jnp.where(bought, agent.bang, 1.0))
            weight = jnp.where(bought, agent.anchor * jnp.exp(STEEPNESS * drift), 0.0)
            spending = agent.budget * weight / jnp.sum(weight)
        return agent, agent.adds(spending, signal.size)

    def propagate(self, signal, total):
        del signal
        return self.rest + jnp.log(total) - self.spent


def prices_near(answer: Equilibrium) -> Callable[[Array, Array, Array], Array]:
    """Return equilibrium prices as a function that JAX can differentiate at the equilibrium.

    Call and differentiate it under `jax.enable_x64(True)`. It is exact to first order at the answer's own market,
    and not meant for any other point: solve again for that.

    Args:
        answer: An equilibrium that settled.

    Returns:
        prices(budgets, supply, valuations), of shapes (n,), (m,) and (n, m) to (m,); for sparse valuations the
        last argument is the CSR matrix's `data`. Goods that nobody wants stay at price zero.
    """
    market, normal = answer.market, Normal.of(answer.market)
    if market.utility.rho == -np.inf and not np.all(answer.prices[normal.goods] > 0):
        raise ValueError("with complements and a good left over, prices have a kink; no derivative is given")
    rho, goods = market.utility.rho, normal.goods
    start = jnp.asarray(np.log(answer.prices[goods] * market.supply[goods] / normal.total))
    place, unit = _places(normal), _units(normal)
    private = _anchors(answer, normal) if rho == 1 else {}
    kind = Anchored if rho == 1 else Buyer
    buyers = normal.buyers_state(kind, **private)
    spent = jnp.log(one_total(NearEquilibrium(rho, start, start), buyers, start))
    system = NearEquilibrium(rho, start, spent)

    def prices(budgets: Array, supply: Array, valuations: Array) -> Array:
        own = supply[goods][None, :] if normal.index is None else supply[goods][normal.index]
        flat = jnp.append(jnp.ravel(valuations), 0.0)[place]
        value = flat / own if rho == -np.inf else flat * own**rho
        index = None if normal.index is None else jnp.asarray(normal.index, jnp.int32)
        cash = None if normal.cash is None else jnp.asarray(normal.cash)
        budget = budgets[normal.buyers] / normal.total
        buyers = kind(value / unit, budget, index, cash, None, **private)
        rest = settle(system, State(buyers, start), rtol=1.0, atol=1.0, max_rounds=1)
        level = jnp.exp(rest.signal) * normal.total / supply[goods]
        return jnp.zeros(market.m).at[goods].set(level)

    return prices


def one_total(system: NearEquilibrium, buyers: Buyer, signal: Array) -> Array:
    """Return the total that a system's agents give at a signal."""
    return jnp.sum(jax.vmap(lambda buyer: system.respond(buyer, signal, jax.random.key(0))[1].x)(buyers), axis=0)


def entries(market: Market) -> np.ndarray:
    """Return the valuations as one flat array: row by row, or the stored entries of a sparse matrix."""
    valuations = market.valuations
    return np.ravel(valuations) if isinstance(valuations, np.ndarray) else np.asarray(valuations.data)


def _places(normal: Normal) -> np.ndarray:
    """Return for each entry of the buyers' table its place in the flat valuations; the last place is a zero."""
    market = normal.market
    if not scipy.sparse.issparse(market.valuations):
        columns = normal.goods[None, :] if normal.index is None else normal.goods[normal.index]
        place = normal.buyers[:, None] * market.m + columns
        return np.where(normal.value > 0, place, market.n * market.m)
    numbered = scipy.sparse.csr_array(market.valuations, copy=True)
    size = numbered.data.size
    numbered.data = np.arange(1, size + 1, dtype=float)
    part = numbered[normal.buyers][:, normal.goods]
    table = np.zeros(normal.value.shape)
    rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
    columns = part.indices
    if normal.index is not None:
        columns = np.arange(part.nnz) - np.repeat(part.indptr[:-1], np.diff(part.indptr))
    table[rows, columns] = part.data
    return np.where(table > 0, table - 1, size).astype(np.int64)


def _units(normal: Normal) -> np.ndarray:
    """Return the unit of utility that `Normal` gave each buyer, shape (n, 1)."""
    market = normal.market
    supply = normal.read(market.supply[normal.goods])
    flat = entries(market)
    raw = np.append(flat, 0.0)[_places(normal)]
    value = raw / supply if market.utility.rho == -np.inf else raw * supply**market.utility.rho
    return value.max(axis=1, keepdims=True)


def _anchors(answer: Equilibrium, normal: Normal) -> dict[str, Array]:
    """Return spending shares and value per money at equilibrium."""
    allocation = scipy.sparse.csr_array(answer.allocation)[normal.buyers][:, normal.goods].toarray()
    if normal.index is not None:
        allocation = np.take_along_axis(allocation, normal.index, axis=1)
    prices = normal.read(answer.prices[normal.goods])
    share = np.where(normal.value > 0, allocation * prices, 0.0)
    bang = normal.value / normal.read(answer.prices[normal.goods] * answer.market.supply[normal.goods])
    bang = bang * normal.total
    if normal.cash is not None:
        share = np.column_stack([share, answer.money[normal.buyers]])
        bang = np.column_stack([bang, normal.cash])
    share = share / share.sum(axis=1, keepdims=True)
    return {"anchor": jnp.asarray(share), "bang": jnp.asarray(bang)}


def price_sensitivities(answer: Equilibrium, groups: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return by how many per cent each price moves for one per cent more income of each group of buyers.

    Args:
        answer: An equilibrium that settled.
        groups: The numbers of the buyers in each group.

    Returns:
        For each group the elasticity of each price, shape (m,); zero for goods without a price. Over groups that
        make up everybody they sum to one, unless money has a worth of its own.
    """
    market = answer.market
    with jax.enable_x64(True):
        prices = prices_near(answer)
        fixed = jnp.asarray(market.supply), jnp.asarray(entries(market))
        changes = np.zeros((len(groups), market.n))
        for row, members in zip(changes, groups.values(), strict=True):
            row[members] = market.budgets[members]

        def along(change: Array) -> Array:
            return jax.jvp(lambda b: prices(b, *fixed), (jnp.asarray(market.budgets),), (change,))[1]

        moved = np.asarray(jax.jit(jax.vmap(along))(jnp.asarray(changes)))
    safe = np.where(answer.prices > 0, answer.prices, 1.0)
    return {name: np.where(answer.prices > 0, row / safe, 0.0) for name, row in zip(groups, moved, strict=True)}
