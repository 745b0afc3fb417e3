"""Crowds on maps: motion that avoids company, four rooms, and the way out through congestion.

A state is a cell: row i and column j of an H × W map is state i·W + j, walls included (nobody is ever there). The five
actions are to stay or to go one cell north, south, west or east; what a wall or the edge blocks stays. A gust may then
carry the player one cell further.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from ..bands import Bands
from ..maps import Map, openings, parse_map
from ..moves import StencilChain, shifts
from ..problem import AbstractChain, AbstractGame, AbstractMoves, added

HALL = """\
#####################
#...................#
#.EE..#####..#####..#
#.EE..#......#......X
#.EE..#......#......#
#.....#..#####..#...#
#.EE..#.........#...#
#.EE.......#....#...X
#.EE..######....#...#
#...................#
#####################
"""
"""A hall with two exits on one side, and a crowd at the other."""

STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""What the actions do, as (rows down, columns right): stay, north, south, west, east."""


class Walk(AbstractMoves):
    """One step that the player chooses, then a gust that it does not.

    Args:
        open: Whether each step leads somewhere from each cell; staying always does.
        gust: What the gust does from where the step ended; None where no wind blows.
        shape: (H, W).
        periodic: Whether the map closes on itself.
    """

    open: Bool[Array, "D S"]
    gust: StencilChain | None
    shape: tuple[int, int] = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def expect(self, value):
        return self.ahead(value).T

    def ahead(self, value):
        value = value if self.gust is None else self.gust.expect(value)
        return jnp.stack(self._ends(value))

    def carry(self, mass):
        arrived = self._step(mass.T).arrivals()
        return arrived if self.gust is None else self.gust.carry(arrived)

    def under(self, policy):
        step = self._step(policy.T)
        return step if self.gust is None else WalkChain(step, self.gust)

    def listed(self):
        cells = jnp.arange(self.open.shape[1], dtype=jnp.int32)
        ends = jnp.stack(self._ends(cells), axis=1)
        if self.gust is None:
            return ends[:, :, None], jnp.ones((*ends.shape, 1))
        # The gust blows from where the step ended.
        return ends[ends], jnp.concatenate([self.gust.stay[None], self.gust.moving]).T[ends]

    def bands(self):
        if self.periodic:
            return None
        free = self.open.astype(float if self.gust is None else self.gust.stay.dtype)
        width = self.shape[1]
        gust, gust_ways = free[:0], ()
        if self.gust is not None:
            gust = jnp.concatenate([self.gust.stay[None], self.gust.moving])
            gust_ways = (0, *(down * width + right for down, right in self.gust.displacements))
        # To stay is the one step that is never blocked; the others stay where they are.
        weights = jnp.concatenate([free[:1], jnp.stack([1 - free[1:], free[1:]], axis=1).reshape(-1, free.shape[1])])
        ways = (0, *(way for down, right in STEPS[1:] for way in (0, down * width + right)))
        return Bands(weights, gust, ways, (1, 2, 2, 2, 2), gust_ways)

    def _ends(self, x: Array) -> list[Array]:
        """Return an array over cells as read where each step ends."""
        ahead = shifts(x, STEPS, self.shape, self.periodic)
        return [jnp.where(way, there, x) for way, there in zip(self.open, ahead, strict=True)]

    def _step(self, weights: Float[Array, "D S"]) -> StencilChain:
        """Return the step alone as a chain, its blocked part added to staying."""
        free = jnp.where(self.open[1:], weights[1:], jnp.zeros_like(weights[1:]))
        stay = weights[0] + added(weights[1:] - free, 0)
        return StencilChain(stay, free, STEPS[1:], self.shape, self.periodic)


class WalkChain(AbstractChain):
    """A step by a policy, then a gust."""

    step: StencilChain
    gust: StencilChain

    def expect(self, value):
        return self.step.expect(self.gust.expect(value))

    def carry(self, mass):
        return self.gust.carry(self.step.carry(mass))


