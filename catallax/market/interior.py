"""The central path of a market with linear utilities: the fast law of motion.

Three exchanges make a round. Buyers quote their demand and its elasticity; the auctioneer answers with the price
change that would clear the market at once. Buyers say how far they could follow it and what they would miss of it
at second order; the auctioneer corrects. Buyers say how far they can follow the corrected change, and all go the
least of these ways together. A buyer knows only the public signal and its own bundle; what it adds to the total is a
vector over goods and one outer product of its own. In the optimiser's words this is Mehrotra's primal-dual method
on the Eisenberg-Gale program with the barrier of each buyer weighted by its budget, so that no buyer is too small to
be served exactly.

For buyer i: bundle x, β the inverse price of utility, slack z_j = p_j − v_j β > 0. At rest x_j z_j = 0 and B = β u(x).

Reference:
    Eisenberg & Gale (1959); Mehrotra (1992), On the implementation of a primal-dual interior point method;
    Ye (2008), A path to the Arrow-Debreu competitive market equilibrium.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from ..core.message import Best, Outer, Sum
from ..core.system import AbstractSystem, Sequence
from .rules import Buyer

SHORT = 0.1
"""A step shorter than this says that some buyers are pressed against the boundary."""

RECENTRE = 0.3
"""How far to lean towards the centre after a short step."""


class Trader(Buyer):
    """A buyer on the central path.

    Args:
        bundle: x, its share of each good's supply (of money last, if that has a worth); positive where it values it.
        rate: β, its budget per unit of utility.
        bundle_step: What the last corrected price change would add to the bundle.
        rate_step: The same for the rate.
    """

    bundle: Float[Array, " k1"] | None = None
    rate: Float[Array, ""] | None = None
    bundle_step: Float[Array, " k1"] | None = None
    rate_step: Float[Array, ""] | None = None


class Path(eqx.Module):
    """The signal.

    Args:
        price: p.
        guess: The price change that would clear the market at once.
        change: The corrected price change.
        target: What x·z should become, per unit of budget.
        bundle_rate, price_rate: How much of the last change was carried out on bundles, and on prices.
        spread: Σ x·z, what separates the two sides of the market.
        entries: Σ budget × goods valued.
        factor: Cholesky factor of the elasticity of demand, scaled to a unit diagonal.
        scale: The square root of its diagonal.
        gap: The duality gap per unit of budget, of the state before the last change.
        regret: The largest buyer's regret there, or its error in spending if that is larger.
    """

    price: Float[Array, " m"]
    guess: Float[Array, " m"]
    change: Float[Array, " m"]
    target: Float[Array, ""]
    bundle_rate: Float[Array, ""]
    price_rate: Float[Array, ""]
    spread: Float[Array, ""]
    entries: Float[Array, ""]
    factor: Float[Array, "m m"]
    scale: Float[Array, " m"]
    gap: Float[Array, ""]
    regret: Float[Array, ""]

    @classmethod
    def at(cls, price: Float[Array, " m"], entries: float) -> "Path":
        """Return the signal with which to begin."""
        none, zero, far = jnp.zeros_like(price), jnp.zeros(()), jnp.asarray(jnp.inf)
        factor = jnp.zeros((price.size, price.size))
        return cls(price, none, none, zero, zero, zero, zero, jnp.asarray(entries), factor, none, far, far)


class Book(eqx.Module):
    """What a trader computes from its own state and the price, in every stage alike."""

    valued: Array
    worth: Array
    slack: Array
    weight: Array
    pull: Array
    stiffness: Array
    utility: Array

    def __init__(self, trader: Trader, price: Array):
        self.worth = trader.worth
        self.valued = self.worth > 0
        own = trader.reads(price)
        # The difference of two nearly equal numbers; below rounding it could come out at zero or less.
        slack = jnp.maximum(own - self.worth * trader.rate, 2e-16 * own)
        self.slack = jnp.where(self.valued, slack, 1.0)
        self.weight = trader.bundle / self.slack
        self.pull = self.worth * self.weight
        self.stiffness = jnp.sum(self.worth * self.pull) + trader.budget / trader.rate**2
        self.utility = jnp.sum(self.worth * trader.bundle)

    def follow(self, trader: Trader, change: Array, aim: Array | float) -> tuple[Array, Array, Array]:
        """Return the change of bundle, rate and slack that answers a price change and brings x·z to `aim`.

        Linearises x·z = aim, z = p − vβ and B/β = v·x.
        """
        pushed = jnp.where(self.valued, aim / self.slack, 0.0)
        own = trader.budget / trader.rate - jnp.sum(self.worth * pushed)
        rate = (own + jnp.sum(self.pull * change)) / self.stiffness
        slack = jnp.where(self.valued, change - self.worth * rate, 0.0)
        return pushed - trader.bundle - self.weight * slack, rate, slack

    def call(self, aim: Array) -> Array:
        """Return how an aim for x·z adds to the demand that prices must clear."""
        pushed = jnp.where(self.valued, aim / self.slack, 0.0)
        return pushed - self.pull * (jnp.sum(self.worth * pushed) / self.stiffness)

    def room(self, trader: Trader, bundle: Array, rate: Array, slack: Array) -> dict[str, Best]:
        """Return how far this buyer can go in a direction: messages whose total is the least such way."""
        shrink = jnp.where(self.valued & (bundle < 0), -trader.bundle / bundle, jnp.inf)
        close = jnp.where(self.valued & (slack < 0), -self.slack / slack, jnp.inf)
        down = jnp.where(rate < 0, -trader.rate / rate, jnp.inf)
        bundle_room, price_room = jnp.min(shrink), jnp.minimum(jnp.min(close), down)
        return {"bundle": Best(bundle_room, bundle_room), "price": Best(price_room, price_room)}


class Quote(AbstractSystem):
    """Carry out the last change; quote demand and elasticity at the new price.

    Args:
        money: Whether unspent money has a worth, so that the level of prices is not free.
    """

    money: bool = eqx.field(static=True)

    def respond(self, agent, signal, key):
        del key
        m = signal.price.size
        bundle = carried_out(agent, signal)
        rate = agent.rate + jnp.where(signal.price_rate > 0, signal.price_rate * agent.rate_step, 0.0)
        agent = eqx.tree_at(lambda a: (a.bundle, a.rate), agent, (bundle, rate))
        book = Book(agent, signal.price)
        root = agent.spread(book.pull, m) / jnp.sqrt(book.stiffness)
        own = agent.budget / agent.rate / book.stiffness
        # At its dearest admissible rate the buyer's own gap is the logarithm of best over obtained utility.
        ratio = jnp.where(book.valued, agent.reads(signal.price) / book.worth, jnp.inf)
        behind = jnp.log(agent.budget / (jnp.min(ratio) * book.utility))
        held = jnp.sum(jnp.where(book.valued, bundle * agent.reads(signal.price), 0.0))
        off = jnp.maximum(behind, jnp.abs(held / agent.budget - 1))
        return agent, {
            "weight": Sum(agent.spread(book.weight, m)),
            "second": Outer(root, root),
            "demand": Sum(agent.spread(book.pull * own, m)),
            "spread": Sum(jnp.sum(jnp.where(book.valued, bundle * book.slack, 0.0))),
            "money": Sum(jnp.zeros(()) if agent.cash is None else bundle[-1]),
            "gap": Sum(agent.budget * behind),
            "regret": Best(-off, off),
        }

    def propagate(self, signal, total):
        weight = total["weight"]
        elasticity = jnp.diag(weight) - total["second"]
        # A good with one eager buyer cancels to rounding error.
        scale = jnp.sqrt(jnp.maximum(jnp.diag(elasticity), 4e-16 * weight))
        factor = steady_cholesky(elasticity / jnp.outer(scale, scale))
        guess = cho_solve((factor, True), (total["demand"] - 1.0) / scale) / scale
        # Where rounding has the last word there is no direction any more: stay (Within sees the signal rest).
        found = jnp.isfinite(factor[-1, -1]) & jnp.all(jnp.isfinite(guess))
        factor, guess = jnp.where(found, factor, jnp.eye(weight.size)), jnp.where(found, guess, 0.0)
        worth = jnp.sum(signal.price) + total["money"]
        # Where money is worth nothing in itself the gap holds at any multiple of the price; take the best.
        level = worth - 1.0 if self.money else jnp.log(worth)
        behind = total["regret"] + (0.0 if self.money else level)
        return Path(
            price=signal.price,
            guess=guess,
            change=guess,
            target=signal.target,
            bundle_rate=signal.bundle_rate,
            price_rate=signal.price_rate,
            spread=total["spread"],
            entries=signal.entries,
            factor=factor,
            scale=scale,
            gap=total["gap"] + level,
            regret=-jnp.expm1(-behind),
        )


class Predict(AbstractSystem):
    """Say how far the uncorrected change could be followed, and what it misses at second order."""

    def respond(self, agent, signal, key):
        del key
        m = signal.price.size
        book = Book(agent, signal.price)
        bundle, rate, slack = book.follow(agent, agent.reads(signal.guess, 0.0), 0.0)
        return agent, {
            "room": book.room(agent, bundle, rate, slack),
            "by_price": Sum(jnp.sum(agent.bundle * slack)),
            "by_bundle": Sum(jnp.sum(jnp.where(book.valued, book.slack, 0.0) * bundle)),
            "by_both": Sum(jnp.sum(bundle * slack)),
            "missed": Sum(agent.spread(book.call(bundle * slack), m)),
            "centre": Sum(agent.spread(book.call(jnp.full_like(slack, agent.budget)), m)),
        }

    def propagate(self, signal, total):
        along_bundle = jnp.minimum(total["room"]["bundle"], 1.0)
        along_price = jnp.minimum(total["room"]["price"], 1.0)
        reached = signal.spread + along_price * total["by_price"] + along_bundle * total["by_bundle"]
        reached = reached + along_price * along_bundle * total["by_both"]
        # Mehrotra's rule: the better the plain direction does, the less we lean towards the centre.
        centring = jnp.clip(reached / signal.spread, 0.0, 1.0) ** 3
        short = jnp.minimum(signal.bundle_rate, signal.price_rate) < SHORT
        centring = jnp.where(short, jnp.maximum(centring, RECENTRE), centring)
        target = centring * signal.spread / signal.entries
        call = (target * total["centre"] - total["missed"]) / signal.scale
        change = signal.guess + cho_solve((signal.factor, True), call) / signal.scale
        return eqx.tree_at(lambda s: (s.change, s.target), signal, (change, target))


class Follow(AbstractSystem):
    """Say how far the corrected change can be followed; all go the least of these ways."""

    def respond(self, agent, signal, key):
        del key
        book = Book(agent, signal.price)
        plain, _, slack = book.follow(agent, agent.reads(signal.guess, 0.0), 0.0)
        aim = signal.target * agent.budget - plain * slack
        bundle, rate, slack = book.follow(agent, agent.reads(signal.change, 0.0), aim)
        moved = eqx.tree_at(lambda a: (a.bundle_step, a.rate_step), agent, (bundle, rate))
        return moved, book.room(agent, bundle, rate, slack)

    def propagate(self, signal, total):
        falling = jnp.where(signal.change < 0, -signal.price / signal.change, jnp.inf)
        # Close to the end the boundary may be approached faster.
        part = jnp.clip(1 - 10 * signal.spread, 0.9, 0.995)
        bundle_rate = jnp.minimum(1.0, part * total["bundle"])
        price_rate = jnp.minimum(1.0, part * jnp.minimum(total["price"], jnp.min(falling)))
        sound = jnp.all(jnp.isfinite(signal.change)) & jnp.isfinite(bundle_rate) & jnp.isfinite(price_rate)
        sound &= jnp.any(signal.guess != 0)
        change = jnp.where(sound, signal.change, 0.0)
        bundle_rate, price_rate = jnp.where(sound, bundle_rate, 0.0), jnp.where(sound, price_rate, 0.0)
        return eqx.tree_at(
            lambda s: (s.price, s.change, s.bundle_rate, s.price_rate),
            signal,
            (signal.price + price_rate * change, change, bundle_rate, price_rate),
        )


MOST_RIDGE = 1e-9
"""Beyond this a ridge would falsify the direction."""


def steady_cholesky(matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Return the Cholesky factor of a matrix of unit diagonal that rounding may have left just short of definite.

    The ridge starts at the rounding error and grows a hundredfold until the factor exists, or holds NaN for good.
    """

    def attempt(ridge: Array) -> Array:
        return jnp.linalg.cholesky(matrix + ridge * jnp.eye(matrix.shape[0]))

    def unfinished(state: tuple[Array, Array]) -> Array:
        return jnp.isnan(state[1][-1, -1]) & (state[0] < MOST_RIDGE)

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        ridge = 100 * state[0]
        return ridge, attempt(ridge)

    first = jnp.asarray(4e-15)
    return jax.lax.while_loop(unfinished, again, (first, attempt(first)))[1]


def central_path(*, money: bool = False) -> Sequence:
    """Return the fast law of motion for linear utilities, or quasilinear ones with `money`."""
    return Sequence((Quote(money), Predict(), Follow()))


def carried_out(trader: Trader, signal: Path) -> Float[Array, " k1"]:
    """Return a trader's bundle with the last change carried out."""
    return trader.bundle + jnp.where(signal.bundle_rate > 0, signal.bundle_rate * trader.bundle_step, 0.0)
