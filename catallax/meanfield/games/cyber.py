"""Who buys protection for a computer while an attacker and infected computers spread an infection."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...errors import InputError
from ..problem import AbstractGame, Listed

DEFENDED_INFECTED, DEFENDED, UNDEFENDED_INFECTED, UNDEFENDED = range(4)

_OTHER_HEALTH = np.array([DEFENDED, DEFENDED_INFECTED, UNDEFENDED, UNDEFENDED_INFECTED])
_OTHER_DEFENCE = np.array([UNDEFENDED_INFECTED, UNDEFENDED, DEFENDED_INFECTED, DEFENDED])


class Cybersecurity(AbstractGame):
    """Four states: defended or not, infected or not; two actions: leave it so (0) or ask to change the defence (1).

    States are defended infected (0), defended healthy (1), undefended infected (2), undefended healthy (3). A change
    that is asked for happens at rate `speed`. A defended computer is infected at rate attack·direct[0] +
    spread[0, 0]·μ(0) + spread[1, 0]·μ(2), an undefended one at attack·direct[1] + spread[0, 1]·μ(0) +
    spread[1, 1]·μ(2), and they recover at rates recovery[0] and recovery[1]. Defence costs `price` and infection
    `damage` per unit of time. One step is `step` units of time, in which at most one change happens, with probability
    rate·step. The moves depend on the density. The default rates are an example, not an estimate.

    Args:
        attack: The intensity of direct attacks.
        direct: Rates of infection by a direct attack: defended, undefended.
        spread: Rates of infection by others, [who infects, who is infected], each defended or undefended.
        recovery: Rates of recovery: defended, undefended.
        speed: The rate at which a change of defence is carried out.
        price: The cost of defence.
        damage: The cost of infection.
        step: Units of time per step.
        horizon: T, the number of decisions.

    Raises:
        InputError: if a step is so long that the probabilities of its changes may exceed one.

    Reference:
        Kolokoltsov & Bensoussan (2016), Mean-field-game model for botnet defense in cyber-security, section 2.
    """

    attack: Array
    direct: Array
    spread: Array
    recovery: Array
    speed: Array
    price: Array
    damage: Array
    step: float = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        attack: float = 0.6,
        direct: tuple[float, float] = (0.4, 0.5),
        spread: tuple[tuple[float, float], tuple[float, float]] = ((0.3, 0.4), (0.4, 0.6)),
        recovery: tuple[float, float] = (0.5, 0.4),
        speed: float = 0.8,
        price: float = 0.3,
        damage: float = 0.8,
        step: float = 0.25,
        horizon: int = 40,
    ):
        infection = [attack * direct[which] + max(spread[0][which], spread[1][which]) for which in (0, 1)]
        fastest = speed + max(*infection, *recovery)
        if fastest * step > 1:
            message = (
                f"the changes of one step may have probability {fastest * step:.3g}; make `step` {1 / fastest:.3g}"
            )
            raise InputError(f"{message} or less")
        self.attack, self.speed = jnp.asarray(attack, float), jnp.asarray(speed, float)
        self.direct, self.recovery = jnp.asarray(direct, float), jnp.asarray(recovery, float)
        self.spread = jnp.asarray(spread, float)
        self.price, self.damage = jnp.asarray(price, float), jnp.asarray(damage, float)
        self.step, self.horizon = step, horizon

    @property
    def states(self) -> int:
        """Four."""
        return 4

    @property
    def actions(self) -> int:
        """Two."""
        return 2

    def start(self):
        return jnp.full(4, 0.25)

    def moves(self, time, density):
        del time
        dtype = density.dtype
        infected = density[jnp.asarray([DEFENDED_INFECTED, UNDEFENDED_INFECTED])]
        caught = self.attack.astype(dtype) * self.direct.astype(dtype) + infected @ self.spread.astype(dtype)
        cured = self.recovery.astype(dtype)
        health = self.step * jnp.stack([cured[0], caught[0], cured[1], caught[1]])
        health = jnp.broadcast_to(health[:, None], (4, 2))
        defence = jnp.broadcast_to(self.step * self.speed.astype(dtype) * jnp.arange(2, dtype=dtype)[None, :], (4, 2))
        targets = np.stack([np.arange(4), _OTHER_HEALTH, _OTHER_DEFENCE], axis=-1).astype(np.int32)
        chances = jnp.stack([1 - health - defence, health, defence], axis=-1)
        return Listed(jnp.asarray(np.broadcast_to(targets[:, None, :], (4, 2, 3))), chances)

    def reward(self, time, density, kind):
        del time, kind
        dtype = density.dtype
        defended, infected = jnp.asarray([1, 1, 0, 0], dtype), jnp.asarray([1, 0, 1, 0], dtype)
        cost = self.price.astype(dtype) * defended + self.damage.astype(dtype) * infected
        return jnp.broadcast_to(-self.step * cost[:, None], (4, 2))