class AbstractGridGame(AbstractGame):
    """A game on a map: what grids share.

    `shape` is (H, W); `free` tells the cells that can be entered and `open` the steps that lead somewhere; `begin` is
    the first density. With probability `noise` a gust follows a step. It blows to the cell itself or to one of its
    neighbours, each with probability one in `ways`, and one that is blocked leaves the player in place. A `noise`
    of plain 0.0 costs neither time nor memory.
    """

    shape: eqx.AbstractVar[tuple[int, int]]
    free: eqx.AbstractVar[Bool[Array, " S"]]
    open: eqx.AbstractVar[Bool[Array, "D S"]]
    begin: eqx.AbstractVar[Float[Array, " S"]]
    ways: eqx.AbstractVar[Int[Array, " S"]]
    noise: eqx.AbstractVar[float | Array]
    periodic: eqx.AbstractVar[bool]

    @property
    def states(self) -> int:
        """S = H·W, walls included."""
        return self.shape[0] * self.shape[1]

    @property
    def actions(self) -> int:
        """Five: stay, north, south, west, east."""
        return len(STEPS)

    def start(self) -> Float[Array, " S"]:
        """Return the density at time 0."""
        return self.begin

    def moves(self, time: Int[Array, ""], density: Float[Array, " S"]) -> AbstractMoves:
        """Return a step, then a gust; the same at every time and density."""
        del time
        return Walk(self.open, self._gust(density.dtype), self.shape, self.periodic)

    def _gust(self, dtype: jnp.dtype) -> StencilChain | None:
        if isinstance(self.noise, int | float) and self.noise == 0:
            return None
        chance = jnp.asarray(self.noise, dtype) / self.ways.astype(dtype)
        ways = self.open[1:]
        blown = jnp.where(ways, jnp.broadcast_to(chance, ways.shape), jnp.zeros((), dtype))
        return StencilChain(1 - jnp.sum(blown, axis=0), blown, STEPS[1:], self.shape, self.periodic)

    def legal_policy(self) -> Float[Array, "1 T S A"]:
        """Return the policy that picks among the steps that are open from each cell, each as likely.

        It is what OpenSpiel calls uniform.
        """
        chance = self.open.T.astype(self.begin.dtype)
        chance = chance / jnp.sum(chance, axis=1, keepdims=True)
        return jnp.broadcast_to(chance, (1, self.horizon, self.states, self.actions))


