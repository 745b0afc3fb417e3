"""A market for experts: tokens buy places at the experts that are worth more to them than they cost.

Agents: tokens, each with its affinities for the experts and a reserve, what a place must be worth to it
Signal: the experts' prices, the bracket in which each new price is sought, and the step of the search
Reads: all prices
Emits: which experts it would take at each trial price, and the least and greatest that any is worth to it
Law of motion: alternating quantiles: prices at which the experts are full, found by counting, then new reserves
Conserves: the number of places; idle tokens take those to spare
Rest: an optimum of the assignment problem: no token would rather have other experts at the prices
Message size: experts × 7 whole numbers, and two; never tokens
Source: Koopmans & Beckmann 1957; Bertsekas 1988; Lewis et al. 2021; Wang et al. 2024 (2408.15664)

A round is one pass of the search. In the first of a sweep, tokens set their reserves between their k-th and (k+1)-th
surplus at the prices, and say between which bounds prices can lie; each further one makes the bracket of every price
eight times smaller. `clear` is the same law for a whole batch at once, within a training step.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ..core.message import Best, Sum
from ..core.system import AbstractSystem, State
from .clear import extremes, idle_reserve, narrowed, reserves, spare, trial_prices


class Token(eqx.Module):
    """One token.

    Args:
        affinity: How well each expert suits it; constant.
        reserve: What a place must be worth above its price: between its k-th and its (k+1)-th surplus.
    """

    affinity: Float[Array, " experts"]
    reserve: Float[Array, ""]


class Quotation(eqx.Module):
    """The signal.

    Args:
        price: The experts' prices; the least is 0 after a sweep.
        low: Prices that too many would pay.
        high: Prices that no more would pay than there are places.
        step: How many passes of the search are done; 0 asks for new reserves.
    """

    price: Float[Array, " experts"]
    low: Float[Array, " experts"]
    high: Float[Array, " experts"]
    step: Int[Array, ""]


class RouterMarket(AbstractSystem):
    """Alternating quantiles on the dual of the assignment problem.

    min over p and r of c·Σ_e p_e + k·Σ_i r_i + Σ_ie max(a_ie − p_e − r_i, 0), by turns over all reserves r and all
    prices p. For each block the least is a quantile, so that a sweep never raises the bound on what any assignment is
    worth.

    Args:
        active: k, how many experts a token takes.
        capacity: c, places per expert.
        slack: How many places are to spare: capacity · experts − active · tokens.
        steps: Passes of the search for prices in a sweep.

    Reference:
        Koopmans & Beckmann (1957); Bertsekas (1988), The auction algorithm; the dual as a router's bias: 2502.15451.
    """

    active: int = eqx.field(static=True)
    capacity: Int[Array, ""]
    slack: Int[Array, ""]
    steps: int = eqx.field(static=True, default=6)

    def respond(self, agent, signal, key):
        del key
        surplus = agent.affinity - signal.price
        reserve = jnp.where(signal.step == 0, reserves(surplus, self.active), agent.reserve)
        worth = agent.affinity - reserve
        least, most = extremes(worth)
        message = {
            "takers": Sum(worth[None] > trial_prices(signal.low, signal.high)),
            "least": Best(least, least),
            "most": Best(-most, most),
        }
        return eqx.tree_at(lambda token: token.reserve, agent, reserve), message

    def propagate(self, signal, total):
        floor = idle_reserve(signal.price)
        low, high = narrowed(signal.low, signal.high, total["takers"], self.capacity, self.slack, floor)
        opening = signal.step == 0
        low = jnp.where(opening, total["least"], low)
        high = jnp.where(opening, total["most"], high)
        over = signal.step == self.steps
        price = jnp.where(over, high - jnp.min(high), signal.price)
        return Quotation(price, low, high, jnp.where(over, 0, signal.step + 1).astype(signal.step.dtype))


def first_state(
    affinity: ArrayLike, active: int, capacity: int, price: ArrayLike | None = None, *, steps: int = 6
) -> tuple[RouterMarket, State]:
    """Return the market and where it begins, in the affinities' precision.

    Args:
        affinity: Shape (tokens, experts).
        active: k.
        capacity: c.
        price: Where prices start; at zero by default.
        steps: Passes of the search for prices in a sweep.
    """
    table: Any = jnp.asarray(affinity)
    tokens, experts = table.shape
    none = jnp.zeros(experts, table.dtype)
    start = none if price is None else jnp.asarray(price, table.dtype)
    system = RouterMarket(active, jnp.asarray(capacity, jnp.int32), spare(active, tokens, capacity, experts), steps)
    signal = Quotation(start, none, none, jnp.zeros((), jnp.int32))
    return system, State(Token(table, jnp.zeros(tokens, table.dtype)), signal)
