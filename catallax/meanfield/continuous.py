"""The question in continuous time and space: who bears what cost where, and how players may move.

A player at X chooses a velocity a, is pushed by a drift b and by noise, dX = (a + b) dt + √(2ν) dW, and pays
L(a) + F(t, X, m_t) per unit of time and G(X, m_T) at the end, where m is the density of all players. With
H(p) = max_a (−a·p − L(a)) an equilibrium is a pair (u, m) of

    −∂u/∂t − νΔu + H(∇u) − b·∇u = F(t, x, m),      u(T) = G(x, m(T)),
     ∂m/∂t − νΔm + div(m (b − H'(∇u))) = 0,         m(0) = m₀,

with no flux through walls. Costs are paid, so that lower is better: u is what a player still expects to pay.

References:
    Lasry & Lions (2007), Mean field games, section 2.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from ..errors import InputError

Number = Float[Array, "..."] | np.ndarray | float
"""A number of the question, which may be traced."""


class Grid(eqx.Module):
    """Equal cells in one or two dimensions; values live at the cells' centres.

    Args:
        cells: How many cells along each axis, at least 3.
        sides: How long each axis is.
        origin: The corner of the first cell; zeros if not given.
        periodic: Whether an axis closes on itself (a torus) or ends at walls that reflect; one for all, or one each.
        blocked: Cells that nobody can enter, as further walls; None if there are none.

    Raises:
        ValueError: if the axes do not fit together.
    """

    cells: tuple[int, ...] = eqx.field(static=True)
    sides: tuple[float, ...] = eqx.field(static=True)
    origin: tuple[float, ...] = eqx.field(static=True)
    periodic: tuple[bool, ...] = eqx.field(static=True)
    blocked: Bool[Array, "..."] | None

    def __init__(
        self,
        cells: tuple[int, ...],
        sides: tuple[float, ...],
        *,
        origin: tuple[float, ...] | None = None,
        periodic: bool | tuple[bool, ...] = False,
        blocked: ArrayLike | None = None,
    ):
        self.cells, self.sides = tuple(int(n) for n in cells), tuple(float(side) for side in sides)
        self.origin = (0.0,) * len(self.cells) if origin is None else tuple(float(x) for x in origin)
        self.periodic = (periodic,) * len(self.cells) if isinstance(periodic, bool) else tuple(periodic)
        self.blocked = None if blocked is None else jnp.asarray(blocked, jnp.bool_)
        if len(self.cells) not in (1, 2):
            raise ValueError(f"a grid has one axis or two, not {len(self.cells)}")
        if {len(self.sides), len(self.origin), len(self.periodic)} != {len(self.cells)}:
            raise ValueError("cells, sides, origin and periodic must name equally many axes")
        if min(self.cells) < 3 or not all(0 < side < math.inf for side in self.sides):
            raise ValueError("an axis needs at least 3 cells and a positive, finite side")
        if self.blocked is not None and self.blocked.shape != self.cells:
            raise ValueError(f"blocked has shape {self.blocked.shape}, but the grid {self.cells}")

    @property
    def width(self) -> tuple[float, ...]:
        """The width h of a cell along each axis."""
        return tuple(side / n for side, n in zip(self.sides, self.cells, strict=True))

    @property
    def volume(self) -> float:
        """The length or area of a cell."""
        return math.prod(self.width)

    @property
    def place(self) -> Float[np.ndarray, "d ..."]:
        """The coordinates of the cells' centres, in float64."""
        centres = [
            start + h * (np.arange(n) + 0.5) for start, h, n in zip(self.origin, self.width, self.cells, strict=True)
        ]
        return np.stack(np.meshgrid(*centres, indexing="ij"))


class Effort(eqx.Module):
    """What velocity costs: L(a) = price·|a|^q/q with 1/q + 1/power = 1, for |a| ≤ limit.

    Its Hamiltonian is H(p) = price^(1−power)·|p|^power/power as long as the best speed is below the limit, and
    grows linearly beyond. Power 2 is quadratic effort.

    Args:
        price: Positive; one for all kinds of players, or one each.
        power: β > 1, the power in the Hamiltonian.
        limit: The highest speed; infinite if there is none.
    """

    price: Number = 1.0
    power: float = eqx.field(static=True, default=2.0)
    limit: float = eqx.field(static=True, default=math.inf)

    def __check_init__(self):
        if not 1 < self.power < math.inf or not self.limit > 0:
            raise ValueError(f"effort needs a power above 1 and a positive limit, not {self.power} and {self.limit}")


Coupling = Callable[[Float[Array, ""], Float[Array, "d ..."], Float[Array, "..."]], Float[Array, "..."]]
"""(time, place, density of the whole crowd) to a cost in each cell, in JAX."""


