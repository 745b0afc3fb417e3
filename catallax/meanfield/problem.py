"""The question: a game among so many players that each answers the crowd's density and none can move it.

A user's game is a few lines: how many states, actions and time steps; where a move leads; what it earns, given the
density at that time; where the crowd starts. Times are t = 0 … T−1; the density has T+1 entries; a reward may also be
given for the last density (`final`). Arrays are in JAX; `table` gives any moment of the game as float64 NumPy, by
which certificates are computed.
"""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import InputError

if TYPE_CHECKING:
    from .bands import Bands

UNROLLED = 16
"""Sums over so few terms are written out: as a chain of additions XLA fuses them, as a reduction it does not."""


def added(x: Float[Array, "..."], axis: int) -> Array:
    """Sum over a short axis, such as that of actions."""
    if x.shape[axis] > UNROLLED:
        return jnp.sum(x, axis=axis)
    total = jax.lax.index_in_dim(x, 0, axis, keepdims=False)
    for place in range(1, x.shape[axis]):
        total = total + jax.lax.index_in_dim(x, place, axis, keepdims=False)
    return total


def greatest(x: Float[Array, "..."], axis: int) -> Array:
    """Take the maximum over a short axis."""
    if x.shape[axis] > UNROLLED:
        return jnp.max(x, axis=axis)
    top = jax.lax.index_in_dim(x, 0, axis, keepdims=False)
    for place in range(1, x.shape[axis]):
        top = jnp.maximum(top, jax.lax.index_in_dim(x, place, axis, keepdims=False))
    return top


class AbstractMoves(eqx.Module):
    """Where a player may go from each of S states under each of A actions."""

    @abc.abstractmethod
    def expect(self, value: Float[Array, " S"]) -> Float[Array, "S A"]:
        """Return E[value(next state)] for each state and action."""

    @abc.abstractmethod
    def carry(self, mass: Float[Array, "S A"]) -> Float[Array, " S"]:
        """Return the mass that arrives in each state; the transpose of `expect`."""

    @abc.abstractmethod
    def listed(self) -> tuple[Int[Array, "S A K"], Float[Array, "S A K"]]:
        """List the successors of each state and action, and their probabilities."""

    def ahead(self, value: Float[Array, " S"]) -> Float[Array, "A S"]:
        """Return what `expect` does with actions first, the order in which passes through time go fast."""
        return self.expect(value).T

    def under(self, policy: Float[Array, "S A"]) -> "AbstractChain":
        """Return how a player moves who acts by a policy; a faster form where the moves have one."""
        return Chain(self, policy)

    def bands(self) -> "Bands | None":
        """Return the moves as bands, for the passes that are compiled for the CPU; None where they are not."""
        return None


class AbstractChain(eqx.Module):
    """Where a player goes from each of S states once its policy is fixed."""

    @abc.abstractmethod
    def expect(self, value: Float[Array, " S"]) -> Float[Array, " S"]:
        """Return E[value(next state)] for each state."""

    @abc.abstractmethod
    def carry(self, mass: Float[Array, " S"]) -> Float[Array, " S"]:
        """Return the mass that arrives in each state; the transpose of `expect`."""


class Chain(AbstractChain):
    """Any moves, weighted by a policy."""

    moves: AbstractMoves
    policy: Float[Array, "S A"]

    def expect(self, value):
        return added(self.policy * self.moves.expect(value), 1)

    def carry(self, mass):
        return self.moves.carry(mass[:, None] * self.policy)


class Listed(AbstractMoves):
    """Successors listed one by one.

    Args:
        targets: The states that may follow.
        chances: Their probabilities; each row sums to one. A filler has probability 0.
    """

    targets: Int[Array, "S A K"]
    chances: Float[Array, "S A K"]

    def expect(self, value):
        return jnp.sum(self.chances * value[self.targets], axis=-1)

    def carry(self, mass):
        moved = (mass[:, :, None] * self.chances).reshape(-1)
        return jnp.zeros(mass.shape[0], mass.dtype).at[self.targets.reshape(-1)].add(moved)

    def listed(self):
        return self.targets, self.chances


