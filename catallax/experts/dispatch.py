"""Dispatch: tokens into their experts' places, and the experts' outputs back to the tokens.

Every expert has a fixed number of places, so that all experts work at once on one array (experts, places, width) and
the floating-point work is that of the places, not of every expert on every token. Places are given in order of
arrival, so that who is served never depends on a later token.
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