class ContinuousGame(eqx.Module):
    """A game in continuous time on a grid.

    Args:
        grid: Where.
        start: The density m₀ per length or area, shape (*cells); or that of each kind of players, shape
            (kinds, *cells), each with its share of the crowd as its mass. All masses sum to one.
        coupling: F(t, x, m) per unit of time: a function, or an Equinox module if it holds numbers to
            differentiate with respect to. Equilibrium is unique if F increases with m.
        horizon: T.
        steps: How many time steps T is divided into.
        viscosity: ν ≥ 0, half the variance of the noise per unit of time.
        final: G(x, m), as (place, density) to costs; None if the end costs nothing.
        effort: What velocity costs.
        drift: b, shape (d, *cells); None if there is none.

    Raises:
        ValueError: if shapes do not fit together.
    """

    grid: Grid
    start: Float[Array, "..."] | np.ndarray
    coupling: Coupling
    horizon: Number
    steps: int = eqx.field(static=True)
    viscosity: Number
    final: Callable[[Array, Array], Array] | None = None
    effort: Effort = Effort()
    drift: Float[Array, "d ..."] | np.ndarray | None = None

    def __check_init__(self):
        cells, shape = self.grid.cells, np.shape(self.start)
        if shape != cells and shape[1:] != cells:
            raise ValueError(f"start has shape {shape}, but the grid {cells}")
        if np.shape(self.effort.price) not in ((), (self.kinds,)):
            raise ValueError(f"effort has {np.shape(self.effort.price)} prices for {self.kinds} kinds of players")
        if self.drift is not None and np.shape(self.drift) != (len(cells), *cells):
            raise ValueError(f"drift has shape {np.shape(self.drift)}, but must be {(len(cells), *cells)}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, but must be at least 1")

    @property
    def kinds(self) -> int:
        """How many kinds of players there are."""
        return 1 if len(np.shape(self.start)) == len(self.grid.cells) else np.shape(self.start)[0]

    @property
    def step(self) -> Number:
        """The length of a time step."""
        return self.horizon / self.steps

    def running(self, index: ArrayLike, density: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return F at the end of time step `index`, given the density there.

        Step n leads from t_n to t_{n+1} and is charged at (t_{n+1}, m_{n+1}): then the step of the density is the
        transpose of the step of the value (Achdou & Capuzzo-Dolcetta 2010, eq. 19-20).
        """
        place = jnp.asarray(self.grid.place, density.dtype)
        time = (jnp.asarray(index, density.dtype) + 1) * jnp.asarray(self.step, density.dtype)
        return self.coupling(time, place, density)

    def ending(self, density: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return G, given the last density."""
        if self.final is None:
            return jnp.zeros_like(density)
        return self.final(jnp.asarray(self.grid.place, density.dtype), density)

    def costs(self, density: Float[np.ndarray, "T1 ..."]) -> tuple[np.ndarray, np.ndarray]:
        """Return F of each time step, shape (steps, *cells), and G, shape (*cells), as float64 NumPy."""
        with jax.enable_x64(True):
            flow = jnp.asarray(density, jnp.float64)
            running = jax.vmap(self.running)(jnp.arange(self.steps), flow[1:])
            return np.asarray(running, np.float64), np.asarray(self.ending(flow[-1]), np.float64)


def validate(game: ContinuousGame) -> None:
    """Check the numbers of a game.

    Raises:
        InputError: for a number out of range, a negative or missing mass, mass in a blocked cell, or a cost that is
            not finite; it names the kind, the time and the cell.
    """
    for name, least in {"horizon": False, "viscosity": True}.items():
        value = float(getattr(game, name))
        if not (math.isfinite(value) and (value > 0 or (least and value == 0))):
            raise InputError(f"{name} is {value:g}, but must be {'non-negative' if least else 'positive'} and finite")
    price = np.atleast_1d(np.asarray(game.effort.price, np.float64))
    if not np.all((price > 0) & np.isfinite(price)):
        raise InputError(f"the price of effort is {price.tolist()}, but must be positive and finite")
    start = np.asarray(game.start, np.float64).reshape(game.kinds, *game.grid.cells)
    if (wrong := np.argwhere(~(np.isfinite(start) & (start >= 0)))).size:
        kind, *cell = wrong[0].tolist()
        raise InputError(f"the density of kind {kind} at time 0 is {start[tuple(wrong[0])]:g} in cell {tuple(cell)}")
    if abs(mass := start.sum() * game.grid.volume - 1) > 1e-6:
        raise InputError(f"the start's mass is {mass + 1:.6g} instead of 1; divide the density by it")
    if (
        game.grid.blocked is not None
        and (wrong := np.argwhere(np.asarray(game.grid.blocked) & (start.sum(0) > 0))).size
    ):
        raise InputError(f"the density at time 0 is positive in the blocked cell {tuple(wrong[0].tolist())}")
    if game.drift is not None and (wrong := np.argwhere(~np.isfinite(np.asarray(game.drift)))).size:
        raise InputError(f"the drift along axis {wrong[0][0]} is not finite in cell {tuple(wrong[0][1:].tolist())}")
    still = np.broadcast_to(start.sum(0), (game.steps + 1, *game.grid.cells))
    running, ending = game.costs(still)
    if running.shape != (game.steps, *game.grid.cells) or ending.shape != game.grid.cells:
        raise ValueError(f"coupling and final must return one cost per cell, shape {game.grid.cells}")
    if (wrong := np.argwhere(~np.isfinite(running))).size:
        step, *cell = wrong[0].tolist()
        time = (step + 1) * float(game.step)
        raise InputError(f"the cost at time {time:g} is {running[tuple(wrong[0])]:g} in cell {tuple(cell)}")
    if (wrong := np.argwhere(~np.isfinite(ending))).size:
        raise InputError(f"the final cost is {ending[tuple(wrong[0])]:g} in cell {tuple(wrong[0].tolist())}")
