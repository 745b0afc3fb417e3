"""Routers as data: how each one scores tokens, prices the current batch, and learns a price for the next.

Whatever balances a mixture of experts can be said as a price per expert that is taken off the scores before a token
chooses. The rules differ in when they find it: never, one batch late, or for the batch at hand.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from .balance import balance
from .clear import clear, total

SWEEPS = 128
"""Sweeps after which the market is left to the repair."""

PARTING = 0.001
"""How far equal tokens are moved apart, as a share of the scores' range; so much worth a choice may cost at most."""

SINKHORN_SWEEPS = 8
"""Passes of Sinkhorn's scaling over rows and columns."""

HALVINGS = 24
"""How often a quantile's bracket is halved: to the last bit of its width in single precision."""

SETTLED = 0.002
"""Share by which demand may exceed the mean at a price that is frozen, among the tokens from which it was taken."""

AUCTION_ROUNDS = 200
"""Rounds after which an auction that has not ended is left to the repair."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a rule is told beside scores and prices.

    Args:
        active: Experts per token.
        capacity: The mean load, k·tokens/experts rounded up, over all devices: what each expert is to serve.
        rate: The rule's own speed or strength.
        axis_name: The mesh axis over which tokens are spread, or None.
    """

    active: int
    capacity: int
    rate: float
    axis_name: str | None


class RouterState(eqx.Module):
    """What a router remembers between batches: plain arrays, to be saved with the parameters.

    Args:
        price: The last batch's price of every expert.
        average: The price for inference: the moving average of the prices, or what `Router.settle` put in its place.
        count: Training batches seen.
    """

    price: Float[Array, " experts"]
    average: Float[Array, " experts"]
    count: Int[Array, ""]


