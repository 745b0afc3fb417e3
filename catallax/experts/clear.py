"""Prices that clear a batch of tokens, and the exact assignment at those prices: the router's law, whole batch at once.

A token takes the k experts of highest affinity − price. The prices that balance the experts solve the dual of an
assignment linear program, min_p c·Σ_e p_e + Σ_i Σ_{top k} (a_ie − p_e), p ≥ 0. `clear` descends on it by alternating
quantiles: a token's reserve r_i goes between its k-th and (k+1)-th surplus a_ie − p_e, an expert's price to its
c-th highest a_ie − r_i. Idle tokens take the places to spare, so that only differences of prices matter, and after
each sweep the least price is zero. Quantiles are found by counting at trial prices, without a sort, so that tokens may
be spread over devices: only counts and bounds cross, and whole numbers add up to the same bits in any order.

Neither function has a derivative: prices and choices are constants to a gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .dispatch import WORD, named, ranks

TRIALS = 7
"""How many prices are tried in one pass over the affinities: eight parts of a bracket, three bits."""

FEW = 32
"""When no more than so many tokens bid, their bids are sorted in a buffer of that size: sorting costs most."""

SMALL = 1 << 22
"""Up to so many affinities `assign` is a compiled loop on the CPU, which uses one core; of two cores XLA's loops took
twice as long even there."""

REPAIR_STEPS = 4
"""Passes to find who keeps a place at an over-full expert; those within what is left of the bracket bid again."""


class Assignment(eqx.Module):
    """Which experts serve which tokens.

    Args:
        chosen: Each token's experts.
        kept: Whether the token has a place there; all of them after repair, where there are places enough.
        load: How many tokens asked for each expert at the prices, before repair or dropping.
    """

    chosen: Int[Array, "tokens active"]
    kept: Bool[Array, "tokens active"]
    load: Int[Array, " experts"]


def total(x: Any, axis_name: str | None) -> Any:
    """Add up over devices, where tokens are spread over them."""
    return x if axis_name is None else lax.psum(x, axis_name)


def _highest(worth: Float[Array, "experts ..."], count: int) -> list[Float[Array, "..."]]:
    """Return each token's highest worths, equal ones one by one, by inserting one expert's after another's.

    Written out expert by expert, so that XLA makes one loop over the tokens of it, without a sort and with nothing in
    between in memory: for few active experts several times faster than `lax.top_k`.
    """
    best = [jnp.full_like(worth[0], -jnp.inf)] * count
    for x in worth:
        kept = []
        for value in best:
            kept.append(jnp.maximum(value, x))
            x = jnp.minimum(value, x)
        best = kept
    return best


def _middle(best: list[Float[Array, "..."]]) -> Float[Array, "..."]:
    """Return the middle between the last two of the highest surpluses."""
    *taken, after = best
    # A token that can reach no more experts than it takes is content with any of them.
    finite = [jnp.where(value > -jnp.inf, value, jnp.inf) for value in taken]
    least = functools.reduce(jnp.minimum, finite)
    return jnp.where(after > -jnp.inf, taken[-1] / 2 + after / 2, least - 1)


def reserves(surplus: Float[Array, "experts ..."], active: int) -> Float[Array, "..."]:
    """Return the middle between each token's k-th and (k+1)-th highest surplus, affinity less price."""
    return _middle(_highest(surplus, active + 1))


def once(law: Callable[[Array], Any], x: Array) -> Any:
    """Return law(x), worked out once for all who use it, and not by XLA for each of them again.

    That is so of what a loop brings. This one takes one turn, which XLA does not know beforehand: it does not see that
    no number is both infinite and none.
    """
    first = x.ravel()[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(law, x))
    start = jnp.isnan(first) & jnp.isinf(first), empty
    return lax.while_loop(lambda carry: ~carry[0], lambda carry: (~carry[0], law(x)), start)[1]


def by_expert(x: Float[Array, "tokens experts"]) -> Float[Array, "experts tokens"]:
    """Return the table with each expert's tokens next to one another in memory.

    It goes through a flat array, of which XLA cannot keep the old order and call it turned.
    """
    return once(lambda x: x.T.ravel(), x).reshape(x.shape[::-1])