class CrowdMotion(AbstractGridGame):
    """People who keep apart while they walk a map, and who may be drawn to some place.

    r(s, a) = attraction_t(s) − aversion·log(μ_t(s) + floor), whatever the action. It is monotone, so that the
    equilibrium flow is unique.

    Args:
        free: Which cells can be entered, (H, W).
        start: The first density, (H, W); it sums to one.
        horizon: T.
        attraction: What it earns to be in each cell, (H, W), or at each time, (T, H, W); 0 by default.
        aversion: How much company costs.
        floor: What is added to the density within the logarithm.
        noise: The probability of a gust after a step.
        shielded: Whether a gust picks among the open directions only; otherwise among five, and walls stop it.
        periodic: Whether the map is a torus.

    Raises:
        ValueError: if the shapes do not fit together.

    Reference:
        Perrin et al. (2020), section 4.2; Pérolat et al. (2021), section 5; OpenSpiel's `mfg_crowd_modelling_2d`.
    """

    free: Bool[Array, " S"]
    open: Bool[Array, "D S"]
    begin: Float[Array, " S"]
    attraction: Float[Array, "Times S"]
    aversion: float | Array
    floor: float | Array
    ways: Int[Array, " S"]
    noise: float | Array
    shape: tuple[int, int] = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def __init__(
        self,
        free: ArrayLike,
        start: ArrayLike,
        *,
        horizon: int,
        attraction: ArrayLike = 0.0,
        aversion: float | Array = 1.0,
        floor: float | Array = 1e-25,
        noise: float | Array = 0.0,
        shielded: bool = True,
        periodic: bool = False,
    ):
        cells = np.asarray(free, bool)
        drawn = np.asarray(attraction)
        drawn = np.broadcast_to(drawn, cells.shape) if drawn.ndim < 2 else drawn
        if drawn.shape not in (cells.shape, (horizon, *cells.shape)):
            raise ValueError(f"attraction is (H, W) or (T, H, W), not {drawn.shape}")
        if np.shape(start) != cells.shape:
            raise ValueError(f"the first density has shape {np.shape(start)}, and the map {cells.shape}")
        self.shape = (cells.shape[0], cells.shape[1])
        self.free = jnp.asarray(cells.reshape(-1))
        ways = openings(cells, STEPS, periodic=periodic)
        self.open = jnp.asarray(ways)
        self.ways = jnp.asarray(ways.sum(axis=0) if shielded else np.full(cells.size, len(STEPS)), jnp.int32)
        self.begin = jnp.asarray(np.asarray(start, float).reshape(-1))
        self.attraction = jnp.asarray(drawn, float).reshape(-1, cells.size)
        self.aversion, self.floor, self.noise = aversion, floor, noise
        self.horizon, self.periodic = horizon, periodic

    def reward(self, time, density, kind):
        del kind
        dtype = density.dtype
        drawn = self.attraction[jnp.minimum(time, self.attraction.shape[0] - 1)].astype(dtype)
        company = jnp.log(density + jnp.asarray(self.floor, dtype))
        earned = drawn - jnp.asarray(self.aversion, dtype) * company
        # Nobody is in a wall; its reward would only widen the range of rewards.
        earned = jnp.where(self.free, earned, jnp.zeros((), dtype))
        return jnp.broadcast_to(earned[:, None], (self.states, self.actions))

    def coarser(self) -> "CrowdMotion":
        """Return the crowd on a map of half the side, with half as many decisions, each worth two.

        A cell there is two by two cells here, free if half of them are (so that a thin wall vanishes rather than
        that a door closes) or if somebody starts there. No gusts blow: to mix steps of two cells spreads a crowd by
        as much as to mix steps of one among gusts.

        Raises:
            ValueError: if the map has a side of a single cell.
        """
        if min(self.shape) < 2:
            raise ValueError(f"a map of {self.shape[0]} × {self.shape[1]} cells has no coarser one")
        room = np.asarray(self.free, float)
        cells, start = self._blocks(room), self._blocks(np.asarray(self.begin, float))
        drawn = self._blocks(np.asarray(self.attraction, float) * room) / np.maximum(cells, 1)
        return CrowdMotion(
            (cells >= 2) | (start > 0),
            start,
            horizon=-(-self.horizon // 2),
            attraction=2 * (drawn[0] if drawn.shape[0] == 1 else drawn[::2]),
            aversion=2 * self.aversion,
            floor=4 * self.floor,
            periodic=self.periodic,
        )

    def finer(self, x: Float[Array, "*n C"]) -> Float[Array, "*n S"]:
        """Return an array over the coarser map's cells as read from each cell here, linearly between their centres."""
        lead = x.shape[:-1]
        x = x.reshape(*lead, *(-(-side // 2) for side in self.shape))
        for axis, side in enumerate(self.shape, len(lead)):
            x = lax.slice_in_dim(_doubled(x, axis), 0, side, axis=axis)
        return x.reshape(*lead, self.states)

    def _blocks(self, x: np.ndarray) -> np.ndarray:
        """Return the sums of an array over cells in blocks of two by two."""
        (height, width), lead = self.shape, x.shape[:-1]
        room = [(0, 0)] * len(lead) + [(0, height % 2), (0, width % 2)]
        x = np.pad(x.reshape(*lead, height, width), room)
        return x.reshape(*lead, (height + 1) // 2, 2, (width + 1) // 2, 2).sum(axis=(-3, -1))


def _doubled(x: Array, axis: int) -> Array:
    """Return twice as many entries along an axis: each a quarter of the way to the neighbour on its side."""
    padded = jnp.pad(x, [(int(place == axis),) * 2 for place in range(x.ndim)], "edge")
    behind, ahead = (lax.slice_in_dim(padded, place, place + x.shape[axis], axis=axis) for place in (0, 2))
    pairs = jnp.stack([0.75 * x + 0.25 * behind, 0.75 * x + 0.25 * ahead], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


class Evacuation(AbstractGridGame):
    """People who leave a building, and who slow down one another.

    Until it is out, a player pays 1 for each step of time and `crowding`·μ_t(s)·(free cells) for the company in its
    cell (so that an evenly spread crowd pays `crowding`); a step costs `effort`. Who reaches an exit stays there
    and pays nothing. Rewards fall with the density of the own cell only, so the game is monotone.

    Args:
        plan: The map: walls, entries (where the crowd starts, evenly), exits.
        horizon: T; by default twice the longest way from an entry, and at least 10.
        crowding: The price of company.
        effort: The price of a step.
        noise: The probability of a gust after a step; none blows at an exit.
        late: What it costs to be inside at the end, on top of all.

    Reference:
        Lachapelle & Wolfram (2011), On a mean field game approach modeling congestion and aversion in pedestrian
        crowds; here in discrete time.
    """

    free: Bool[Array, " S"]
    exits: Bool[Array, " S"]
    open: Bool[Array, "D S"]
    begin: Float[Array, " S"]
    crowding: float | Array
    effort: float | Array
    late: float | Array
    ways: Int[Array, " S"]
    noise: float | Array
    shape: tuple[int, int] = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def __init__(
        self,
        plan: Map,
        *,
        horizon: int | None = None,
        crowding: float | Array = 0.2,
        effort: float | Array = 0.0,
        noise: float | Array = 0.0,
        late: float | Array = 0.0,
    ):
        self.shape = (plan.free.shape[0], plan.free.shape[1])
        self.free, self.exits = jnp.asarray(plan.free.reshape(-1)), jnp.asarray(plan.exits.reshape(-1))
        ways = openings(plan.free, STEPS)
        ways[1:, plan.exits.reshape(-1)] = False
        self.open, self.ways = jnp.asarray(ways), jnp.asarray(ways.sum(axis=0), jnp.int32)
        entries = plan.entries.reshape(-1)
        self.begin = jnp.asarray(entries / entries.sum(), float)
        self.crowding, self.effort, self.noise, self.late = crowding, effort, noise, late
        self.horizon = max(10, 2 * plan.longest_way) if horizon is None else horizon
        self.periodic = False

    def reward(self, time, density, kind):
        del time, kind
        dtype = density.dtype
        cells = jnp.sum(self.free).astype(dtype)
        company = jnp.asarray(self.crowding, dtype) * cells * density
        steps = jnp.asarray(self.effort, dtype) * jnp.asarray([0, 1, 1, 1, 1], dtype)
        paid = 1 + company[:, None] + steps[None, :]
        return jnp.where(self._inside[:, None], -paid, jnp.zeros((), dtype))

    def final(self, density, kind):
        del kind
        return jnp.where(self._inside, -jnp.asarray(self.late, density.dtype), jnp.zeros((), density.dtype))

    @property
    def _inside(self) -> Bool[Array, " S"]:
        return self.free & ~self.exits


def four_rooms(size: int = 13, *, horizon: int | None = None, noise: float = 1.0, aversion: float = 1.0) -> CrowdMotion:
    """Return crowd motion in four rooms: all start in one corner and spread.

    With size 13, horizon 40 and noise 1 it is the preset "four rooms" of OpenSpiel's `mfg_crowd_modelling_2d` (which
    writes the start's reward with an even density: a constant that no policy changes).

    Args:
        size: Cells per side, walls included; at least 7.
        horizon: T; by default 40 at size 13, and in proportion to the side otherwise.
        noise: The probability of a gust after a step.
        aversion: How much company costs.

    Raises:
        ValueError: if the size is too small for four rooms with doors.
    """
    if size < 7:
        raise ValueError(f"four rooms need at least 7 cells a side, not {size}")
    middle = size // 2
    doors = middle // 2, middle + (size - middle) // 2
    free = np.zeros((size, size), bool)
    free[1:-1, 1:-1] = True
    free[middle, :] = free[:, middle] = False
    for door in doors:
        free[middle, door] = free[door, middle] = True
    start = np.zeros((size, size))
    start[1, 1] = 1
    horizon = round(40 * size / 13) if horizon is None else horizon
    return CrowdMotion(free, start, horizon=horizon, noise=noise, aversion=aversion)


def crowd_motion(
    rows: int = 20,
    columns: int = 20,
    *,
    horizon: int = 4,
    bars: Sequence[tuple[int, int]] | None = None,
    pull: float = 10.0,
    noise: float = 0.625,
    floor: float = 1e-10,
) -> CrowdMotion:
    """Return crowd motion on an open field with a bar that may move.

    The attraction is pull·(1 − |s − bar_t|₁/(rows + columns)). A gust stays with probability 1/2 and blows each way
    with 1/8, and walls stop it. With the defaults it is like the game `crowd_motion` of MFGLib 0.3.0, whose horizon
    T = 3 means the four decisions t = 0 … 3 and whose bar moves at random (give the places as `bars`), but for the
    walls: there step and gust are stopped together, here one after the other.

    Args:
        rows, columns: The field.
        horizon: T, the number of decisions.
        bars: Where the bar is at each time, as (row, column); the middle by default.
        pull: What it earns to be at the bar.
        noise: The probability of a gust after a step.
        floor: What is added to the density within the logarithm.

    Raises:
        ValueError: if there are not as many places as decisions.
    """
    places = [(rows // 2, columns // 2)] if bars is None else list(bars)
    if bars is not None and len(places) != horizon:
        raise ValueError(f"{len(places)} places of the bar for {horizon} decisions")
    i, j = np.indices((rows, columns))
    far = np.stack([np.abs(i - row) + np.abs(j - column) for row, column in places])
    attraction = pull * (1 - far / (rows + columns))
    free = np.ones((rows, columns), bool)
    return CrowdMotion(
        free,
        np.full(free.shape, 1 / free.size),
        horizon=horizon,
        attraction=attraction if bars is not None else attraction[0],
        floor=floor,
        noise=noise,
        shielded=False,
    )


def congestion(
    plan: Map | str = HALL,
    *,
    horizon: int | None = None,
    crowding: float = 0.2,
    effort: float = 0.0,
    noise: float = 0.0,
    late: float = 0.0,
) -> Evacuation:
    """Return the way out through congestion: of a hall, or of any map.

    Args:
        plan: A map, or its text; see `parse_map`.
        horizon, crowding, effort, noise, late: See `Evacuation`.

    Raises:
        InputError: if the text is no map.
    """
    plan = parse_map(plan) if isinstance(plan, str) else plan
    return Evacuation(plan, horizon=horizon, crowding=crowding, effort=effort, noise=noise, late=late)
