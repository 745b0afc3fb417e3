"""Dispatch: tokens into their experts' places, and the experts' outputs back to the tokens.

Every expert has a fixed number of places, so that all experts work at once on one array (experts, places, width) and
the floating-point work is that of the places, not of every expert on every token. Places are given in order of
arrival, or from position to position to those whose gate weighs most, so that who is served never depends on a later
token.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

WORD = 32
"""Tokens whose demand for an expert is held in one unsigned integer."""


def named(
    chosen: Int[Array, "tokens active"], wanted: Bool[Array, "tokens active"], experts: int
) -> Bool[Array, "tokens experts"]:
    """Say which experts each token names among those it wants."""
    each = jnp.arange(experts, dtype=jnp.int32)
    return jnp.any((chosen[:, :, None] == each[None, None]) & wanted[:, :, None], axis=1)


def ranks(demand: Bool[Array, "tokens experts"]) -> tuple[Int[Array, "tokens experts"], Int[Array, " experts"]]:
    """Return how many earlier tokens want each expert, and how many want it in all.

    Summed over words of bits, so that only one sum in 32 is carried on: on CPUs many times faster than `jnp.cumsum`.
    """
    tokens, experts = demand.shape
    place = jnp.arange(WORD, dtype=jnp.uint32)[None, :, None]
    bits = jnp.pad(demand, ((0, -tokens % WORD), (0, 0))).reshape(-1, WORD, experts).astype(jnp.uint32)
    words = jnp.sum(bits << place, axis=1, dtype=jnp.uint32)
    count = lax.population_count(words).astype(jnp.int32)
    upto = jnp.cumsum(count, axis=0, dtype=jnp.int32)
    earlier = (jnp.uint32(1) << place) - 1
    within = lax.population_count(words[:, None] & earlier).astype(jnp.int32)
    return ((upto - count)[:, None] + within).reshape(-1, experts)[:tokens], upto[-1]


def arrive(demand: Bool[Array, "tokens experts"], capacity: int) -> tuple[Int[Array, "experts capacity"], Array]:
    """Give places to tokens in order of arrival.

    Args:
        demand: Which experts each token wants.
        capacity: Places per expert.

    Returns:
        place: The token in each place; the number of tokens where a place stays empty.
        served: Which of the demanded pairs have a place: truth values (tokens, experts).
    """
    tokens, experts = demand.shape
    rank, _ = ranks(demand)
    served = demand & (rank < capacity)
    slot = jnp.where(served, jnp.arange(experts, dtype=jnp.int32)[None] * capacity + rank, experts * capacity)
    token = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32)[:, None], slot.shape)
    return _fill(slot, token, experts, capacity), served


def admit(
    demand: Bool[Array, "tokens experts"],
    weight: Float[Array, "tokens experts"],
    places: Int[Array, " experts"],
    length: int,
    bar: float,
) -> Bool[Array, "tokens experts"]:
    """Say who is served where sequences advance together and experts prefer tokens for whom they weigh much.

    The places of an expert come free from position to position, equally many at each. While it has served more tokens
    than that, it admits only those for whom it weighs at least `bar` for every position's places (one at least) that it
    is ahead. So the places that are too few go to those who would lose most without, as in batch prioritized routing,
    but nobody's depends on a later position. Those who come at one position are served in the order of their sequences.

    Args:
        demand: Which experts each token wants, whole sequences one after another.
        weight: What each expert is to each token, between 0 and 1.
        places: How many tokens each expert serves at most.
        length: Tokens per sequence.
        bar: See above; 0 serves in order of arrival.

    Reference:
        Riquelme et al. (2021), Scaling vision with sparse mixture of experts, section 4.1, for whole batches.
    """
    sequences = demand.reshape(-1, length, demand.shape[1]).swapaxes(0, 1)
    weights = weight.reshape(-1, length, demand.shape[1]).swapaxes(0, 1)
    pace = places.astype(weight.dtype) / length

    def step(held: Array, each: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        position, wanted, weight = each
        ahead = jnp.maximum(held.astype(pace.dtype) - position * pace, 0) / jnp.maximum(pace, 1)
        asked = wanted & (weight >= bar * ahead[None])
        served = asked & (held[None] + jnp.cumsum(asked, axis=0, dtype=jnp.int32) <= places[None])
        return held + jnp.sum(served, axis=0, dtype=jnp.int32), served

    positions = jnp.arange(length, dtype=weight.dtype)
    served = lax.scan(step, jnp.zeros_like(places), (positions, sequences, weights))[1]
    return served.swapaxes(0, 1).reshape(demand.shape)


def seat(
    chosen: Int[Array, "tokens active"],
    wanted: Bool[Array, "tokens active"],
    experts: int,
    capacity: int,
    opened: Int[Array, " experts"] | None = None,
) -> tuple[Int[Array, "experts capacity"], Bool[Array, "tokens active"], Int[Array, " experts"]]:
    """Give places to tokens that name distinct experts, in order of arrival.

    Args:
        chosen: The experts that each token names, all different.
        wanted: False where the token gives that choice up.
        experts: How many experts there are.
        capacity: Places per expert.
        opened: How many of its places each expert fills; by default all.

    Returns:
        place: As `arrive`.
        kept: Which choices have a place.
        load: How many tokens name each expert.
    """
    rank, load = ranks(named(chosen, wanted, experts))
    rank = jnp.take_along_axis(rank, chosen, axis=1)
    kept = wanted & (rank < (capacity if opened is None else opened[chosen]))
    slot = jnp.where(kept, chosen * capacity + rank, experts * capacity)
    token = jnp.broadcast_to(jnp.arange(len(chosen), dtype=jnp.int32)[:, None], slot.shape)
    return _fill(slot, token, experts, capacity), kept, load


def _fill(slot: Array, token: Array, experts: int, capacity: int) -> Array:
    empty = jnp.full(experts * capacity, len(token), jnp.int32)
    return empty.at[slot.reshape(-1)].set(token.reshape(-1), mode="drop").reshape(experts, capacity)


def gather(x: Float[Array, "tokens width"], place: Int[Array, "experts capacity"]) -> Array:
    """Bring the tokens to their places: (experts, capacity, width), zero where a place is empty."""
    return x.at[place].get(mode="fill", fill_value=0)


def scatter(
    outputs: Float[Array, "experts capacity width"],
    gate: Float[Array, "experts capacity"],
    place: Int[Array, "experts capacity"],
    tokens: int,
) -> Float[Array, "tokens width"]:
    """Add the experts' outputs, weighed by their gates, back to the tokens."""
    weighed = (gate[..., None].astype(outputs.dtype) * outputs).reshape(-1, outputs.shape[-1])
    empty = jnp.zeros((tokens, outputs.shape[-1]), outputs.dtype)
    return empty.at[place.reshape(-1)].add(weighed, mode="drop")
