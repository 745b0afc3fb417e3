"""A competitive market: buyers answer prices, and the total of their answers moves the prices.

Agents: buyers, each with a budget and its own valuations
Signal: the prices of the goods (the fast laws add what they need to move them well)
Reads: the prices of the goods it values
Emits: its spending or demand, and for the fast laws its elasticity
Law of motion: tâtonnement, proportional response, Newton on log-prices, or the central path (interior.py)
Conserves: spending equals budgets, so prices stay worth the total budget (proportional response)
Rest: a market equilibrium: every buyer's best bundle at the prices, and every good sold
Message size: goods, or goods × goods with elasticities; never buyers
Source: Walras 1874; Eisenberg & Gale 1959; Zhang 2011; Cheung, Cole & Devanur 2020

Units inside the rules: each good's supply is one and budgets sum to one (solve.py converts), so that prices
sum to about one. All arrays are float64.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..core.message import Outer, Sum
from ..core.system import AbstractSystem


class Buyer(eqx.Module):
    """One buyer: k goods that it values, out of m.

    Args:
        value: What one unit of each good is worth; 0 marks a filler.
        budget: Its money.
        goods: Which goods; None if `value` lists all m in order.
        cash: What one unit of unspent money is worth; None if money is worth nothing in itself.
        bids: What it spends on each good, and last on money if that has a worth; only the laws with memory use it.
    """

    value: Float[Array, " k"]
    budget: Float[Array, ""]
    goods: Int[Array, " k"] | None = None
    cash: Float[Array, ""] | None = None
    bids: Float[Array, " k1"] | None = None

    def reads(self, signal: Float[Array, " m"], money: float = 1.0) -> Float[Array, " k1"]:
        """Return the entries of a public vector at this buyer's goods, and `money` for unspent money."""
        own = signal if self.goods is None else signal[self.goods]
        return own if self.cash is None else jnp.append(own, money)

    def spread(self, x: Float[Array, " k1"], goods: int) -> Float[Array, " m"]:
        """Return a private vector as one over all m goods, without money."""
        x = x if self.cash is None else x[:-1]
        return x if self.goods is None else jnp.zeros(goods, x.dtype).at[self.goods].add(x)

    def adds(self, x: Float[Array, " k1"], goods: int) -> Sum:
        """Return the message that adds a private vector, without money, to a total over all m goods."""
        x = x if self.cash is None else x[:-1]
        return Sum(x) if self.goods is None else Sum(x, at=self.goods, size=goods)

    @property
    def worth(self) -> Float[Array, " k1"]:
        """Values, and that of money last if it has one."""
        return self.value if self.cash is None else jnp.append(self.value, self.cash)


def shares(buyer: Buyer, log_price: Float[Array, " k"], eta: Float[Array, ""]) -> tuple[Array, Array]:
    """Return how a price-taker with CES utility splits its budget, and the log of the normalising sum.

    Shares are proportional to v^(1+η) p^(−η) with η = ρ/(1−ρ) the elasticity of substitution less one.

    Reference:
        Arrow, Chenery, Minhas & Solow (1961); the demand of a CES utility.
    """
    valued = buyer.value > 0
    logits = (1 + eta) * jnp.log(jnp.where(valued, buyer.value, 1.0)) - eta * log_price
    logits = jnp.where(valued, logits, -jnp.inf)
    most = jnp.max(logits)
    weights = jnp.exp(logits - most)
    total = jnp.sum(weights)
    return weights / total, most + jnp.log(total)


def best_spending(buyer: Buyer, price: Float[Array, " m"], rho: float) -> Float[Array, " k1"]:
    """Return what a price-taker spends on each of its goods (and on money): its best bundle at these prices.

    For linear utility the best goods share the budget equally where several are best.
    """
    own = buyer.reads(price)
    if rho == 1:
        bang = jnp.where(buyer.worth > 0, buyer.worth / own, 0.0)
        best = (bang >= jnp.max(bang) * (1 - 1e-12)).astype(own.dtype)
        return buyer.budget * best / jnp.sum(best)
    if rho == -jnp.inf:
        cost = buyer.value * own
        return buyer.budget * cost / jnp.sum(cost)
    share, _ = shares(buyer, jnp.log(own), jnp.asarray(rho / (1 - rho), own.dtype))
    return buyer.budget * share


