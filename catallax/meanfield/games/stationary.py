"""Stationary games: company that is avoided in four rooms or in places side by side."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..moves import Stencil
from ..problem import Listed
from ..stationary import AbstractStationaryGame

STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""What the actions do, as (rows down, columns right): stay, north, south, west, east."""


class Rooms(AbstractStationaryGame):
    """People who keep apart in rooms with doors, for ever.

    r(s, a) = attraction(s) − aversion·log(max(μ(s), floor)), whatever the action. A step and a gust, of which all
    five are as likely, are added; who would end in a wall or outside stays. Two cells can thus be crossed at once,
    walls too.

    Args:
        free: Which cells can be entered, (H, W).
        attraction: What it earns to be in each cell, (H, W); 0 by default.
        aversion: How much company costs.
        discount: γ.
        floor: The least density of which the logarithm is taken.

    Where moves are quick enough for it, as they are in `stationary_rooms`, the density in equilibrium is that of
    Boltzmann, in proportion to exp(attraction / aversion): every place is then as good as any other.

    Reference:
        Bench-MFG 0.1.3, `four_rooms_obstacles`; there the walls hold mass at first, which leaves them for good.
    """

    free: Bool[Array, " S"]
    attraction: Float[Array, " S"]
    aversion: float | Array
    discount: float | Array
    floor: float | Array
    chances: Float[Array, "A D"]
    shape: tuple[int, int] = eqx.field(static=True)
    ways: tuple[tuple[int, int], ...] = eqx.field(static=True)
    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)

    def __init__(
        self, free: Any, *, attraction: Any = 0.0, aversion: Any = 1.0, discount: Any = 0.9, floor: Any = 1e-12
    ):
        cells = np.asarray(free, bool)
        self.shape = (cells.shape[0], cells.shape[1])
        self.states, self.actions = cells.size, len(STEPS)
        self.free, self.aversion, self.discount, self.floor = jnp.asarray(cells.ravel()), aversion, discount, floor
        self.attraction = jnp.asarray(np.broadcast_to(np.asarray(attraction, float), cells.shape).ravel())
        sums = [[(step[0] + gust[0], step[1] + gust[1]) for gust in STEPS] for step in STEPS]
        self.ways = tuple(sorted({way for row in sums for way in row}))
        self.chances = jnp.asarray([[row.count(way) / len(STEPS) for way in self.ways] for row in sums])

    def start(self):
        free = self.free.astype(self.chances.dtype)
        return free / jnp.sum(free)

    def moves(self, density):
        del density
        return Stencil(self.chances, self.ways, self.shape, ~self.free.reshape(self.shape))

    def reward(self, density, kind):
        del kind
        dtype = density.dtype
        # Nobody is in a wall, where the logarithm would widen the range of rewards: it earns as in an even crowd.
        density = jnp.where(self.free, density, jnp.max(self.start()).astype(dtype))
        company = jnp.log(jnp.maximum(density, jnp.asarray(self.floor, dtype)))
        earned = self.attraction.astype(dtype) - jnp.asarray(self.aversion, dtype) * company
        return jnp.broadcast_to(earned[:, None], (self.states, self.actions))


def stationary_rooms(*, pull: float = 10.0, aversion: float = 1.0, discount: float = 0.9) -> Rooms:
    """Return four rooms of 5 × 5 cells, with doors at the places of Bench-MFG 0.1.3, and a bar in the first corner.

    Args:
        pull: What it earns to be at the bar; at distance d, pull·(1 − d/20). With 0 it is Bench-MFG's game, in which
            even chances are an equilibrium.
        aversion: How much company costs.
        discount: γ.
    """
    free = np.ones((11, 11), bool)
    free[5, :] = free[:, 5] = False
    for door in ((2, 5), (8, 5), (5, 8), (5, 2)):
        free[door] = True
    attraction = pull * (1 - np.indices(free.shape).sum(axis=0) / 20)
    return Rooms(free, attraction=attraction, aversion=aversion, discount=discount)


class Places(AbstractStationaryGame):
    """Places side by side: the action is the next place, and a place earns its worth less its price times its density.

    Every kind has worths of its own. In equilibrium a kind is only where its worth less the price of company is
    greatest; the way there costs nothing, so that γ does not matter.

    Args:
        price: Of company, one for each place.
        worth: What each place is worth to each kind, (kinds, S).
        portions: What part of the crowd each kind is.
        discount: γ.
    """

    price: Float[Array, " S"]
    worth: Float[Array, "n S"]
    portions: Float[Array, " n"]
    discount: float | Array

    def __init__(self, price: Any, worth: Any = None, portions: Any = None, discount: Any = 0.9):
        self.price = jnp.asarray(np.asarray(price, float))
        self.worth = jnp.zeros((1, self.price.size)) if worth is None else jnp.asarray(np.asarray(worth, float))
        kinds = self.worth.shape[0]
        self.portions = jnp.asarray(np.full(kinds, 1 / kinds) if portions is None else np.asarray(portions, float))
        self.discount = discount

    @property
    def states(self) -> int:
        """One for each place."""
        return self.price.size

    @property
    def actions(self) -> int:
        """One for each place: where to be next."""
        return self.price.size

    @property
    def kinds(self):
        """What each place is worth to each kind, and what part of the crowd it is."""
        return self.worth, self.portions

    @property
    def shares(self):
        """What part of the crowd each kind is."""
        return self.portions

    def moves(self, density):
        targets = jnp.broadcast_to(jnp.arange(self.states, dtype=jnp.int32), (self.states, self.states))[:, :, None]
        return Listed(targets, jnp.ones(targets.shape, density.dtype))

    def reward(self, density, kind):
        earned = kind[0] - self.price * density
        return jnp.broadcast_to(earned[:, None], (self.states, self.actions))