class AbstractGame(eqx.Module):
    """A game with finitely many states, actions and time steps.

    Types of players ("kinds") differ in what `reward` makes of them; all see the density of the whole crowd.
    """

    states: eqx.AbstractVar[int]
    """S, the number of states."""
    actions: eqx.AbstractVar[int]
    """A, the number of actions."""
    horizon: eqx.AbstractVar[int]
    """T, the number of decisions."""

    @abc.abstractmethod
    def start(self) -> Float[Array, " S"]:
        """Return the density at time 0, which sums to one."""

    @abc.abstractmethod
    def moves(self, time: Int[Array, ""], density: Float[Array, " S"]) -> AbstractMoves:
        """Return where each action leads at a time, given the density then."""

    @abc.abstractmethod
    def reward(self, time: Int[Array, ""], density: Float[Array, " S"], kind: Any) -> Float[Array, "S A"]:
        """Return what each action earns in each state at a time, given the density then and the player's kind."""

    def final(self, density: Float[Array, " S"], kind: Any) -> Float[Array, " S"] | Float[Array, ""]:
        """Return what it earns to end in each state, or in any; nothing unless a game says otherwise."""
        del kind
        return jnp.zeros((), density.dtype)

    @property
    def discount(self) -> float:
        """What a reward is worth one step later; 1 unless a game says otherwise."""
        return 1.0

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


def kind_of(game: AbstractGame, number: int) -> PyTree | None:
    """Return one kind of players; None if all are alike."""
    return jax.tree.map(lambda leaf: leaf[number], game.kinds)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Return a game, or any pytree, with its real arrays in one precision; a game may be written in either."""

    def one(leaf: Any) -> Any:
        real = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if real else leaf

    return jax.tree.map(one, tree)


@eqx.filter_jit
def _moment(game: AbstractGame, time: Array, density: Array, number: Array) -> tuple[Array, Array, Array]:
    reward = game.reward(time, density, jax.tree.map(lambda leaf: leaf[number], game.kinds))
    return reward, *game.moves(time, density).listed()


@eqx.filter_jit
def _end(game: AbstractGame, density: Array, number: Array) -> Array:
    return game.final(density, jax.tree.map(lambda leaf: leaf[number], game.kinds))


def table(
    game: AbstractGame, time: int, density: np.ndarray, kind: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one moment of a game as float64 NumPy: what certificates are computed from.

    Args:
        game: The game.
        time: t in 0 … T−1.
        density: The crowd's density at that time, shape (S,).
        kind: The number of a kind.

    Returns:
        The reward, shape (S, A); the states that may follow and their probabilities, both of shape (S, A, K).
    """
    with jax.enable_x64(True):
        game, now = cast(game, jnp.float64), jnp.asarray(density, jnp.float64)
        reward, targets, chances = map(np.asarray, _moment(game, jnp.int32(time), now, jnp.int32(kind)))
        shape = game.states, game.actions
        reward = np.broadcast_to(reward, shape).astype(np.float64)
        targets = np.broadcast_to(targets, (*shape, targets.shape[-1]))
        return reward, targets, np.broadcast_to(chances, targets.shape).astype(np.float64)


def end_table(game: AbstractGame, density: np.ndarray, kind: int = 0) -> np.ndarray:
    """Return what it earns a kind to end in each state, given the last density, as float64 NumPy, shape (S,)."""
    with jax.enable_x64(True):
        earned = np.asarray(
            _end(cast(game, jnp.float64), jnp.asarray(density, jnp.float64), jnp.int32(kind)), np.float64
        )
        return np.broadcast_to(earned, (game.states,))


def crowd_table(game: AbstractGame) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the first density, each kind's share of the crowd, and the discount, as float64 NumPy."""
    with jax.enable_x64(True):
        game = cast(game, jnp.float64)
        start, shares = np.asarray(game.start(), np.float64), np.asarray(game.shares, np.float64)
        return start, shares, float(game.discount)


