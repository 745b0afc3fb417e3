"""Three games small enough to solve by hand or to watch: left-right, rock-paper-scissors, and the beach bar."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..common_noise import CommonNoise
from ..moves import Stencil
from ..problem import AbstractGame, Listed


class Choice(AbstractGame):
    """Everyone starts at state 0 and moves, by its action, to one of the other states; what those earn depends on
    the crowd. The first decision alone counts.

    Args:
        pay: What each state earns, per unit of the crowd's density: reward of state s is Σ_j pay[s, j] μ_j.
        horizon: How many decisions; the reward of the choice is earned at times 1 … T−1.
    """

    pay: Float[Array, "S S"]
    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __init__(self, pay: Any, horizon: int = 2):
        self.pay = jnp.asarray(np.asarray(pay, float))
        self.states, self.actions, self.horizon = self.pay.shape[0], self.pay.shape[0] - 1, horizon

    def start(self):
        return jnp.zeros(self.states).at[0].set(1.0)

    def moves(self, time, density):
        del time
        targets = jnp.broadcast_to(jnp.arange(1, self.states), (self.states, self.actions))
        return Listed(targets[:, :, None], jnp.ones((self.states, self.actions, 1), density.dtype))

    def reward(self, time, density, kind):
        del time, kind
        return jnp.broadcast_to((self.pay @ density)[:, None], (self.states, self.actions))


def left_right(horizon: int = 2) -> Choice:
    """Return the game left-right: from the centre, states are left (1) and right (2), and a crowded side costs.

    A player on the left pays the density there, and on the right twice the density. At the equilibrium of two
    decisions 2/3 of the crowd goes left and everyone pays 2/3.

    Reference:
        Cui & Koeppl (2021), Approximately solving mean field games via entropy-regularized deep RL, section 6.
    """
    return Choice([[0, 0, 0], [0, -1, 0], [0, 0, -2]], horizon)


def rock_paper_scissors(horizon: int = 2) -> Choice:
    """Return rock (1), paper (2), scissors (3) with unequal stakes; state 0 is where all start.

    At the equilibrium of two decisions 26, 20 and 31 of 77 choose rock, paper and scissors, and everyone earns 6/11.
    The game is not monotone.

    Reference:
        Cui & Koeppl (2021), section 6, after Shapley (1964).
    """
    return Choice([[0, 0, 0, 0], [0, 0, -1, 2], [0, 4, 0, -2], [0, -3, 6, 0]], horizon)


class BeachBar(AbstractGame):
    """Towels on a beach of n places with a bar: near to it is good, near to others is not.

    A player moves by −1, 0 or 1 and is blown by −1, 0 or 1, and stops at either end of the beach. It loses `pull`
    times its distance from the bar, measured round the island, |action| / n, and the logarithm of the density there.

    Args:
        places: n, the number of states.
        horizon: T, the number of decisions.
        bar: Where the bar is.
        still: The probability that no wind blows; either way otherwise, with equal probability.
        least: Added to the density before its logarithm is taken, so that an empty place earns a finite reward.
        pull: What a step nearer to the bar is worth; 0 where it is closed.

    Reference:
        Perrin et al. (2020), section 4.1, with the ends and the scale of MFGLib 0.3.0 (whose T counts one decision
        less).
    """

    still: Float[Array, ""]
    bar: Array
    least: Float[Array, ""]
    pull: Float[Array, ""]
    states: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    actions: int = eqx.field(static=True, default=3)

    def __init__(
        self, places: int = 4, horizon: int = 3, bar: Any = 2, *, still: Any = 0.5, least: Any = 1e-20, pull: Any = 1.0
    ):
        self.pull = jnp.asarray(pull)
        self.states, self.horizon, self.actions = places, horizon, 3
        self.bar, self.still, self.least = jnp.asarray(bar, jnp.int32), jnp.asarray(still), jnp.asarray(least)

    def start(self):
        return jnp.full(self.states, 1 / self.states)

    def moves(self, time, density):
        del time, density
        # Where the beach ends, a move beyond it is a shorter one.
        place, action, wind = np.indices((self.states, 3, 3))
        end = np.clip(place + action - 1 + wind - 1, 0, self.states - 1)
        by = end - place
        still = jnp.asarray(self.still)
        blown = jnp.stack([(1 - still) / 2, still, (1 - still) / 2])
        chances = [
            jnp.sum(jnp.where(by == move, blown[None, None, :], jnp.zeros((1, 1, 1), blown.dtype)), axis=-1)
            for move in range(-2, 3)
        ]
        return Stencil(jnp.stack(chances, axis=-1), tuple((0, move) for move in range(-2, 3)), (1, self.states))

    def reward(self, time, density, kind):
        del time, kind
        place = jnp.arange(self.states, dtype=jnp.int32)
        away = jnp.minimum((place - self.bar) % self.states, (self.bar - place) % self.states)
        effort = jnp.asarray([1.0, 0.0, 1.0], density.dtype) / self.states
        here = -self.pull * away.astype(density.dtype) - jnp.log(density + self.least)
        return here[:, None] - effort[None, :]


def beach_bar(places: int = 4, horizon: int = 3, bar: int = 2, **options: Any) -> BeachBar:
    """Return the beach bar: see `BeachBar`."""
    return BeachBar(places, horizon, bar, **options)


def closing_bar(places: int = 10, horizon: int = 10, bar: int = 5, *, closes: float = 0.1) -> CommonNoise:
    """Return the beach bar that may close for good: who is near to it then is near to nothing but company.

    Shock 0 is open and shock 1 closed; it is open at time 0. Densities and policies are those of `CommonNoise`.

    Args:
        places, horizon, bar: See `BeachBar`.
        closes: The probability that it closes, at each step that it is open.

    Reference:
        Perrin et al. (2020), section 4.3.
    """
    games = [BeachBar(places, horizon, bar, pull=pull) for pull in (1.0, 0.0)]
    return CommonNoise(games, [[1 - closes, closes], [0.0, 1.0]])