def _opened(surplus: Float[Array, "tokens experts"], active: int) -> tuple[Array, Array]:
    """Return surpluses by expert, (experts, tokens), and tokens' reserves."""
    across = by_expert(surplus)
    return across, once(lambda across: reserves(across, active), across)


def trial_prices(low: Float[Array, " experts"], high: Float[Array, " experts"]) -> Float[Array, "trials experts"]:
    """Return the prices that cut each expert's bracket into equal parts."""
    parts = jnp.arange(1, TRIALS + 1, dtype=low.dtype) / (TRIALS + 1)
    return low[None] + (high - low)[None] * parts[:, None]


def narrowed(
    low: Float[Array, " experts"],
    high: Float[Array, " experts"],
    takers: Int[Array, "trials experts"],
    capacity: int | Int[Array, ""],
    slack: int | Int[Array, ""],
    floor: Float[Array, ""],
) -> tuple[Float[Array, " experts"], Float[Array, " experts"]]:
    """Return each expert's next bracket: between the dearest trial price that too many take and the next.

    Places to spare are taken by `slack` idle tokens that care for no expert, wherever the price is below `floor`, their
    reserve. That makes every balance one of equal loads, in which only differences of prices matter.
    """
    trial = trial_prices(low, high)
    fits = takers + slack * (trial < floor).astype(jnp.int32) <= capacity
    below = jnp.max(jnp.where(fits, low[None], trial), axis=0)
    return below, jnp.min(jnp.where(fits, trial, high[None]), axis=0)


def spare(active: int, tokens: int | Int[Array, ""], capacity: int | Int[Array, ""], experts: int) -> Int[Array, ""]:
    """Return how many places are to spare, the number of idle tokens."""
    return jnp.maximum(jnp.asarray(capacity, jnp.int32) * experts - active * tokens, 0)


def idle_reserve(price: Float[Array, " experts"]) -> Float[Array, ""]:
    """Return the reserve of idle tokens, who each take one place: between the cheapest expert and the next."""
    order = jnp.sort(price)
    return order[0] / 2 + order[min(1, price.size - 1)] / 2


def demand(
    across: Float[Array, "experts tokens"], reserve: Float[Array, " tokens"], trial: Float[Array, "trials experts"]
) -> Int[Array, "trials experts"]:
    """Count who would take each expert at each trial price.

    One reduction of all truth values along the tokens: the only form that XLA makes a single vectorised loop of on
    CPUs, sixty times faster than the same counts as a broadcast comparison.
    """
    worth = across - reserve[None]
    counts = lax.reduce(
        tuple((worth > prices[:, None]).astype(jnp.int32) for prices in trial),
        (jnp.int32(0),) * len(trial),
        lambda one, other: tuple(a + b for a, b in zip(one, other, strict=True)),
        (1,),
    )
    return jnp.stack(counts)


def quantile(
    across: Float[Array, "experts tokens"],
    reserve: Float[Array, " tokens"],
    bracket: tuple[Float[Array, " experts"], Float[Array, " experts"]],
    law: tuple[Any, Any, Any],
    steps: int,
    axis_name: str | None,
) -> Float[Array, " experts"]:
    """Return the least prices in the bracket at which takers fit, to 8^-steps of the bracket."""

    def narrow(_, bracket):
        low, high = bracket
        takers = total(demand(across, reserve, trial_prices(low, high)), axis_name)
        return narrowed(low, high, takers, *law)

    return lax.fori_loop(0, steps, narrow, bracket)[1]