def best_bundle(buyer: Buyer, price: Float[Array, " m"], rho: float) -> Float[Array, " k1"]:
    """Return what a price-taker asks for at these prices, of each of its goods (and of money)."""
    own = buyer.reads(price)
    if rho == -jnp.inf:
        # Complements are wanted in their proportions even where one of them is free.
        return buyer.value * (buyer.budget / jnp.sum(buyer.value * own))
    return best_spending(buyer, price, rho) / own


class Tatonnement(AbstractSystem):
    """The textbook auctioneer: raise the price of what is wanted more than there is.

    p ← p·exp(step·clip(demand − supply, −1, 1)). Converges for gross substitutes and small steps; with linear
    utilities demand jumps and the price ends up circling the equilibrium.

    Args:
        rho: The utility's ρ.
        step: η > 0.

    Reference:
        Walras (1874); Cheung, Cole & Devanur (2020), Tatonnement beyond gross substitutes?, eq. 2.
    """

    rho: float = eqx.field(static=True)
    step: float | Array = 0.1

    def respond(self, agent, signal, key):
        del key
        return agent, agent.adds(best_bundle(agent, signal, self.rho), signal.size)

    def propagate(self, signal, total):
        return signal * jnp.exp(self.step * jnp.clip(total - 1.0, -1.0, 1.0))


class ProportionalResponse(AbstractSystem):
    """Each buyer bids on a good in proportion to the utility it got from it; a price is the sum of bids.

    b_ij ← B_i v_ij x_ij^ρ / Σ_k v_ik x_ik^ρ with x = b/p, for 0 < ρ ≤ 1. For ρ ≤ 0 a buyer bids what it would spend
    as a price-taker, which contracts there (for Leontief it is expectation maximisation).

    Reference:
        Zhang (2011), Proportional response dynamics in the Fisher market, eq. 1; Cheung, Cole & Tao (2018).
    """

    rho: float = eqx.field(static=True)

    def respond(self, agent, signal, key):
        del key
        if self.rho > 0:
            got = agent.worth * (agent.bids / agent.reads(signal)) ** self.rho
            bids = agent.budget * got / jnp.sum(got)
        else:
            bids = best_spending(agent, signal, self.rho)
        moved = eqx.tree_at(lambda buyer: buyer.bids, agent, bids)
        return moved, agent.adds(bids, signal.size)

    def propagate(self, signal, total):
        del signal
        return total


class Trial(eqx.Module):
    """The signal of `ElasticDemand`: a trial price, and what is needed to judge it.

    Args:
        log_price: log p at which buyers are asked.
        eta: The elasticity of substitution less one at which they are asked to answer; grows to its target.
        good: The last log-price that was accepted.
        value: The dual objective there; infinite before the first.
        error: The largest relative excess spending at `good`, once eta is at its target; else infinite.
    """

    log_price: Float[Array, " m"]
    eta: Float[Array, ""]
    good: Float[Array, " m"]
    value: Float[Array, ""]
    error: Float[Array, ""]

    @classmethod
    def at(cls, log_price: Array, eta: Array) -> "Trial":
        """Return the signal with which to begin."""
        infinite = jnp.asarray(jnp.inf)
        return cls(log_price, jnp.asarray(eta), log_price, infinite, infinite)


NEAR = 1e-6
"""The relative excess demand below which Newton's steps on smooth utilities are taken whole, untested."""


