"""Who keeps away from others while a disease goes round: susceptible, infected, susceptible again."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..problem import AbstractGame, Listed

SUSCEPTIBLE, INFECTED = 0, 1
GO_OUT, KEEP_AWAY = 0, 1

_NEXT = np.broadcast_to(np.arange(2, dtype=np.int32), (2, 2, 2))


class Epidemic(AbstractGame):
    """The SIS epidemic: states susceptible (0) and infected (1), actions go out (0) and keep away (1).

    Who is susceptible and goes out is infected with probability `contagion`·μ_t(infected); who keeps away is not.
    Who is infected recovers with probability `recovery`, whatever it does. To be infected costs `illness` a step
    and to keep away costs `distance`. The moves depend on the density, and the game is not monotone.

    With the defaults it is the game `susceptible_infected` of MFGLib 0.3.0, whose horizon T = 50 means the 51
    decisions t = 0 … 50.

    Args:
        infected: The part of the crowd that is infected at time 0.
        contagion, recovery: Probabilities per step.
        illness, distance: Costs per step.
        horizon: T, the number of decisions.

    Reference:
        Cui & Koeppl (2021), Approximately solving mean field games via entropy-regularized deep RL, section 6.
    """

    infected: float | Array
    contagion: float | Array
    recovery: float | Array
    illness: float | Array
    distance: float | Array
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        infected: float | Array = 0.6,
        contagion: float | Array = 0.81,
        recovery: float | Array = 0.3,
        illness: float | Array = 1.0,
        distance: float | Array = 0.5,
        horizon: int = 51,
    ):
        self.infected, self.contagion, self.recovery = infected, contagion, recovery
        self.illness, self.distance, self.horizon = illness, distance, horizon

    @property
    def states(self) -> int:
        """Two."""
        return 2

    @property
    def actions(self) -> int:
        """Two."""
        return 2

    def start(self):
        infected = jnp.asarray(self.infected, float)
        return jnp.stack([1 - infected, infected])

    def moves(self, time, density):
        del time
        caught = jnp.asarray(self.contagion, density.dtype) * density[INFECTED]
        ill = jnp.stack([caught, jnp.zeros_like(caught)])
        still = jnp.broadcast_to(1 - jnp.asarray(self.recovery, density.dtype), (2,))
        infected = jnp.stack([ill, still])
        return Listed(jnp.asarray(_NEXT), jnp.stack([1 - infected, infected], axis=-1))

    def reward(self, time, density, kind):
        del time, kind
        dtype = density.dtype
        illness, distance = jnp.asarray(self.illness, dtype), jnp.asarray(self.distance, dtype)
        ill = illness * jnp.arange(2, dtype=dtype)[:, None]
        away = distance * jnp.arange(2, dtype=dtype)[None, :]
        return -jnp.broadcast_to(ill, (2, 2)) - jnp.broadcast_to(away, (2, 2))
