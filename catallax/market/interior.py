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

FLOOR = 450
"""Once the two sides of the market are this many roundings apart, elasticities of x/z have lost their digits: stay."""

RECENTRE = 0.3
"""How far to lean towards the centre after a short step."""


class Trader(Buyer):
    """A buyer on the central path.

    Args:
        bundle: x, its share of each good's supply (of money last, if that has a worth); positive where it values it.
        rate: β, its budget per unit of utility.
        close: 1/z with z = p − vβ > 0; zero for fillers. Carried along, since near rest z has no digits left in p − vβ.
        rate_step: What the last corrected price change would add to the rate.
        stiffness: How hard it is to move the rate: Σ v²x/z + u/β.
        guessed: How the rate would answer the uncorrected change.
        missed: Σ v·(second-order error of x·z)/z, for that answer.
        centre: Σ v/z.
    """

    bundle: Float[Array, " k1"] = eqx.field(kw_only=True)
    rate: Float[Array, ""] = eqx.field(kw_only=True)
    close: Float[Array, " k1"] = eqx.field(kw_only=True)
    rate_step: Float[Array, ""] = eqx.field(kw_only=True)
    stiffness: Float[Array, ""] = eqx.field(kw_only=True)
    guessed: Float[Array, ""] = eqx.field(kw_only=True)
    missed: Float[Array, ""] = eqx.field(kw_only=True)
    centre: Float[Array, ""] = eqx.field(kw_only=True)

    def shift(self, change: Float[Array, " m"], rate_step: Float[Array, ""]) -> Float[Array, " k1"]:
        """Return by what share of itself each slack would change."""
        return (self.reads(change, 0.0) - self.worth * rate_step) * self.close

    def growth(self, signal: "Path") -> tuple[Float[Array, " k1"], Float[Array, " k1"]]:
        """Return how the last corrected change would change the bundle, beside x/z: dx = x·(the first) + aim/z."""
        guessed = self.shift(signal.guess, self.guessed)
        shift = self.shift(signal.change, self.rate_step)
        return uncorrected(guessed) - 1 - shift, shift


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
        scale: The square root of its diagonal; infinite where there is no direction to go in.
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


class Quote(AbstractSystem):
    """Carry out the last change; quote demand and elasticity at the new price.

    Args:
        money: Whether unspent money has a worth, so that the level of prices is not free.
    """

    money: bool = eqx.field(static=True)

    def respond(self, agent, signal, key):
        del key
        m = signal.price.size
        bundle, shift = carried_out(agent, signal), agent.shift(signal.change, agent.rate_step)
        close = agent.close / (1 + signal.price_rate * shift)
        rate = agent.rate + signal.price_rate * agent.rate_step
        weight = bundle * close
        pull = agent.worth * weight
        utility = jnp.sum(agent.worth * bundle)
        stiffness = jnp.sum(agent.worth * pull) + utility / rate
        root = agent.spread(pull, m) / jnp.sqrt(stiffness)
        held = jnp.sum(bundle * agent.reads(signal.price))
        used = rate * utility
        # What a unit of utility costs is at least the rate, so this bounds best over obtained utility.
        behind = jnp.log(agent.budget / used)
        off = jnp.maximum(behind, jnp.abs(held / agent.budget - 1))
        agent = eqx.tree_at(lambda a: (a.bundle, a.rate, a.close, a.stiffness), agent, (bundle, rate, close, stiffness))
        return agent, {
            "weight": agent.adds(weight, m),
            "second": Outer(root, root),
            "demand": agent.adds(pull * (agent.budget / rate / stiffness), m),
            "spread": Sum(held - used),
            "money": Sum(jnp.zeros(()) if agent.cash is None else bundle[-1]),
            "gap": Sum(agent.budget * behind),
            "regret": Best(-off, off),
        }

    def propagate(self, signal, total):
        weight = total["weight"]
        elasticity = jnp.diag(weight) - total["second"]
        # A good with one eager buyer cancels to rounding error.
        scale = jnp.sqrt(jnp.maximum(jnp.diag(elasticity), 2 * jnp.finfo(weight.dtype).eps * weight))
        factor = steady_cholesky(elasticity / jnp.outer(scale, scale))
        guess = cho_solve((factor, True), (total["demand"] - 1.0) / scale) / scale
        # Where rounding has the last word there is no direction any more: stay (Within sees the signal rest).
        found = jnp.isfinite(factor[-1, -1]) & jnp.all(jnp.isfinite(guess))
        factor, guess = jnp.where(found, factor, jnp.eye(weight.size)), jnp.where(found, guess, 0.0)
        scale = jnp.where(found, scale, jnp.inf)
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
        pull = agent.worth * agent.bundle * agent.close
        change = agent.reads(signal.guess, 0.0)
        rate = (agent.budget / agent.rate + jnp.sum(pull * change)) / agent.stiffness
        slack = change - agent.worth * rate
        shift = slack * agent.close
        missed = -agent.bundle * uncorrected(shift)
        missed_worth, centre = jnp.sum(agent.worth * missed), jnp.sum(agent.worth * agent.close)
        agent = eqx.tree_at(lambda a: (a.guessed, a.missed, a.centre), agent, (rate, missed_worth, centre))
        return agent, {
            "room": room(1 + shift, -shift, -rate / agent.rate),
            "by_price": Sum(jnp.sum(agent.bundle * slack)),
            "by_both": Sum(-jnp.sum(agent.bundle * slack * (1 + shift))),
            "missed": agent.adds(missed - pull * (missed_worth / agent.stiffness), m),
            "centre": agent.adds(agent.budget * (agent.close - pull * (centre / agent.stiffness)), m),
        }

    def propagate(self, signal, total):
        along_bundle = jnp.minimum(total["room"]["bundle"], 1.0)
        along_price = jnp.minimum(total["room"]["price"], 1.0)
        by_bundle = -signal.spread - total["by_price"]
        reached = signal.spread + along_price * total["by_price"] + along_bundle * by_bundle
        reached = reached + along_price * along_bundle * total["by_both"]
        # Mehrotra's rule: the better the plain direction does, the less we lean towards the centre.
        centring = jnp.clip(reached / signal.spread, 0.0, 1.0) ** 3
        shorter = jnp.minimum(signal.bundle_rate, signal.price_rate)
        short = (shorter > 0) & (shorter < SHORT)
        centring = jnp.where(short, jnp.maximum(centring, RECENTRE), centring)
        target = centring * signal.spread / signal.entries
        call = (target * total["centre"] - total["missed"]) / signal.scale
        change = signal.guess + cho_solve((signal.factor, True), call) / signal.scale
        return eqx.tree_at(lambda s: (s.change, s.target), signal, (change, target))