SUM_TOLERANCE = 1e-5
"""Probabilities may miss one by this much: games may be written in single precision."""


def validate(game: AbstractGame, times: tuple[int, ...] | None = None) -> None:
    """Check that a game is one: at its first density and at the uniform one, at some times, for every kind.

    Args:
        game: The game.
        times: Which times; the first, the middle and the last by default.

    Raises:
        InputError: if a density or probability is negative or does not sum to one, a target is no state, or a
            reward is NaN or infinite; it names the time, the state and the action.
    """
    if min(game.states, game.actions, game.horizon) < 1:
        sizes = f"{game.states} states, {game.actions} actions and {game.horizon} decisions"
        raise InputError(f"a game needs at least one state, action and decision; got {sizes}")
    start, shares, discount = crowd_table(game)
    if start.shape != (game.states,):
        raise InputError(
            f"the first density has shape {start.shape}; it should be one number for each of {game.states}"
        )
    _check_density("the first density", "state", start)
    _check_density("the shares of the kinds", "kind", shares)
    if not 0 < discount <= 1:
        raise InputError(f"the discount is {discount}; it should lie in (0, 1]")
    last = game.horizon - 1
    times = tuple(sorted({0, last // 2, last})) if times is None else times
    for density in (start, np.full(game.states, 1 / game.states)):
        for kind in range(shares.size):
            for time in times:
                _check_moment(game, time, density, kind, shares.size)
            _check_end(game, density, kind, shares.size)


def check_flow(game: AbstractGame, flow: np.ndarray) -> None:
    """Check what a game is along a flow of densities, shape (T + 1, S): at all times, for every kind.

    Raises:
        InputError: as for `validate`.
    """
    kinds = crowd_table(game)[1].size
    for kind in range(kinds):
        for time in range(game.horizon):
            _check_moment(game, time, flow[time], kind, kinds)
        _check_end(game, flow[-1], kind, kinds)


def _check_end(game: AbstractGame, density: np.ndarray, kind: int, kinds: int) -> None:
    bad = np.argwhere(~np.isfinite(end_table(game, density, kind)))
    if bad.size:
        raise InputError(f"the final reward of state {bad[0][0]}{_of_kind(kind, kinds)} is not finite")


def _of_kind(kind: int, kinds: int) -> str:
    return f" for kind {kind}" if kinds > 1 else ""


def _check_density(what: str, unit: str, density: np.ndarray) -> None:
    bad = np.argwhere(~(density >= 0) | ~np.isfinite(density))
    if bad.size:
        raise InputError(
            f"{what} is {density[tuple(bad[0])]} at {unit} {bad[0][0]}; mass is a number that is not negative"
        )
    if abs(density.sum() - 1) > SUM_TOLERANCE:
        raise InputError(f"{what} sums to {density.sum():.6g}, not to one; divide by the sum")


def _check_moment(game: AbstractGame, time: int, density: np.ndarray, kind: int, kinds: int) -> None:
    reward, targets, chances = table(game, time, density, kind)

    def complain(bad: np.ndarray, what: str) -> None:
        if bad.size:
            state, action = bad[0][:2]
            raise InputError(f"time {time}, state {state}, action {action}{_of_kind(kind, kinds)}: {what}")

    bad = np.argwhere(~np.isfinite(reward))
    complain(bad, f"the reward is {reward[tuple(bad[0])]}, not a finite number" if bad.size else "")
    bad = np.argwhere((targets < 0) | (targets >= game.states))
    complain(bad, f"moves to {targets[tuple(bad[0])]}, and states are 0 to {game.states - 1}" if bad.size else "")
    bad = np.argwhere(~(chances >= 0))
    complain(bad, f"a move has probability {chances[tuple(bad[0])]}; none may be negative" if bad.size else "")
    sums = chances.sum(axis=-1)
    bad = np.argwhere(np.abs(sums - 1) > SUM_TOLERANCE)
    complain(bad, f"the probabilities of its moves sum to {sums[tuple(bad[0])]:.6g}, not to one" if bad.size else "")
