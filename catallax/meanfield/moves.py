"""Where players may go: listed one by one, as one matrix per action, or by stencils on a grid.

Every kind of moves is a pair of transposes: `expect` looks ahead (values), `carry` moves mass. A stencil holds a
few displacements and their probabilities, so that its memory grows with states × displacements, and it moves by
shifts of whole arrays: no gathers, no scatters, no state × action × state tensor.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from .bands import Bands
from .problem import AbstractChain, AbstractMoves, added
from .problem import Chain as Chain
from .problem import Listed as Listed


class Dense(AbstractMoves):
    """One matrix of probabilities per action, for few states.

    Args:
        chances: The probability of each next state.
    """

    chances: Float[Array, "S A S"]

    def expect(self, value):
        return self.chances @ value

    def carry(self, mass):
        return jnp.einsum("sa,sat->t", mass, self.chances)

    def listed(self):
        states = jnp.arange(self.chances.shape[0], dtype=jnp.int32)
        return jnp.broadcast_to(states, self.chances.shape), self.chances

    def under(self, policy):
        return DenseChain(jnp.einsum("sa,sat->st", policy, self.chances))


class DenseChain(AbstractChain):
    """One matrix of probabilities."""

    chances: Float[Array, "S S"]

    def expect(self, value):
        return self.chances @ value

    def carry(self, mass):
        return mass @ self.chances


class Stencil(AbstractMoves):
    """Displacements on a grid of H × W cells; cell (i, j) is state i·W + j. A blocked move stays where it is.

    Args:
        chances: The probability of each displacement under each action, (A, D), or for each state too, (S, A, D).
        displacements: D pairs (rows down, columns right), each once.
        shape: (H, W).
        walls: Cells that nobody enters or leaves, (H, W) truth values; none by default.
        periodic: Whether the grid closes on itself; otherwise its edge is a wall.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    chances: Float[Array, "*S A D"]
    open: Bool[Array, "D S"]
    displacements: tuple[tuple[int, int], ...] = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def __init__(
        self,
        chances: ArrayLike,
        displacements: tuple[tuple[int, int], ...],
        shape: tuple[int, int],
        walls: ArrayLike | None = None,
        *,
        periodic: bool = False,
    ):
        self.chances = jnp.asarray(chances)
        self.displacements = tuple((int(i), int(j)) for i, j in displacements)
        self.shape = (int(shape[0]), int(shape[1]))
        self.periodic = periodic
        states = self.shape[0] * self.shape[1]
        if len(set(self.displacements)) < len(self.displacements):
            raise ValueError("each displacement is listed once; add the probabilities of those that coincide")
        if self.chances.shape[-1] != len(self.displacements) or self.chances.ndim not in (2, 3):
            raise ValueError(
                f"chances are (A, D) or (S, A, D) with D = {len(self.displacements)} displacements, "
                f"not {self.chances.shape}"
            )
        if self.chances.ndim == 3 and self.chances.shape[0] != states:
            raise ValueError(f"chances for {self.chances.shape[0]} states do not fit a grid of {states} cells")
        inside = np.stack([self._inside(*move) for move in self.displacements])
        self.open = jnp.asarray(inside)
        if walls is not None:
            free = ~jnp.asarray(walls, bool).reshape(-1)
            ends = jnp.stack(shifts(free, self.displacements, self.shape, periodic))
            self.open = self.open & ends & free[None, :]

    def expect(self, value):
        return self.ahead(value).T

    def ahead(self, value):
        seen = shifts(value, self.displacements, self.shape, self.periodic)
        terms = [
            self._chances[:, place] * jnp.where(self.open[place], ahead, value)[None]
            for place, ahead in enumerate(seen)
        ]
        return added(jnp.stack(terms), 0)

    def carry(self, mass):
        return self._chain(mass).arrivals()

    def under(self, policy):
        return self._chain(policy)

    def listed(self):
        states = jnp.arange(self.shape[0] * self.shape[1], dtype=jnp.int32)
        seen = shifts(states, self.displacements, self.shape, self.periodic)
        ends = [jnp.where(way, there, states) for way, there in zip(self.open, seen, strict=True)]
        chances = self.chances if self.chances.ndim == 3 else self.chances[None]
        shape = (states.size, *chances.shape[1:])
        return jnp.broadcast_to(jnp.stack(ends, axis=-1)[:, None, :], shape), jnp.broadcast_to(chances, shape)

    def bands(self):
        if self.periodic:
            return None
        # What is blocked stays, beside what stays anyhow.
        still = (0, 0) in self.displacements
        ways = self.displacements if still else ((0, 0), *self.displacements)
        chances = jnp.broadcast_to(self._chances, (*self._chances.shape[:2], self.open.shape[1]))
        none = jnp.zeros((), chances.dtype)
        taken = jnp.where(self.open, chances, none)
        blocked = added(jnp.where(self.open, none, chances), 1)
        if not still:
            taken = jnp.concatenate([jnp.zeros_like(blocked)[:, None], taken], axis=1)
        taken = taken + jnp.where(np.asarray([way == (0, 0) for way in ways])[:, None], blocked[:, None], none)
        ahead = tuple(down * self.shape[1] + right for down, right in ways)
        actions, count, states = taken.shape
        none = jnp.zeros((0, states), taken.dtype)
        return Bands(taken.reshape(-1, states), none, ahead * actions, (count,) * actions, ())

    @property
    def _places(self) -> range:
        return range(len(self.displacements))

    @property
    def _chances(self) -> Array:
        """The probabilities as (A, D, S), or (A, D, 1) where all states have the same."""
        return jnp.moveaxis(self.chances, 0, -1) if self.chances.ndim == 3 else self.chances[:, :, None]

    def _chain(self, acting: Array) -> "StencilChain":
        """Return what goes each way, with what is blocked added to staying, given how much acts each way, (S, A)."""
        weights = added(self._chances * acting.T[:, None, :], 0)
        moving = [place for place in self._places if self.displacements[place] != (0, 0)]
        # Selected by a constant mask rather than by index, which would be a gather.
        leaves = np.asarray([move != (0, 0) for move in self.displacements])[:, None]
        stay = added(jnp.where(self.open & leaves, jnp.zeros((), weights.dtype), weights), 0)
        free = [jnp.where(self.open[place], weights[place], jnp.zeros((), weights.dtype)) for place in moving]
        ways = tuple(self.displacements[place] for place in moving)
        moved = jnp.stack(free) if free else jnp.zeros((0, stay.size), stay.dtype)
        return StencilChain(stay, moved, ways, self.shape, self.periodic)

    def _inside(self, down: int, right: int) -> np.ndarray:
        rows, columns = np.indices(self.shape) + np.array([down, right])[:, None, None]
        inside = (rows >= 0) & (rows < self.shape[0]) & (columns >= 0) & (columns < self.shape[1])
        return (inside | self.periodic).reshape(-1)


