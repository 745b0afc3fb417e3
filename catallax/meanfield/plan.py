"""How a game's states lie on a grid, and which way its players go there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .figures import Plan
from .games.grid import STEPS, AbstractGridGame
from .moves import Stencil
from .problem import AbstractGame, AbstractMoves
from .stationary import AbstractStationaryGame

WAYS = {
    (0, 0): "stay",
    (-1, 0): "north",
    (1, 0): "south",
    (0, -1): "west",
    (0, 1): "east",
    (-1, -1): "north-west",
    (-1, 1): "north-east",
    (1, -1): "south-west",
    (1, 1): "south-east",
}
"""Names of actions on a grid, by where they mostly lead."""


MOST_ROWS = 2_000_000
"""A table of states with more rows than this is written as an array, in equilibrium.npz."""

LEAST_CHANCE = 1e-9
"""Actions less likely than this are left out of a table of a policy."""


def moves_at(game: Any, time: int, density: np.ndarray) -> AbstractMoves:
    """Return the moves at a time and a density, in double precision; those of a stationary game know no time."""
    with jax.enable_x64(True):
        now = jnp.asarray(density)
        return game.moves(now) if isinstance(game, AbstractStationaryGame) else game.moves(jnp.int32(time), now)


def plan_of(game: Any, density: np.ndarray) -> Plan | None:
    """Return the grid on which a game is played; None if it is played on none, or on a single row.

    Grids are those of `games.grid` and of games whose moves are a `Stencil`. A cell that no step of a stencil
    enters or leaves is a wall; a cell that can be entered and not left is an end.
    """
    if isinstance(game, AbstractGridGame):
        shape, periodic, steps = game.shape, game.periodic, STEPS
        ways, walls = np.asarray(game.open), np.logical_not(game.free)
    else:
        moves = moves_at(game, 0, density)
        if not isinstance(moves, Stencil):
            return None
        shape, periodic, steps = moves.shape, moves.periodic, moves.displacements
        ways = np.asarray(moves.open)
        walls = np.logical_not(np.any(ways, axis=0))
    if 1 in shape:
        return None
    stuck = np.logical_not(np.any(ways[[place for place, step in enumerate(steps) if step != (0, 0)]], axis=0))
    ends = stuck & np.logical_not(walls)
    return Plan(shape, np.reshape(walls, shape), np.reshape(ends, shape), periodic)


def headings(game: AbstractGame, plan: Plan, flow: np.ndarray, policy: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return where the players in each cell go, on average over kinds and chance.

    Args:
        game: A game on a grid.
        plan: The grid.
        flow: The game's densities, (T + 1, S).
        policy: (kinds, T, S, A).
        times: Of which times; nobody goes anywhere at the horizon.

    Returns:
        Down and right in cells, shape (times, rows, columns, 2).
    """
    shares = np.asarray(game.shares, np.float64)
    found = np.zeros((len(times), *plan.shape, 2))
    for place, time in enumerate(times):
        if time < game.horizon:
            acting = np.tensordot(shares, policy[:, time], 1)
            found[place] = heading(plan, moves_at(game, int(time), flow[time]), acting)
    return found


def heading(plan: Plan, moves: AbstractMoves, acting: np.ndarray) -> np.ndarray:
    """Return where players in each cell go on average, down and right in cells, shape (rows, columns, 2).

    Args:
        plan: The grid.
        moves: The moves.
        acting: The probabilities of actions, shape (S, A).
    """
    size = np.array(plan.shape)
    here = np.stack(np.divmod(np.arange(len(acting)), size[1]), axis=-1)
    targets, chances = map(np.asarray, moves.listed())
    steps = np.stack(np.divmod(targets, size[1]), axis=-1) - here[:, None, None, :]
    if plan.periodic:
        # Round the torus the short way.
        steps = (steps + size // 2) % size - size // 2
    return np.einsum("sa,sak,sakx->sx", acting, chances, steps).reshape(*plan.shape, 2)


def where(state: np.ndarray, plan: Plan | None) -> dict[str, np.ndarray]:
    """Return the columns that say where a state is: rows and columns are counted from 0, as states are."""
    if plan is None:
        return {"state": state}
    row, column = np.divmod(state, plan.shape[1])
    return {"state": state, "row": row, "column": column}


def action_names(game: Any, density: np.ndarray) -> list[str]:
    """Return the actions' names: where they lead on a grid on average if each leads another way; else numbers."""
    if isinstance(game, AbstractGridGame):
        return [WAYS[step] for step in STEPS]
    numbers = [str(action) for action in range(game.actions)]
    moves = moves_at(game, 0, density)
    if not isinstance(moves, Stencil):
        return numbers
    chances = np.asarray(moves.chances)
    mean = (chances if chances.ndim == 2 else chances.mean(axis=0)) @ np.array(moves.displacements)
    ways = np.rint(mean / (np.abs(mean).max() or 1.0)).astype(int)
    names = [WAYS[row, column] for row, column in ways.tolist()]
    return names if len(set(names)) == len(names) else numbers