def extremes(worth: Float[Array, "experts ..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return each token's least and greatest worth, experts out of reach left out."""
    reached = [jnp.where(x > -jnp.inf, x, jnp.inf) for x in worth]
    return functools.reduce(jnp.minimum, reached), functools.reduce(jnp.maximum, list(worth))


@functools.partial(jax.jit, static_argnames=("active", "sweeps", "steps", "axis_name"))
def clear(
    affinity: Float[Array, "tokens experts"],
    active: int,
    capacity: int | Int[Array, ""],
    price: Float[Array, " experts"],
    *,
    sweeps: int = 4,
    steps: int = 6,
    axis_name: str | None = None,
) -> tuple[Float[Array, " experts"], Float[Array, " tokens"]]:
    """Return prices at which tokens ask for about as many places as there are, and tokens' reserves.

    For equal loads let the capacity be k·tokens/experts, rounded up, whatever room the buffers leave beyond it.

    Args:
        affinity: How well each expert suits each token (router logits); -inf for an expert out of reach.
        active: k, how many experts a token takes.
        capacity: c, places per expert; over all devices, where `axis_name` is given.
        price: Where to start: the last batch's prices, or zeros.
        sweeps: Rounds of alternating quantiles.
        steps: Passes over the affinities per sweep; each makes the bracket of a price eight times smaller.
        axis_name: The mesh axis along which tokens are spread, inside `jax.shard_map`.

    Returns:
        Prices, of which the least is zero, and reserves at these prices. With the tokens spread over any number of
        devices the prices are the same bit for bit.
    """
    affinity, price = lax.stop_gradient((affinity, price))
    across = by_expert(affinity)
    tokens, experts = affinity.shape
    slack = spare(active, total(tokens, axis_name), capacity, experts)
    worst, best = extremes(across)

    def sweep(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        price, reserve = carry
        low, high = bounds(worst - reserve, best - reserve, axis_name)
        law = capacity, slack, idle_reserve(price)
        bracket = jnp.full_like(price, low), jnp.full_like(price, high)
        price = quantile(across, reserve, bracket, law, steps, axis_name)
        price = price - jnp.min(price)
        return price, reserves(across - price[:, None], active)

    start = price, once(lambda across: reserves(across - price[:, None], active), across)
    return lax.fori_loop(0, sweeps, sweep, start)


def bounds(low: Array, high: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Return the least and the greatest number, over all devices."""
    low, high = jnp.min(low), jnp.max(high)
    return (low, high) if axis_name is None else (lax.pmin(low, axis_name), lax.pmax(high, axis_name))


@functools.partial(jax.jit, static_argnames=("active", "repair"))
def assign(
    affinity: Float[Array, "tokens experts"],
    price: Float[Array, " experts"],
    active: int,
    capacity: int | Int[Array, ""],
    *,
    repair: bool = True,
) -> Assignment:
    """Return each token's experts at given prices, with no expert above its capacity.

    With `repair` an over-full expert keeps those who gain most by it, and the others bid for what is free (an auction):
    every token ends with `active` different experts if there are places for all. Without, tokens are served in order of
    arrival, so that no token's fate depends on later ones, and what does not fit is dropped.

    Args:
        affinity: How well each expert suits each token; -inf for an expert out of reach.
        price: The experts' prices; +inf closes an expert.
        active: k, how many experts a token takes.
        capacity: c, places per expert for these tokens.
        repair: See above.
    """
    affinity, price = lax.stop_gradient((affinity, price))
    surplus = affinity - price[None]
    if not repair:
        best, chosen = lax.top_k(surplus, active)
        wanted = best > -jnp.inf
        rank, load = ranks(named(chosen, wanted, len(price)))
        return Assignment(chosen, wanted & (jnp.take_along_axis(rank, chosen, axis=1) < capacity), load)
    capacity = jnp.asarray(capacity, jnp.int32)
    if surplus.size > SMALL or surplus.dtype not in (jnp.float32, jnp.float64):
        return _repaired(surplus, active, capacity)
    return lax.platform_dependent(
        cpu=lambda: _compiled(surplus, active, capacity), default=lambda: _repaired(surplus, active, capacity)
    )


def _compiled(surplus: Array, active: int, capacity: Array) -> Assignment:
    """Assign and repair in compiled loops."""
    from ..native import named  # numba takes a second to load
    from ._assigned import assign as loop

    (tokens, experts), dtype, rows = surplus.shape, surplus.dtype, -(-(active + 1) // 3) * 3
    whole, size = jnp.int32, _buffer(tokens)
    asked = (tokens, active), whole, (tokens, active), bool, (experts,), whole
    scratch = (
        (experts * tokens,), dtype, (2, rows, tokens), dtype, (2, tokens), dtype, (tokens,), dtype,
        (-(-experts // WORD), tokens), jnp.uint32, (experts,), dtype, (experts,), whole, (tokens,), whole,
        (size,), whole, (size,), whole, (size,), dtype,
    )  # fmt: skip
    results = asked + scratch
    found = [jax.ShapeDtypeStruct(*pair) for pair in zip(results[::2], results[1::2], strict=True)]
    call = jax.ffi.ffi_call(named(loop, dtype.name), found, vmap_method="sequential")
    return Assignment(*call(surplus, capacity[None])[:3])


def _repaired(surplus: Array, active: int, capacity: Array) -> Assignment:
    """Assign and repair in loops of XLA."""
    across, reserve = _opened(surplus, active)
    # The experts wanted are those worth more than the reserve. One asked by too many asks for more, the others do not.
    worth, none = across - reserve[None], jnp.zeros_like(surplus[0])
    load, reach = demand(across, reserve, jnp.stack([none, none - jnp.inf]))
    rise = quantile(
        across, reserve, (none, jnp.maximum(jnp.max(worth, axis=1), 0)), (capacity, 0, none[0]), REPAIR_STEPS, None
    )
    held = worth > jnp.where(load <= capacity, 0, rise)[:, None]
    places = jnp.where(reach > 0, capacity, 0)
    return Assignment(*_swap(surplus, *_auction(surplus, *_listed(held, active), places), places), load)


def _listed(held: Bool[Array, "experts tokens"], active: int) -> tuple[Array, Array]:
    """Return the numbers of each token's experts, least first, and which of the `active` numbers there are.

    The experts that hold a token are the bits of one or more words; each step takes the lowest bit away.
    """
    bits, tokens = list(held.astype(jnp.uint32)), held.shape[1]
    words = [
        functools.reduce(jnp.bitwise_or, [bit << place for place, bit in enumerate(bits[first : first + WORD])])
        for first in range(0, len(bits), WORD)
    ]

    def lowest(words, _):
        left, number, found = [], jnp.zeros(tokens, jnp.int32), jnp.zeros(tokens, bool)
        for index, word in enumerate(words):
            here = ~found & (word > 0)
            place = lax.population_count((word & -word) - 1).astype(jnp.int32)
            number = jnp.where(here, WORD * index + place, number)
            left.append(jnp.where(here, word & (word - 1), word))
            found = found | here
        return left, (number, found)

    number, found = lax.scan(lowest, words, None, length=active)[1]
    return number.T, found.T


class _Auction(eqx.Module):
    """What changes from one round of bids to the next."""

    chosen: Int[Array, "tokens active"]
    kept: Bool[Array, "tokens active"]
    room: Int[Array, " experts"]
    stuck: Bool[Array, " tokens"]


def _buffer(tokens: int) -> int:
    """How many tokens bid at once at most."""
    return min(tokens, max(256, tokens // 16))


def _room(chosen: Array, kept: Array, places: Array) -> Array:
    return places.at[jnp.where(kept, chosen, len(places))].add(-1, mode="drop")


def _auction(surplus: Array, chosen: Array, kept: Array, places: Array) -> tuple[Array, Array]:
    """Let tokens that miss a place bid for experts with room, a buffer full of tokens at a time."""
    tokens, experts = surplus.shape
    numbers = jnp.arange(experts, dtype=jnp.int32)
    start = _Auction(chosen, kept, _room(chosen, kept, places), jnp.zeros(tokens, bool))

    def waiting(state: _Auction) -> Array:
        return ~jnp.all(state.kept, axis=1) & ~state.stuck

    def bid(size: int, state: _Auction) -> _Auction:
        who = jnp.nonzero(waiting(state), size=size, fill_value=tokens)[0].astype(jnp.int32)
        row = jnp.minimum(who, tokens - 1)
        chosen, kept = state.chosen[row], state.kept[row]
        held = jnp.any((chosen[:, :, None] == numbers[None, None]) & kept[:, :, None], axis=1)
        offer = jnp.where((state.room > 0)[None] & ~held, surplus[row], -jnp.inf)
        expert = jnp.argmax(offer, axis=1).astype(jnp.int32)
        best = jnp.max(offer, axis=1)
        second = jnp.max(jnp.where(numbers[None] == expert[:, None], -jnp.inf, offer), axis=1)
        present = who < tokens
        able = present & (best > -jnp.inf)
        # Those go first who would lose most by being refused.
        loss = jnp.where(able, best - second, -jnp.inf)
        key = jnp.where(able, expert, experts)
        key, _, order = lax.sort((key, -loss, jnp.arange(size, dtype=jnp.int32)), num_keys=2)
        first = jnp.searchsorted(key, numbers).astype(jnp.int32)
        rank = jnp.arange(size, dtype=jnp.int32) - jnp.append(first, 0)[key]
        taken = jnp.zeros(size, bool).at[order].set(rank < jnp.append(state.room, 0)[key])
        slot = jnp.argmin(kept, axis=1).astype(jnp.int32)
        there = jnp.where(taken, who, tokens)
        return _Auction(
            state.chosen.at[there, slot].set(expert, mode="drop"),
            state.kept.at[there, slot].set(True, mode="drop"),
            state.room - jnp.zeros(experts, jnp.int32).at[jnp.where(taken, expert, experts)].add(1, mode="drop"),
            state.stuck.at[jnp.where(able, tokens, who)].set(True, mode="drop"),
        )

    # Whoever bids, the outcome is that of a buffer which holds them all, whatever its size.
    state = start
    for size, left in ((_buffer(tokens), FEW), (min(tokens, FEW), 0)):
        several = lambda state, left=left: jnp.sum(waiting(state), dtype=jnp.int32) > left  # noqa: E731
        state = lax.while_loop(several, functools.partial(bid, size), state)
    return state.chosen, state.kept


def _swap(surplus: Array, chosen: Array, kept: Array, places: Array) -> tuple[Array, Array]:
    """Place tokens that already have every expert with room: another token moves there and leaves its place.

    With places for all, such a token always exists: of the tokens that are not at the free expert all have `active`
    experts, so one of them is at an expert that the waiting token is not at.
    """
    tokens, experts = surplus.shape
    numbers = jnp.arange(experts, dtype=jnp.int32)
    room = _room(chosen, kept, places)

    def going(state: Any) -> Array:
        _, kept, room, given_up = state
        return jnp.any(~jnp.all(kept, axis=1) & ~given_up) & jnp.any(room > 0)

    def swap(state: Any) -> Any:
        chosen, kept, room, given_up = state
        who = jnp.argmax(~jnp.all(kept, axis=1) & ~given_up)
        slot = jnp.argmin(kept[who])
        free = jnp.argmax(room)
        held = jnp.any((chosen[who][:, None] == numbers[None]) & kept[who][:, None], axis=0)
        there = jnp.any((chosen == free.astype(jnp.int32)) & kept, axis=1)
        left = jnp.take_along_axis(surplus, chosen, axis=1)
        gain = surplus[:, free, None] - left + surplus[who][chosen]
        gain = jnp.where(kept & ~held[chosen] & ~there[:, None], gain, -jnp.inf)
        other, place = jnp.unravel_index(jnp.argmax(gain), gain.shape)
        found = gain[other, place] > -jnp.inf
        given = chosen[other, place]
        return (
            jnp.where(found, chosen.at[other, place].set(free.astype(jnp.int32)).at[who, slot].set(given), chosen),
            kept.at[who, slot].set(found),
            room.at[free].add(jnp.where(found, -1, 0)),
            given_up.at[who].set(~found),
        )

    start = chosen, kept, room, jnp.zeros(tokens, bool)
    chosen, kept, _, _ = lax.while_loop(going, swap, start)
    return chosen, kept