class StencilChain(AbstractChain):
    """A stencil under a policy: the probability of staying, and of each other displacement that is open, by cell."""

    stay: Float[Array, " S"]
    moving: Float[Array, "D S"]
    displacements: tuple[tuple[int, int], ...] = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def expect(self, value):
        total = self.stay * value
        for weight, ahead in zip(self.moving, self._seen(value), strict=True):
            total = total + weight * ahead
        return total

    def carry(self, mass):
        # The products are taken where they arrive: a mass moves there, and so does the chance, which may not change.
        total = self.stay * mass
        for chance, behind in zip(self._arriving, self._seen(mass, -1), strict=True):
            total = total + chance * behind
        return total

    def arrivals(self) -> Array:
        """Return the sum of the weights that arrive in each cell."""
        total = self.stay
        for chance in self._arriving:
            total = total + chance
        return total

    @property
    def _arriving(self) -> list[Array]:
        """What arrives in each cell by each displacement."""
        return [moved[place] for place, moved in enumerate(self._seen(self.moving, -1))]

    def _seen(self, x: Array, sign: int = 1) -> list[Array]:
        ways = tuple((sign * down, sign * right) for down, right in self.displacements)
        return shifts(x, ways, self.shape, self.periodic)


def shifts(
    x: Float[Array, "*n S"], moves: tuple[tuple[int, int], ...], shape: tuple[int, int], periodic: bool = False
) -> list[Array]:
    """Return x as read each displacement away: entry (i, j) is x at (i + down, j + right).

    Unless the grid is periodic, entries read from beyond its edge are arbitrary numbers of x, or zero; moves
    that lead there have probability zero. All are slices of one array with a margin: slices fuse, and shifts of
    one array each would not.
    """
    lead, (height, width) = x.shape[:-1], shape
    down, right = (max((abs(move[axis]) for move in moves), default=0) for axis in (0, 1))
    if periodic:
        grid = jnp.pad(x.reshape(*lead, height, width), [(0, 0)] * len(lead) + [(down,) * 2, (right,) * 2], "wrap")
        return [
            grid[..., down + i : down + i + height, right + j : right + j + width].reshape(x.shape) for i, j in moves
        ]
    # One shift of the flat array: what wraps round a row is masked by whoever asks.
    margin = max((abs(i * width + j) for i, j in moves), default=0)
    none = jnp.zeros((*lead, margin), x.dtype)
    # Behind a barrier, or XLA would make a shift of each slice again.
    wide = lax.optimization_barrier(jnp.concatenate([none, x, none], axis=-1))
    starts = [margin + i * width + j for i, j in moves]
    return [lax.slice_in_dim(wide, start, start + x.shape[-1], axis=-1) for start in starts]