class Follow(AbstractSystem):
    """Say how far the corrected change can be followed; all go the least of these ways."""

    def respond(self, agent, signal, key):
        del key
        pull = agent.worth * agent.bundle * agent.close
        aim = signal.target * agent.budget
        own = agent.budget / agent.rate - aim * agent.centre + agent.missed
        rate = (own + jnp.sum(pull * agent.reads(signal.change, 0.0))) / agent.stiffness
        # A direction that rounding has spoilt is not carried out (see propagate), but must not be NaN either.
        agent = eqx.tree_at(lambda a: a.rate_step, agent, jnp.nan_to_num(rate))
        growth, shift = agent.growth(signal)
        fall = jnp.where(agent.bundle > 0, -growth - aim * agent.close / agent.bundle, 0.0)
        return agent, room(fall, -shift, -rate / agent.rate)

    def propagate(self, signal, total):
        falling = jnp.where(signal.change < 0, -signal.price / signal.change, jnp.inf)
        # Close to the end the boundary may be approached faster.
        part = jnp.clip(1 - 10 * signal.spread, 0.9, 0.995)
        bundle_rate = jnp.minimum(1.0, part * total["bundle"])
        price_rate = jnp.minimum(1.0, part * jnp.minimum(total["price"], jnp.min(falling)))
        sound = jnp.all(jnp.isfinite(signal.change)) & jnp.isfinite(bundle_rate) & jnp.isfinite(price_rate)
        sound &= jnp.all(jnp.isfinite(signal.scale)) & (signal.spread > FLOOR * jnp.finfo(signal.spread.dtype).eps)
        change = jnp.where(sound, signal.change, 0.0)
        bundle_rate, price_rate = jnp.where(sound, bundle_rate, 0.0), jnp.where(sound, price_rate, 0.0)
        return eqx.tree_at(
            lambda s: (s.price, s.change, s.bundle_rate, s.price_rate),
            signal,
            (signal.price + price_rate * change, change, bundle_rate, price_rate),
        )


def uncorrected(shift: Array) -> Array:
    """Return what a linear step misses of x·z, over −x·z, where the slack z changes by this share of itself.

    Linearised, x(z + dz) + z·dx = 0 gives dx = −x(1 + dz/z), and x·z would be zero but for dx·dz.
    """
    return shift * (1 + shift)


def room(bundle: Array, slack: Array, rate: Array) -> dict[str, Best]:
    """Return how far a buyer can go until something is used up, given by what share of itself each thing falls.

    The total of these messages is the least such way.
    """
    smallest = jnp.finfo(bundle.dtype).tiny
    along_bundle = 1 / jnp.maximum(jnp.max(bundle), smallest)
    along_price = 1 / jnp.maximum(jnp.maximum(jnp.max(slack), rate), smallest)
    return {"bundle": Best(along_bundle, along_bundle), "price": Best(along_price, along_price)}


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

    first = jnp.asarray(18 * jnp.finfo(matrix.dtype).eps, matrix.dtype)
    return jax.lax.while_loop(unfinished, again, (first, attempt(first)))[1]


def central_path(*, money: bool = False) -> Sequence:
    """Return the fast law of motion for linear utilities, or quasilinear ones with `money`."""
    return Sequence((Quote(money), Predict(), Follow()))


def carried_out(trader: Trader, signal: Path) -> Float[Array, " k1"]:
    """Return a trader's bundle with the last change carried out."""
    growth, _ = trader.growth(signal)
    aim = signal.target * trader.budget
    return trader.bundle * (1 + signal.bundle_rate * growth) + (signal.bundle_rate * aim) * trader.close