class ElasticDemand(AbstractSystem):
    """Newton's method on log-prices, for smooth utilities: buyers add how their spending answers prices.

    The dual objective Σp − Σ_i B_i log e_i(p), with e_i the price of one unit of utility, has gradient p − spending
    and a Hessian that is one `Outer` message. Steps are halved until the objective falls; close substitutes (ρ near
    1) are approached from less close ones.

    Args:
        rho: The utility's ρ, finite and less than 1.

    Reference:
        Eisenberg & Gale (1959), dual program.
    """

    rho: float = eqx.field(static=True)

    @property
    def target(self) -> float:
        """The elasticity of substitution less one: η = ρ/(1−ρ)."""
        return self.rho / (1 - self.rho)

    def respond(self, agent, signal, key):
        del key
        log_price = agent.reads(signal.log_price)
        share, log_sum = shares(agent, log_price, signal.eta)
        value = -jnp.sum(share * log_price) if self.rho == 0 else log_sum / signal.eta
        m = signal.log_price.size
        root = agent.spread(share * jnp.sqrt(agent.budget), m)
        return agent, {
            "spending": agent.adds(share * agent.budget, m),
            "value": Sum(agent.budget * value),
            "second": Outer(root, root),
        }

    def propagate(self, signal, total):
        price, spending = jnp.exp(signal.log_price), total["spending"]
        value = jnp.sum(price) + total["value"]
        # Simple decrease is enough: the objective is convex along Newton's direction, and steps are halved.
        error = jnp.max(jnp.abs(spending / price - 1))
        # So near to rest whole steps converge, and what values differ by is rounding.
        near = error < NEAR
        taken = near | (value <= signal.value) | ~jnp.isfinite(signal.value)
        # Here the answer is to an easier question; close enough, so ask the next.
        easier = taken & (error < 0.1) & (signal.eta != self.target)
        direction = self._direction(price, spending, total["second"], signal.eta)
        step = jnp.minimum(1.0, 1.5 / jnp.max(jnp.abs(direction)))
        onward = Trial(
            log_price=signal.log_price + step * direction,
            eta=signal.eta,
            good=signal.log_price,
            value=value,
            error=jnp.where(signal.eta == self.target, error, jnp.inf),
        )
        back = eqx.tree_at(lambda s: s.log_price, signal, (signal.good + signal.log_price) / 2)
        harder = Trial.at(signal.log_price, jnp.minimum(3 * signal.eta, self.target))
        chosen = jax.tree.map(lambda a, b: jnp.where(taken, a, b), onward, back)
        return jax.tree.map(lambda a, b: jnp.where(easier, a, b), harder, chosen)

    def _direction(self, price: Array, spending: Array, second: Array, eta: Array) -> Array:
        if self.rho > 0:
            # Convex in log-prices; the larger of the two diagonals keeps far steps short.
            matrix = jnp.diag(jnp.maximum(price, spending) + eta * spending) - eta * second
        else:
            # Convex in prices only: Newton's matrix there, seen from log-prices.
            matrix = jnp.diag((1 + eta) * spending) - eta * second
        scale = jnp.sqrt(jnp.diag(matrix))
        matrix = matrix / jnp.outer(scale, scale) + 1e-15 * jnp.eye(price.size)
        return jax.scipy.linalg.solve(matrix, (spending - price) / scale, assume_a="pos") / scale


class Basket(eqx.Module):
    """The signal of `Complements`: prices, what is left unsold, and how far from complementary they are."""

    price: Float[Array, " m"]
    unsold: Float[Array, " m"]
    error: Float[Array, ""]


class Complements(AbstractSystem):
    """Newton's method with a barrier, for Leontief utilities, where a good may be left over at price zero.

    A buyer of u units of utility takes a_j·u of good j; u = B/(a·p). Price and leftover obey price·unsold = μ → 0.

    Reference:
        Eisenberg & Gale (1959); Mehrotra (1992) for the fraction-to-boundary rule.
    """

    def respond(self, agent, signal, key):
        del key
        m = signal.price.size
        cost = jnp.sum(agent.value * agent.reads(signal.price))
        demand = agent.spread(agent.value * (agent.budget / cost), m)
        return agent, {"demand": Sum(demand), "second": Outer(demand, demand / agent.budget)}

    def propagate(self, signal, total):
        price, unsold, demand = signal.price, signal.unsold, total["demand"]
        gap = jnp.sum(price * unsold)
        short = jnp.max(jnp.abs(demand + unsold - 1))
        mu = jnp.where(short < 0.5, 0.05, 0.5) * gap / price.size
        matrix = total["second"] + jnp.diag(unsold / price)
        scale = jnp.sqrt(jnp.diag(matrix))
        matrix = matrix / jnp.outer(scale, scale) + 1e-14 * jnp.eye(price.size)
        move = jax.scipy.linalg.solve(matrix, (demand + mu / price - 1) / scale, assume_a="pos") / scale
        release = mu / price - unsold - unsold / price * move
        far = jnp.maximum(jnp.max(-move / price), jnp.max(-release / unsold))
        step = jnp.minimum(1.0, 0.95 / jnp.maximum(far, 1e-12))
        step = jnp.minimum(step, 2.0 / jnp.maximum(jnp.max(move / price), 1e-12))
        # At rest either the price or the leftover is zero, not merely their product.
        error = jnp.maximum(short, jnp.sum(jnp.minimum(price, unsold)))
        return Basket(price + step * move, unsold + step * release, error)
