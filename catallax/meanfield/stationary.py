"""The question without an end: a crowd at rest, in which each player's discounted life is its own best.

A stationary game has no horizon. Everyone acts by a policy that depends on its state alone; the density of the crowd
is one that this policy leaves as it is. In equilibrium nobody, taken from the crowd at rest, gains by another policy
while the density stays. Arrays are in JAX; `rest_table` gives the game as float64 NumPy, by which certificates are
computed.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..errors import InputError
from .problem import SUM_TOLERANCE, AbstractMoves, cast

LEAST_RANGE = 1e-3
"""The reward range is at least so much of the largest reward: in equilibrium rewards may be the same everywhere."""


class AbstractStationaryGame(eqx.Module):
    """A game with finitely many states and actions, without end, in which later rewards count less.

    Types of players ("kinds") differ in what `reward` makes of them; all see the density of the whole crowd.
    """

    states: eqx.AbstractVar[int]
    """S, the number of states."""
    actions: eqx.AbstractVar[int]
    """A, the number of actions."""
    discount: eqx.AbstractVar[Any]
    """γ in (0, 1): what a reward is worth one step later."""

    @abc.abstractmethod
    def moves(self, density: Float[Array, " S"]) -> AbstractMoves:
        """Return where each action leads, given the density."""

    @abc.abstractmethod
    def reward(self, density: Float[Array, " S"], kind: Any) -> Float[Array, "S A"]:
        """Return what each action earns in each state, given the density and the player's kind."""

    def start(self) -> Float[Array, " S"]:
        """Return the density from which rest is sought; even unless a game says otherwise.

        It matters where a policy has more than one density at rest: states that no move leads to empty themselves.
        """
        return jnp.full(self.states, 1 / self.states)

    @property
    def kinds(self) -> PyTree | None:
        """The kinds of players: arrays with a leading axis of length n; None if all are alike."""
        return None

    @property
    def shares(self) -> Float[Array, " n"]:
        """What part of the crowd each kind is; equal parts unless a game says otherwise."""
        if self.kinds is None:
            return jnp.ones(1)
        size = jax.tree.leaves(self.kinds)[0].shape[0]
        return jnp.full(size, 1 / size)


@eqx.filter_jit
def _at(game: AbstractStationaryGame, density: Array, number: Array) -> tuple[Array, Array, Array]:
    reward = game.reward(density, jax.tree.map(lambda leaf: leaf[number], game.kinds))
    return reward, *game.moves(density).listed()


def rest_table(
    game: AbstractStationaryGame, density: np.ndarray, kind: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a stationary game at a density as float64 NumPy: what certificates are computed from.

    Args:
        game: The game.
        density: The crowd's density, shape (S,).
        kind: The number of a kind.

    Returns:
        The reward, shape (S, A); the states that may follow and their probabilities, both of shape (S, A, K).
    """
    with jax.enable_x64(True):
        game, now = cast(game, jnp.float64), jnp.asarray(density, jnp.float64)
        reward, targets, chances = map(np.asarray, _at(game, now, jnp.int32(kind)))
        shape = game.states, game.actions
        reward = np.broadcast_to(reward, shape).astype(np.float64)
        targets = np.broadcast_to(targets, (*shape, targets.shape[-1]))
        return reward, targets, np.broadcast_to(chances, targets.shape).astype(np.float64)


def rest_crowd(game: AbstractStationaryGame) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the first density, each kind's share of the crowd, and the discount, as float64 NumPy."""
    with jax.enable_x64(True):
        game = cast(game, jnp.float64)
        start, shares = np.asarray(game.start(), np.float64), np.asarray(game.shares, np.float64)
        return start, shares, float(game.discount)


def validate_stationary(game: AbstractStationaryGame) -> None:
    """Check that a stationary game is one: at its first density and at the uniform one, for every kind.

    Raises:
        InputError: if a density or probability is negative or does not sum to one, a target is no state, a reward is
            NaN or infinite, or the discount is not in (0, 1); it names the state and the action.
    """
    if min(game.states, game.actions) < 1:
        raise InputError(f"a game needs a state and an action; got {game.states} states, {game.actions} actions")
    start, shares, discount = rest_crowd(game)
    if not 0 < discount < 1:
        raise InputError(f"the discount is {discount}; without an end it has to lie between 0 and 1")
    if start.shape != (game.states,):
        raise InputError(f"the first density has shape {start.shape}, not one number for each of {game.states} states")
    for what, unit, parts in (("the first density", "state", start), ("the share", "kind", shares)):
        bad = np.flatnonzero(~(parts >= 0) | ~np.isfinite(parts))
        if bad.size:
            raise InputError(f"{what} is {parts[bad[0]]} at {unit} {bad[0]}; mass is a number that is not negative")
        if abs(parts.sum() - 1) > SUM_TOLERANCE:
            raise InputError(f"{what} sums to {parts.sum():.6g}, not to one; divide by the sum")
    for density in (start, np.full(game.states, 1 / game.states)):
        check_rest(game, density)


def check_rest(game: AbstractStationaryGame, density: np.ndarray) -> None:
    """Check what a stationary game is at a density, shape (S,), for every kind.

    Raises:
        InputError: as for `validate_stationary`.
    """
    kinds = rest_crowd(game)[1].size
    for kind in range(kinds):
        _check(game, density, kind, f" for kind {kind}" if kinds > 1 else "")


def _check(game: AbstractStationaryGame, density: np.ndarray, kind: int, whose: str) -> None:
    reward, targets, chances = rest_table(game, density, kind)
    sums = chances.sum(axis=-1)
    wrong = (
        (~np.isfinite(reward), reward, "the reward is {}, not a finite number"),
        ((targets < 0) | (targets >= game.states), targets, f"moves to {{}}, and states are 0 to {game.states - 1}"),
        (~(chances >= 0), chances, "a move has probability {}; none may be negative"),
        (np.abs(sums - 1) > SUM_TOLERANCE, sums, "the probabilities of its moves sum to {}, not to one"),
    )
    for where, values, what in wrong:
        bad = np.argwhere(where)
        if bad.size:
            state, action = bad[0][:2]
            said = what.format(f"{values[tuple(bad[0])]:.6g}")
            raise InputError(f"state {state}, action {action}{whose}: {said}")
