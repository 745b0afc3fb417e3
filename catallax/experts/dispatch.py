"""Dispatch: tokens into their experts' places, and the experts' outputs back to the tokens.

Every expert has a fixed number of places, so that all experts work at once on one array (experts, places, width) and
the floating-point work is that of the places, not of every expert on every token. Places are given in order of
arrival, so that who is served never depends on a later token.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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
    rank = jnp.cumsum(demand, axis=0, dtype=jnp.int32) - 1
    served = demand & (rank < capacity)
    slot = jnp.where(served, jnp.arange(experts, dtype=jnp.int32)[None] * capacity + rank, experts * capacity)
    token = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32)[:, None], slot.shape)
    return _fill(slot, token, experts, capacity), served


def seat(
    chosen: Int[Array, "tokens active"], wanted: Bool[Array, "tokens active"], experts: int, capacity: int
) -> tuple[Int[Array, "experts capacity"], Bool[Array, "tokens active"], Int[Array, " experts"]]:
    """Give places to tokens that name distinct experts, in order of arrival.

    Args:
        chosen: The experts that each token names, all different.
        wanted: False where the token gives that choice up.
        experts: How many experts there are.
        capacity: Places per expert.

    Returns:
        place: As `arrive`.
        kept: Which choices have a place.
        load: How many tokens name each expert.
    """
    each = jnp.arange(experts, dtype=jnp.int32)
    demand = jnp.any((chosen[:, :, None] == each[None, None]) & wanted[:, :, None], axis=1)
    count = jnp.cumsum(demand, axis=0, dtype=jnp.int32)
    rank = jnp.take_along_axis(count, chosen, axis=1) - 1
    kept = wanted & (rank < capacity)
    slot = jnp.where(kept, chosen * capacity + rank, experts * capacity)
    token = jnp.broadcast_to(jnp.arange(len(chosen), dtype=jnp.int32)[:, None], slot.shape)
    return _fill(slot, token, experts, capacity), kept, count[-1]


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
