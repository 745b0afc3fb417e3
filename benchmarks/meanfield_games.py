"""Games of a peer that ours are not, word for word: so that both are given the same."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from catallax.meanfield.moves import Stencil
from catallax.meanfield.problem import AbstractGame

STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))


class Field(AbstractGame):
    """Crowd motion of MFGLib 0.3.0: an open field, a bar that may move, and gusts.

    A step and a gust add up before the edge of the field stops what goes beyond it, each coordinate by itself.
    r_t(s) = pull·(1 − |s − bar_t|₁ / (rows + columns)) − log(μ_t(s) + floor), whatever the action.

    Args:
        rows, columns: The field.
        bars: Where the bar is at each of the T decisions, as (row, column).
        pull: What it earns to be at the bar.
        still: The probability that no gust blows; each of four ways otherwise, with equal probability.
        floor: What is added to the density within the logarithm.
    """

    attraction: Float[Array, "T S"]
    chances: Float[Array, "S A D"]
    floor: Float[Array, ""]
    shape: tuple[int, int] = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    ways: tuple[tuple[int, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        rows: int,
        columns: int,
        bars: Sequence[tuple[int, int]],
        *,
        pull: float = 10.0,
        still: float = 0.5,
        floor: float = 1e-10,
    ):
        self.shape, self.horizon, self.floor = (rows, columns), len(bars), jnp.asarray(floor)
        row, column = np.indices((rows, columns))
        far = np.stack([np.abs(row - i) + np.abs(column - j) for i, j in bars])
        self.attraction = jnp.asarray(pull * (1 - far / (rows + columns))).reshape(len(bars), -1)
        self.ways = tuple((i, j) for i in range(-2, 3) for j in range(-2, 3) if abs(i) + abs(j) <= 2)
        chances = np.zeros((rows, columns, len(STEPS), len(self.ways)))
        for action, step in enumerate(STEPS):
            for gust in STEPS:
                down = np.clip(row + step[0] + gust[0], 0, rows - 1) - row
                right = np.clip(column + step[1] + gust[1], 0, columns - 1) - column
                for place, way in enumerate(self.ways):
                    chance = still if gust == (0, 0) else (1 - still) / 4
                    chances[:, :, action, place] += chance * ((down == way[0]) & (right == way[1]))
        self.chances = jnp.asarray(chances.reshape(rows * columns, len(STEPS), -1))

    @property
    def states(self) -> int:
        """One for each cell."""
        return self.shape[0] * self.shape[1]

    @property
    def actions(self) -> int:
        """Five: one cell down, up, right or left, or to stay."""
        return len(STEPS)

    def start(self):
        return jnp.full(self.states, 1 / self.states, self.chances.dtype)

    def moves(self, time, density):
        del time, density
        return Stencil(self.chances, self.ways, self.shape)

    def reward(self, time, density, kind):
        del kind
        earned = self.attraction[time] - jnp.log(density + self.floor)
        return jnp.broadcast_to(earned[:, None], (self.states, self.actions))


def benchmfg_begin() -> np.ndarray:
    """Return the random policy (S, A) from which Bench-MFG 0.1.3 starts on four rooms after `numpy.random.seed(0)`.

    Softmax, at temperature 0.2, of logits that are even on [−1, 1]; actions in our order.
    """
    logits = np.random.RandomState(0).uniform(-1.0, 1.0, (121, 5))[:, [4, 2, 0, 3, 1]]
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) / 0.2)
    return weights / weights.sum(axis=1, keepdims=True)


def field(rows: int = 20, columns: int = 20, *, bars: Sequence[tuple[int, int]]) -> Field:
    """Return MFGLib's crowd motion: see `Field`."""
    return Field(rows, columns, bars)
