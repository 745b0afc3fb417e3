"""An actual crowd at a stationary game: so many decisions of a life that began at rest and goes on as in the limit."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .problem import AbstractGame, Listed
from .stationary import AbstractStationaryGame
from .stationary_certify import account_stationary


class Stretch(AbstractGame):
    """A stationary game for T decisions, from rest on; the end is worth what is still to come in the limit.

    A state is a kind of players and a state of the game, k·S + s, since each kind begins in a density of its own.
    Against the flow at rest a best response gains what the best policy without an end would gain in these T decisions.

    Args:
        endless: The stationary game.
        mass: Each kind's density at rest.
        ahead: What each kind's policy is worth from each state at rest.
        horizon: T.
    """

    endless: AbstractStationaryGame
    mass: Float[Array, "n S"]
    ahead: Float[Array, "n S"]
    horizon: int = eqx.field(static=True)

    def __init__(self, endless: AbstractStationaryGame, mass: Any, ahead: Any, horizon: int):
        self.endless, self.mass, self.ahead = endless, jnp.asarray(mass), jnp.asarray(ahead)
        self.horizon = horizon

    @property
    def states(self) -> int:
        """n·S."""
        return self.mass.size

    @property
    def actions(self) -> int:
        """A."""
        return self.endless.actions

    @property
    def discount(self):
        """That of the stationary game."""
        return self.endless.discount

    def crowd(self, density):
        """Return the density of all kinds together, (..., S)."""
        return density.reshape(*density.shape[:-1], *self.mass.shape).sum(axis=-2)

    def start(self):
        return (self.endless.shares.astype(self.mass.dtype)[:, None] * self.mass).reshape(-1)

    def moves(self, time, density):
        del time
        targets, chances = self.endless.moves(self.crowd(density)).listed()
        kinds, states = self.mass.shape
        first = states * jnp.arange(kinds, dtype=targets.dtype)
        each = kinds, states, self.actions, targets.shape[-1]
        targets, chances = jnp.broadcast_to(targets, each), jnp.broadcast_to(chances, each)
        shape = self.states, *each[2:]
        return Listed((first[:, None, None, None] + targets).reshape(shape), chances.reshape(shape))

    def reward(self, time, density, kind):
        del time, kind
        kinds, states = self.mass.shape
        there = self.crowd(density)

        def earned(one):
            return jnp.broadcast_to(self.endless.reward(there, one), (states, self.actions))

        return jax.vmap(earned, axis_size=kinds)(self.endless.kinds).reshape(self.states, self.actions)

    def final(self, density, kind):
        del density, kind
        return self.ahead.reshape(-1)


def stretch(
    game: AbstractStationaryGame, policy: np.ndarray, mass: np.ndarray, horizon: int
) -> tuple[Stretch, np.ndarray]:
    """Return so many decisions of a stationary game from rest on, and the policy for them, (1, T, n·S, A).

    Args:
        game: The stationary game.
        policy: Shape (kinds, S, A).
        mass: Each kind's density at rest under it, shape (kinds, S).
        horizon: T.
    """
    worth = account_stationary(game, policy, mass).worth
    some = Stretch(game, mass, worth, horizon)
    return some, np.broadcast_to(policy.reshape(some.states, game.actions), (1, horizon, some.states, game.actions))
