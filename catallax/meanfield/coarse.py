"""Where to begin: a policy that is given, or the one that rests on ever coarser maps of the same game.

The rate that a large map allows falls with the horizon, and what a far place asks for takes many rounds to arrive.
On a map of half the side and half the times a round costs an eighth. Its rest, read between its cells, lacks the
fine detail alone, which a few rounds on the fine map put right. It is where a law begins and nothing else: what the
law comes to rest at, and what certifies it, are those of the fine map.

Reference:
    Nested iteration: Brandt (1977), Multi-level adaptive solutions to boundary-value problems, section 4;
    for mean-field games, Achdou & Perez (2012), Iterative strategies for solving linearized discrete mean field
    games systems.
"""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from .passes import times
from .problem import AbstractGame

COARSE_TOL = 1e-3
"""Coarser maps are solved no closer than this, per reward range: their detail is not that of the finer map, and a
closer rest of theirs took more rounds to undo than it saved."""

COARSE_ROUNDS = 150
"""A coarser map that has not come to rest by then is left as it is."""


@runtime_checkable
class Coarsened(Protocol):
    """A game that has a coarser one like itself."""

    def coarser(self) -> AbstractGame:
        """Return the same game on a coarser map, with ⌈T / 2⌉ decisions; rewards of two steps add up."""
        ...

    def finer(self, x: Float[Array, "*n C"]) -> Float[Array, "*n S"]:
        """Return an array over the coarser map's cells as read from each cell of this one."""
        ...


def coarsened(game: AbstractGame) -> AbstractGame:
    """Return the coarser game of one.

    Raises:
        ValueError: if the game has none.
    """
    if not isinstance(game, Coarsened):
        raise ValueError(f"{type(game).__name__} has no coarser map; it needs the methods `coarser` and `finer`")
    return game.coarser()


DEEPEST = 4.0
"""So far below the best action's logit no other begins on a finer map. Where the coarser map is wrong about an action
that it has all but given up, hundreds of rounds would go by until it came back; one that is given up rightly is gone
again in a few."""


@eqx.filter_jit
def refined(game: Any, logits: Float[Array, "n Half A C"]) -> Float[Array, "n T A S"]:
    """Return logits on the coarser map as read on this one: between its cells, and twice at each of its times.

    They are taken relative to the best action's, and none lower than `DEEPEST` below it.
    """

    def at(time: Array) -> Array:
        row = lax.dynamic_index_in_dim(logits, time // 2, 1, keepdims=False)
        row = jnp.maximum(row - jnp.max(row, axis=1, keepdims=True), jnp.asarray(-DEEPEST, row.dtype))
        return game.finer(row)

    # Time by time, or several arrays of the size of the answer would be made on the way.
    return lax.map(at, times(game)).swapaxes(0, 1)


def logits_of(game: AbstractGame, policy: Any, dtype: Any) -> Float[Array, "n T A S"]:
    """Return the logits of a policy (kinds, T, S, A); what has no chance gets the least that can be told from none.

    Raises:
        ValueError: if it is no policy of the game.
    """
    policy = jnp.asarray(policy, dtype)
    shape = game.shares.shape[0], game.horizon, game.states, game.actions
    if policy.shape != shape:
        raise ValueError(f"the policy to start from has shape {policy.shape}, not (kinds, T, S, A) = {shape}")
    if not isinstance(policy, Tracer) and not (
        np.all(policy >= 0) and np.allclose(np.sum(policy, axis=-1), 1, atol=1e-4)
    ):
        raise ValueError("the policy to start from has rows that are no probabilities")
    return jnp.moveaxis(jnp.log(jnp.maximum(policy, jnp.finfo(dtype).eps)), 3, 2)


@eqx.filter_jit
def flows_of(game: AbstractGame, logits: Float[Array, "n T A S"]) -> Float[Array, "n T1 S"]:
    """Return each kind's flow under the softmax of its logits, all moving at the density of the whole crowd."""
    start = game.start()
    shares = jnp.asarray(game.shares, start.dtype)

    def on(masses: Array, time: Array) -> tuple[Array, Array]:
        moves = game.moves(time, shares @ masses)
        now = jax.nn.softmax(lax.dynamic_index_in_dim(logits, time, 1, keepdims=False), axis=1)
        masses = jax.vmap(lambda mass, own: moves.under(own.T).carry(mass))(masses, now)
        return masses, masses

    first = jnp.broadcast_to(start, (shares.size, start.size))
    _, after = lax.scan(on, first, times(game))
    return jnp.concatenate([first[None], after]).swapaxes(0, 1)
