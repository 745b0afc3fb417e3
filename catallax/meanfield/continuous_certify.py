"""An independent check of a continuous game's answer: float64 NumPy and SciPy's sparse direct solver, own operators.

Everything is computed from the question and the answer alone. The control problem on the grid is that of a player
who holds speeds a_j ≥ 0 towards its neighbours during each time step τ = T/steps:

    J(a; m) = Σ_{n<steps} τ E[L(a_n(X_{n+1})) + F(t_{n+1}, X_{n+1}, m_{n+1})] + E[G(X_steps, m_steps)],

where X_{n+1} is drawn from X_n by (I + τA(a_n))⁻¹. Exploitability of the speeds that a value u implies is
Σ_k share_k [J_k(a_k; m^a) − min J_k(·; m^a)] with m^a the density that these speeds themselves bring about.
"""

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as direct

from ..certificate import Certificate

if TYPE_CHECKING:
    from .continuous import ContinuousGame

ROUNDING = 1e-10
"""The tolerance on mass and positivity: what hundreds of solves in float64 may lose."""

MOST_SWEEPS = 100
"""Policy iterations after which a step of the best response is taken as it is."""


class Chain:
    """The Markov chain on the grid's cells, numbered in C order.

    Args:
        game: The question.

    `there` holds each cell's neighbour in each direction, shape (2d, N), itself at a wall; `width` the distance to it.
    """

    def __init__(self, game: "ContinuousGame"):
        grid = game.grid
        number = np.arange(int(np.prod(grid.cells))).reshape(grid.cells)
        barred = np.zeros(grid.cells, bool) if grid.blocked is None else np.asarray(grid.blocked, bool)
        there, width = [], []
        for axis, n in enumerate(grid.cells):
            for step in (1, -1):
                place = np.arange(n) + step
                place = place % n if grid.periodic[axis] else np.clip(place, 0, n - 1)
                target = np.take(number, place, axis=axis)
                shut = barred | barred.ravel()[target]
                there.append(np.where(shut, number, target).ravel())
                width.append(grid.width[axis])
        self.game, self.there, self.width = game, np.stack(there), np.array(width)[:, None]
        self.open = self.there != number.ravel()
        self.time = float(game.horizon) / game.steps
        self.noise = float(game.viscosity) / self.width**2
        pushes = [sign * part for part in drift_of(game).reshape(len(grid.cells), -1) for sign in (1, -1)]
        self.pushed = np.maximum(np.stack(pushes), 0.0) / self.width

    def slopes(self, value: np.ndarray) -> np.ndarray:
        """Return (u − u_there)/h, shape (2d, N)."""
        return (value - value[self.there]) / self.width

    def matrix(self, speeds: np.ndarray) -> sparse.csc_array:
        """Return I + τA."""
        rate = self.time * self.open * (speeds / self.width + self.pushed + self.noise)
        cells = self.there.shape[1]
        here = np.tile(np.arange(cells), len(rate))
        rows = np.concatenate([np.arange(cells), here, here])
        columns = np.concatenate([np.arange(cells), here, self.there.ravel()])
        entries = np.concatenate([np.ones(cells), rate.ravel(), -rate.ravel()])
        return sparse.csc_array((entries, (rows, columns)), shape=(cells, cells))


def drift_of(game: "ContinuousGame") -> np.ndarray:
    """Return the drift, shape (d, *cells); zeros if there is none."""
    zero = np.zeros((len(game.grid.cells), *game.grid.cells))
    return zero if game.drift is None else np.asarray(game.drift, np.float64)


def prices_of(game: "ContinuousGame") -> np.ndarray:
    """Return what effort costs each kind, shape (kinds,)."""
    return np.broadcast_to(np.asarray(game.effort.price, np.float64), (game.kinds,))


