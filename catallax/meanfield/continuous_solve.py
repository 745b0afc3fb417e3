"""The answer in continuous time and space: a value and a density that fit each other, with certificates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from ..certificate import Certificate
from ..core.result import Status
from ..core.run import Progress
from ..core.settle import Settled, settle
from .continuous import ContinuousGame, validate
from .continuous_certify import certify_continuous, drift_of, speeds_of
from .continuous_rules import ConjugateResidual, Course, Crowd, Player, begin, flow, on_course, values

DEPTH = 20
"""How many past directions the law of motion remembers."""


@dataclasses.dataclass(frozen=True, eq=False)
class ContinuousEquilibrium:
    """A continuous game's answer.

    Args:
        game: The question.
        value: What a player of each kind still expects to pay, shape (kinds, steps + 1, *cells).
        density: Each kind's density per length or area, shape (kinds, steps + 1, *cells).
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        rounds: How many rounds it took.
        history: Rounds, and how far the crowd's answer was from the flow in each, relative to the largest density;
            for pictures, not for claims.
    """

    game: ContinuousGame
    value: np.ndarray
    density: np.ndarray
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    history: tuple[np.ndarray, np.ndarray]

    @property
    def crowd(self) -> np.ndarray:
        """The density of all players, shape (steps + 1, *cells)."""
        return self.density.sum(axis=0)

    @property
    def times(self) -> np.ndarray:
        """t_0 … t_T, shape (steps + 1,)."""
        return np.linspace(0.0, float(self.game.horizon), self.game.steps + 1)

    @property
    def velocity(self) -> np.ndarray:
        """Where players of each kind move, drift included and noise not, shape (kinds, steps, d, *cells)."""
        speeds = speeds_of(self.game, self.value)
        return speeds[:, :, 0::2] - speeds[:, :, 1::2] + drift_of(self.game)


class Far(eqx.Module):
    """The measure of rest: how far the crowd's answer is from the flow, over a tolerance."""

    tol: Array

    def __call__(self, before: Any, after: Any) -> Array:
        if isinstance(after, Course):
            return after.error / self.tol
        return jnp.max(jnp.abs(after - before)) / jnp.max(jnp.abs(after)) / self.tol


def rest(
    game: ContinuousGame,
    *,
    tol: ArrayLike = 1e-8,
    max_rounds: int = 200,
    density: Float[Array, "T1 ..."] | None = None,
    linear_solver: lx.AbstractLinearSolver | None = None,
) -> Settled:
    """Let the flow of densities come to rest, as one function for `jax.jit`, `jax.vmap`, `jax.jvp` and `jax.grad`.

    Args:
        game: The question; numbers in it may be traced.
        tol: How far the crowd's answer may be from the flow, relative to the largest density.
        max_rounds: When to give up.
        density: A first guess of the flow, shape (steps + 1, *cells).
        linear_solver: As for `settle`, for derivatives: dense by default, `lineax.GMRES` for large grids.

    Returns:
        What `settle` returns; the signal is the flow of densities.
    """
    game = _in_numbers(game)
    still = jax.tree.map(lambda leaf: lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, game)
    found = approach(still, tol=tol, max_rounds=max_rounds, density=density)
    # The law that found the flow has no derivative at rest; that of the crowd's plain answer, at rest there too, has.
    state = eqx.tree_at(lambda state: state.signal, begin(game), found.signal.density)
    far = Far(jnp.asarray(tol, jnp.result_type(float)))
    settled = settle(Crowd(game), state, max_rounds=1, distance=far, linear_solver=linear_solver)
    return eqx.tree_at(lambda settled: settled.rounds, settled, found.rounds)


def approach(
    game: ContinuousGame,
    *,
    tol: ArrayLike,
    max_rounds: int,
    density: ArrayLike | None = None,
    watch: Callable[[Progress], Any] | None = None,
    mesh: Mesh | None = None,
) -> Settled:
    """Run the law of motion until the crowd's answer is within `tol` of the flow; as for `rest`, less derivatives."""
    game = _in_numbers(game)
    state = begin(game)
    if density is not None:
        state = eqx.tree_at(lambda state: state.signal, state, jnp.asarray(density, state.signal.dtype))
    return settle(
        ConjugateResidual(game),
        on_course(state, min(DEPTH, max_rounds)),
        max_rounds=max_rounds,
        distance=Far(jnp.asarray(tol, jnp.result_type(float))),
        record=lambda state: state.signal.error,
        watch=watch,
        mesh=mesh,
    )


def _in_numbers(game: ContinuousGame) -> ContinuousGame:
    """Return the game with arrays for numbers: one that differs in them alone is not compiled again."""
    dtype = jnp.result_type(float)

    def number(leaf: Any) -> bool:
        arrays = isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        return arrays or isinstance(leaf, float)

    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if number(leaf) else leaf, game)


def solve_continuous(
    game: ContinuousGame,
    *,
    tol: float = 1e-6,
    max_rounds: int = 300,
    density: np.ndarray | None = None,
    watch: Callable[[Progress], Any] | None = None,
    mesh: Mesh | None = None,
) -> ContinuousEquilibrium:
    """Find an equilibrium of a continuous game, in float64, and check it.

    Args:
        game: The question.
        tol: The tolerance of the certificates.
        max_rounds: When to give up.
        density: A first guess of the flow of densities, shape (steps + 1, *cells).
        watch, mesh: As for `catallax.run`; a mesh spreads the kinds of players.

    Returns:
        The answer; its `status` says whether it can be relied on.

    Raises:
        InputError: if a number of the game is out of range.
    """
    validate(game)
    with jax.enable_x64(True):
        settled = approach(game, tol=tol / 100, max_rounds=max_rounds, density=density, watch=watch, mesh=mesh)
        value, density = _answers(_in_numbers(game), settled)
    certificates = tuple(certify_continuous(game, value, density, tol=tol))
    status = settled.status
    if status is Status.SETTLED and not all(one.holds for one in certificates):
        status = Status.OUT_OF_ROUNDS
    history = np.asarray(settled.recorded), np.asarray(settled.record)
    return ContinuousEquilibrium(game, value, density, status, certificates, settled.rounds, history)


@eqx.filter_jit
def _answer(game: ContinuousGame, player: Player, density: Array) -> tuple[Array, Array]:
    value = values(game, player, density)
    return value, flow(game, player, value)


def _answers(game: ContinuousGame, settled: Settled) -> tuple[np.ndarray, np.ndarray]:
    """Return each kind's value and density at the flow reached, as float64 NumPy."""
    players = settled.state.agents
    each = [jax.tree.map(lambda leaf: leaf[kind], players) for kind in range(game.kinds)]  # noqa: B023
    found = [_answer(game, player, settled.signal.density) for player in each]
    value, density = (np.stack([np.asarray(part, np.float64) for part in parts]) for parts in zip(*found, strict=True))
    return value, density