Price = Float[Array, " experts"]
Scores = Float[Array, "tokens experts"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A router.

    Args:
        before: (scores, state, terms) → the price at which this batch is served.
        after: (scores, price served at, load, terms) → the price to remember.
        score: (affinity, token numbers) → what is compared, before prices.
        rate: Default of the rule's own speed or strength; what it means is in the rule's docstring.
        worth: Tokens take every expert whose score exceeds its price, instead of the k best.
        repair: In training, tokens above capacity move to experts with room instead of being dropped.
        frozen: The price at inference: "average" of training's prices, the "last" one, or "none".
        gates: Weights are a softmax over the experts that serve the token ("chosen"), or over "all" experts.
        settle: (scores of many batches together, state, terms) → the price to freeze; None freezes what training left.
        parting: In training, scores move by a number of each token's own, up to this share of their range. No price
            can part tokens that are equal, such as the bytes of a long row of spaces.
    """

    before: Callable[[Array, "RouterState", Terms], Array]
    after: Callable[[Array, Array, Array, Terms], Array]
    score: Callable[[Array, Array | None], Array]
    rate: float = 0.0
    worth: bool = False
    repair: bool = False
    frozen: str = "average"
    gates: str = "chosen"
    settle: Callable[[Array, "RouterState", Terms], Array] | None = None
    parting: float = 0.0


def parted(score: Scores, share: float, axis_name: str | None) -> Scores:
    """Return scores moved by up to a share of their range, by a number of each token's own place in the batch."""
    if not share:
        return score
    low, high = score.min(), score.max()
    first = 0
    if axis_name is not None:
        low, high = lax.pmin(low, axis_name), lax.pmax(high, axis_name)
        first = lax.axis_index(axis_name) * len(score)
    own = hashed(score, jnp.arange(len(score), dtype=jnp.int32) + first) - 0.5
    return score + 2 * share * (high - low) * own


def raw(affinity: Scores, tokens: Array | None) -> Scores:
    """Affinities as they are."""
    del tokens
    return affinity


def sigmoid(affinity: Scores, tokens: Array | None) -> Scores:
    """Scores in (0, 1), to which the biases of Wang et al. (2024) are added."""
    del tokens
    return jax.nn.sigmoid(affinity)


def softmax(affinity: Scores, tokens: Array | None) -> Scores:
    """Shares over the experts, which the experts of Zhou et al. (2022) compare."""
    del tokens
    return jax.nn.softmax(affinity, axis=-1)


def hashed(affinity: Scores, tokens: Int[Array, " tokens"] | None) -> Scores:
    """Random numbers in [0, 1) that depend on the token's number and the expert alone (Roller et al. 2021).

    Raises:
        ValueError: without token numbers.
    """
    if tokens is None:
        raise ValueError("the router 'hash' sends a token where its number says; pass tokens=, one number each")
    experts = jnp.arange(affinity.shape[1], dtype=jnp.uint32)
    bits = _mix(_mix(tokens.astype(jnp.uint32))[:, None] + _mix(experts + jnp.uint32(0x9E3779B9))[None])
    return (bits >> 8).astype(affinity.dtype) * jnp.asarray(2.0**-24, affinity.dtype)


def _mix(bits: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """Spread every bit over all others (the finaliser of MurmurHash3, Appleby 2011)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def free(score: Scores, state: RouterState, terms: Terms) -> Price:
    """No prices."""
    del score, terms
    return jnp.zeros_like(state.price)


def last(score: Scores, state: RouterState, terms: Terms) -> Price:
    """The price that the last batch left: one batch late."""
    del score, terms
    return state.price


def averaged(score: Scores, state: RouterState, terms: Terms) -> Price:
    """The average of the prices that earlier batches left."""
    del score, terms
    return state.average


def cleared(score: Scores, state: RouterState, terms: Terms) -> Price:
    """The price that clears this batch: alternating quantiles on the assignment problem's dual.

    Warm-started, and repeated until no load exceeds the mean by more than a share of `rate`, or `SWEEPS` times. Batches
    of text differ: a model of bytes takes six sweeps in the mean.
    """
    terms_of_search = dict(sweeps=SWEEPS, tol=terms.rate, axis_name=terms.axis_name)
    return balance(score, terms.active, terms.capacity, state.price, **terms_of_search)


def settled(score: Scores, state: RouterState, terms: Terms) -> Price:
    """The price that clears many batches together, to a share of `SETTLED`.

    The mean of the prices that clear each alone does not: demand is no linear function of prices.
    """
    terms_of_search = dict(sweeps=SWEEPS, tol=SETTLED, axis_name=terms.axis_name)
    return balance(score, terms.active, terms.capacity, state.average, **terms_of_search)


def entropic(score: Scores, state: RouterState, terms: Terms) -> Price:
    """Prices of entropic transport (Sinkhorn): log column scalings, for which expected loads are the capacities.

    The plan exp((scoreᵢₑ − uᵢ − pₑ)/τ) has k in every row and k·tokens/experts in every column. The k largest entries
    of a row are those of score − p. `rate` is the temperature τ.

    Reference:
        Clark et al. (2022), Unified scaling laws for routed language models, appendix B.2 (S-BASE), there τ = 1.
    """
    experts = score.shape[1]
    share = jnp.log(jnp.asarray(1 / experts, score.dtype))

    def sweep(_, price: Array) -> Array:
        plan = jax.nn.log_softmax((score - price[None]) / terms.rate, axis=1)
        top = plan.max(axis=0)
        top = top if terms.axis_name is None else lax.pmax(top, terms.axis_name)
        column = average(jnp.exp(plan - top[None]), terms.axis_name)
        return price + terms.rate * (jnp.log(column) + top - share)

    return lax.fori_loop(0, SINKHORN_SWEEPS, sweep, state.price)


def auctioned(score: Scores, state: RouterState, terms: Terms) -> Price:
    """Prices of an auction in which tokens outbid each other for places.

    In a round every token that holds fewer than k places bids for the best expert that it does not hold: the price,
    plus what it gains there over its next best, plus ε, which is `rate` times the range of the scores. An expert keeps
    its highest bids, and its price is the highest that it turned away. Bidding starts at the last batch's prices, less
    the lowest of them. The prices are handed on, not the bids: tokens buy at them once more, and the repair settles
    what does not fit.

    Reference:
        Bertsekas (1992), Auction algorithms for network flow problems, §3; Lewis et al. (2021), BASE layers, §3.1.
    """
    if terms.axis_name is not None:
        score = lax.all_gather(score, terms.axis_name, tiled=True)
    step = terms.rate * jnp.maximum(score.max() - score.min(), 1e-6)
    experts = jnp.arange(score.shape[1], dtype=jnp.int32)

    def bidding(carry: tuple[Array, Array, Array]) -> Array:
        _, bids, rounds = carry
        return (rounds < AUCTION_ROUNDS) & jnp.any((bids > -jnp.inf).sum(axis=1) < terms.active)

    def bid(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        price, bids, rounds = carry
        held = bids > -jnp.inf
        surplus = jnp.where(held, -jnp.inf, score - price[None])
        best, first = jnp.argmax(surplus, axis=1), jnp.max(surplus, axis=1)
        here = experts[None] == best[:, None].astype(jnp.int32)
        second = jnp.max(jnp.where(here, -jnp.inf, surplus), axis=1)
        gain = jnp.where(jnp.isfinite(second), first - second, 0) + step
        lacking = held.sum(axis=1) < terms.active
        bids = jnp.where(here & lacking[:, None], price[None] + gain[:, None], bids)
        over = (bids > -jnp.inf).sum(axis=0) > terms.capacity
        price = jnp.where(over, _admitting(jnp.maximum(bids, price.min()), terms.capacity, None), price)
        return price, jnp.where(over[None] & (bids <= price[None]), -jnp.inf, bids), rounds + 1

    start = state.price - state.price.min(), jnp.full_like(score, -jnp.inf), jnp.int32(0)
    return lax.while_loop(bidding, bid, start)[0]


def _admitting(score: Scores, capacity: int, axis_name: str | None) -> Price:
    """Return, for every expert, the least price that at most `capacity` scores exceed."""

    def halve(_, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low / 2 + high / 2
        takers = jnp.sum(score > middle[None], axis=0, dtype=jnp.int32)
        fits = total(takers, axis_name) <= capacity
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    low, high = score.min(axis=0), score.max(axis=0)
    if axis_name is not None:
        low, high = lax.pmin(low, axis_name), lax.pmax(high, axis_name)
    # Below the least, where everything fits.
    return lax.fori_loop(0, HALVINGS, halve, (low - (high - low) / 2**HALVINGS, high))[1]


def admitted(score: Scores, state: RouterState, terms: Terms) -> Price:
    """The price that admits each expert's `capacity` best tokens: experts choose.

    Reference:
        Zhou et al. (2022), Mixture-of-experts with expert choice routing, eq. 2.
    """
    del state
    return _admitting(score, terms.capacity, terms.axis_name)


def keep(score: Scores, price: Price, load: Array, terms: Terms) -> Price:
    """Remember the price at which the batch was served."""
    del score, load, terms
    return price


def by_sign(score: Scores, price: Price, load: Array, terms: Terms) -> Price:
    """Move each price by `rate` against the sign of its load's error.

    Reference:
        Wang et al. (2024), Auxiliary-loss-free load balancing strategy, algorithm 1 (2408.15664); u = 0.001 there.
    """
    del score
    # In whole numbers, so that a load equal to the mean has no sign.
    return price + terms.rate * jnp.sign(load * len(load) - load.sum()).astype(price.dtype)


def by_error(score: Scores, price: Price, load: Array, terms: Terms) -> Price:
    """Move each price by `rate` times its load's error relative to the mean load.

    Reference:
        Wang et al. (2024), section 4.3, the variant without the sign; the error is in units of the mean load here.
    """
    del score
    return price + terms.rate * _violation(load, price.dtype)


def one_sweep(score: Scores, price: Price, load: Array, terms: Terms) -> Price:
    """One sweep of quantiles on this batch, from the price at which it was served; used for the next batch.

    Reference:
        Su (2025), Quantile balancing (kexue.fm 11619).
    """
    del load
    return clear(score, terms.active, terms.capacity, price, sweeps=1, axis_name=terms.axis_name)[0]


def last_admitted(score: Scores, price: Price, load: Array, terms: Terms) -> Price:
    """The threshold that would admit the expert's `capacity` best tokens of this batch.

    Served at the average of these, no token depends on another of its batch.

    Reference:
        Sun et al. (2026), Expert threshold routing (2603.11535).
    """
    del price, load
    return _admitting(score, terms.capacity, terms.axis_name)


def _violation(load: Array, dtype: jnp.dtype) -> Array:
    load = load.astype(dtype)
    return load / jnp.maximum(load.mean(), 1) - 1


def average(x: Array, axis_name: str | None) -> Array:
    """Return the mean over tokens, also over those on other devices."""
    mean = x.mean(axis=0)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


ROUTERS = {
    "market": Rule(cleared, keep, raw, rate=0.02, repair=True, settle=settled, parting=PARTING),
    "none": Rule(free, keep, raw),
    "auxiliary": Rule(free, keep, raw, rate=0.01),
    "sign": Rule(last, by_sign, sigmoid, rate=0.001, frozen="last"),
    "proportional": Rule(last, by_error, sigmoid, rate=0.01, frozen="last"),
    "late": Rule(last, one_sweep, raw, settle=settled),
    "sinkhorn": Rule(entropic, keep, raw, rate=1.0, settle=entropic),
    "auction": Rule(auctioned, keep, raw, rate=0.02, repair=True, settle=settled),
    "choice": Rule(admitted, keep, softmax, worth=True, gates="all", settle=admitted),
    "hash": Rule(free, keep, hashed),
    "threshold": Rule(averaged, last_admitted, raw, worth=True, gates="all", settle=admitted),
}
"""Every router under its name."""