def gain(game: "ContinuousGame", price: float, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best speeds (2d, N) and H = max_a Σ_j a_j slope_j − L(a), shape (N,)."""
    power, uphill = game.effort.power, np.clip(slopes, 0.0, None)
    steepness = np.linalg.norm(uphill, axis=0)
    speed = np.minimum((steepness / price) ** (power - 1), game.effort.limit)
    direction = np.divide(uphill, steepness, out=np.zeros_like(uphill), where=steepness > 0)
    return speed * direction, speed * steepness - effort(game, price, speed[None])


def effort(game: "ContinuousGame", price: float, speeds: np.ndarray) -> np.ndarray:
    """Return L(a) for speeds of shape (2d, N), shape (N,)."""
    conjugate = game.effort.power / (game.effort.power - 1)
    return price / conjugate * np.linalg.norm(speeds, axis=0) ** conjugate


def speeds_of(game: "ContinuousGame", value: np.ndarray) -> np.ndarray:
    """Return the speeds towards each neighbour that a value implies, shape (kinds, steps, 2d, *cells).

    Directions are in the order up and down the first axis, then the second.
    """
    chain, cells = Chain(game), game.grid.cells
    flat = value.reshape(game.kinds, game.steps + 1, -1)
    found = [
        [gain(game, price, chain.slopes(now))[0].reshape(-1, *cells) for now in own[:-1]]
        for price, own in zip(prices_of(game), flat, strict=True)
    ]
    return np.array(found)


def flow_of(game: "ContinuousGame", speeds: np.ndarray) -> np.ndarray:
    """Return each kind's density under given speeds, shape (kinds, steps + 1, *cells)."""
    chain, directions = Chain(game), 2 * len(game.grid.cells)
    mass = np.asarray(game.start, np.float64).reshape(game.kinds, -1)
    rows = [mass]
    for step in range(game.steps):
        mass = np.stack(
            [
                _solved(chain.matrix(own[step].reshape(directions, -1)).T.tocsc(), part)
                for own, part in zip(speeds, mass, strict=True)
            ]
        )
        rows.append(mass)
    return np.stack(rows, axis=1).reshape(game.kinds, game.steps + 1, *game.grid.cells)


def exploitability(game: "ContinuousGame", speeds: np.ndarray) -> tuple[float, float]:
    """Return the exploitability of given speeds, and the same per range of costs.

    The range is (max − min of L + F) × horizon + (max − min of G), over the density that the speeds bring about.

    Args:
        game: The question.
        speeds: Shape (kinds, steps, 2d, *cells), none negative.
    """
    chain, volume = Chain(game), game.grid.volume
    density = flow_of(game, speeds)
    running, ending = (
        cost.reshape(*cost.shape[: cost.ndim - len(game.grid.cells)], -1) for cost in _costs(game, density)
    )
    flat = speeds.reshape(game.kinds, game.steps, 2 * len(game.grid.cells), -1)
    masses = density.reshape(game.kinds, game.steps + 1, -1)
    loss, least, most = 0.0, np.inf, -np.inf
    for price, own, mass in zip(prices_of(game), flat, masses, strict=True):
        paid = running + np.stack([effort(game, price, now) for now in own])
        least, most = min(least, paid.min()), max(most, paid.max())
        own_cost = chain.time * float(np.sum(mass[1:] * paid)) + float(mass[-1] @ ending)
        loss += volume * (own_cost - float(mass[0] @ best_value(chain, price, running, ending)[0]))
    spread = (most - least) * float(game.horizon) + float(np.ptp(ending))
    return loss, loss / spread if spread > 0 else loss


def best_value(chain: Chain, price: float, running: np.ndarray, ending: np.ndarray) -> np.ndarray:
    """Return the least expected cost from each time and cell on, shape (steps + 1, N), by policy iteration."""
    rows = [ending]
    for cost in running[::-1]:
        value = after = rows[-1]
        for _ in range(MOST_SWEEPS):
            speeds, _ = gain(chain.game, price, chain.slopes(value))
            paid = after + chain.time * (cost + effort(chain.game, price, speeds))
            better = _solved(chain.matrix(speeds), paid)
            moved, value = np.max(np.abs(better - value)), better
            if moved <= 1e-13 * (1 + np.max(np.abs(better))):
                break
        rows.append(value)
    return np.stack(rows[::-1])


def residuals(game: "ContinuousGame", value: np.ndarray, density: np.ndarray) -> tuple[float, float]:
    """Return how far both equations are from holding.

    HJB: the largest |(uⁿ − uⁿ⁺¹)/τ + noise and drift + H − F| in any cell, and |u − G| / horizon at the end, relative
    to the largest single term. Fokker-Planck: Σ_n Σ_cells |(I + τA)ᵀ mⁿ⁺¹ − mⁿ|, the mass misplaced over the horizon.
    """
    chain, kinds, steps = Chain(game), game.kinds, game.steps
    running, ending = _costs(game, density)
    running, ending = running.reshape(steps, -1), ending.ravel()
    values, masses = value.reshape(kinds, steps + 1, -1), density.reshape(kinds, steps + 1, -1)
    starts = np.asarray(game.start, np.float64).reshape(kinds, -1)
    worst, scale, misplaced = 0.0, 0.0, float(np.sum(np.abs(masses[:, 0] - starts)))
    for price, own, mass in zip(prices_of(game), values, masses, strict=True):
        worst = np.maximum(worst, np.max(np.abs(own[-1] - ending)) / float(game.horizon))
        for step in range(steps):
            slopes = chain.slopes(own[step])
            speeds, hamiltonian = gain(game, price, slopes)
            pushed = np.sum(chain.width * chain.open * (chain.noise + chain.pushed) * slopes, axis=0)
            terms = (own[step] - own[step + 1]) / chain.time, pushed, hamiltonian, -running[step]
            worst = np.maximum(worst, np.max(np.abs(sum(terms))))
            scale = np.maximum(scale, max(np.max(np.abs(term)) for term in terms))
            misplaced += float(np.sum(np.abs(chain.matrix(speeds).T @ mass[step + 1] - mass[step])))
    return float(worst / scale) if scale > 0 else float(worst), game.grid.volume * misplaced


def certify_continuous(
    game: "ContinuousGame", value: np.ndarray, density: np.ndarray, *, tol: float = 1e-6
) -> list[Certificate]:
    """Check a value and a density, without the solver.

    Args:
        game: The question.
        value: Shape (kinds, steps + 1, *cells).
        density: Shape (kinds, steps + 1, *cells).
        tol: The tolerance of exploitability and of both equations.

    Returns:
        The certificates `exploitability`, `Hamilton-Jacobi-Bellman`, `Fokker-Planck`, `mass` and `positivity`.

    Raises:
        ValueError: if a shape is not as above.
    """
    shape = (game.kinds, game.steps + 1, *game.grid.cells)
    if value.shape != shape or density.shape != shape:
        raise ValueError(f"value and density must have shape {shape}, not {value.shape} and {density.shape}")
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(density))):
        loss = bellman = planck = mass = negative = np.nan
    else:
        loss = exploitability(game, speeds_of(game, value))[1]
        bellman, planck = residuals(game, value, density)
        total = density.sum(axis=(0, *range(2, density.ndim))) * game.grid.volume
        mass = float(np.max(np.abs(total - 1)))
        negative = float(-min(density.min(), 0.0) / density.max())
    return [
        Certificate("exploitability", abs(loss), tol, "what a player can save by deviating, per range of costs"),
        Certificate("Hamilton-Jacobi-Bellman", bellman, tol, "largest residual relative to the largest term"),
        Certificate("Fokker-Planck", planck, tol, "mass misplaced over the horizon"),
        Certificate("mass", mass, ROUNDING, "largest change of the crowd's mass"),
        Certificate("positivity", negative, ROUNDING, "deepest negative density per largest density"),
    ]


def _costs(game: "ContinuousGame", density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F of each step and G, at the density of the whole crowd."""
    return game.costs(density.sum(axis=0))


def _solved(matrix: sparse.csc_array, right: np.ndarray) -> np.ndarray:
    return np.asarray(direct.spsolve(matrix, right))
