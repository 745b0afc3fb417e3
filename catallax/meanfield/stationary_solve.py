"""The answer to a stationary game: a policy, the density at which it rests, and their certificates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..certificate import Certificate
from ..core.run import Progress, run
from ..core.settle import Settled, settle
from ..core.system import State
from .problem import cast
from .refine import Equilibrium, refine
from .rules import public
from .solve import DOUBLE_UP_TO
from .stationary import AbstractStationaryGame, check_rest, validate_stationary
from .stationary_certify import StationaryAccount, account_stationary, stationary_certificates
from .stationary_rules import AbstractStationaryLaw, Settler, Standing, StationaryDamped, StationaryDescent

STATIONARY_LAWS = ("fast", "mirror-descent", "damped")
"""The laws of motion of stationary games by name; "fast" is the default."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StationaryEquilibrium(Equilibrium):
    """A stationary game's answer: an `Equilibrium`, whose policy has shape (kinds, S, A).

    Args:
        game: The question.
        mass: Each kind's density at rest, shape (kinds, S).
        density: The crowd's density, shape (S,).

    Values are averaged over each kind's density; the reward range is that of the rewards at the crowd's density
    divided by 1 − γ.
    """

    game: AbstractStationaryGame
    mass: np.ndarray
    density: np.ndarray


class AtRest(eqx.Module):
    """The measure of rest: the larger of exploitability per reward range and drift, in units of the tolerance."""

    tol: Array

    def __call__(self, before: Any, after: Standing) -> Array:
        return jnp.maximum(after.error, after.drift) / self.tol


def first_standing(
    game: AbstractStationaryGame,
    law: str = "fast",
    *,
    tol: Any = 0.0,
    rate: Any = None,
    sweeps: int = 200,
    damping: Any = 0.5,
    temperature: Any = 0.1,
) -> tuple[AbstractStationaryLaw, State]:
    """Return a law of motion and the state it begins in: everyone acts evenly at random where the game starts.

    Args:
        game: The question.
        law: As for `solve_stationary`.
        tol: To what part of the reward range, and of the mass, a round's sweeps are exact.
        rate: Of mirror descent, per unit of reward; by default 1 per largest difference of rewards at the start.
        sweeps: How many sweeps a round takes at most.
        damping, temperature: Of the damped fixed point; see `StationaryDamped`.
    """
    start = game.start()
    dtype = start.dtype
    shares = jnp.asarray(game.shares, dtype)
    kinds = shares.size
    none, empty = jnp.zeros(kinds, dtype), jnp.zeros((kinds, game.actions, game.states), dtype)
    if rate is None:
        rewards = jax.vmap(lambda kind: game.reward(start, kind), axis_size=kinds)(game.kinds)
        widest = jnp.max(jnp.max(rewards, axis=(1, 2)) - jnp.min(rewards, axis=(1, 2)))
        rate = 1 / jnp.where(widest > 0, widest, 1.0)
    agents = Settler(
        share=shares,
        kind=game.kinds,
        logits=empty,
        policy=jnp.full_like(empty, 1 / game.actions),
        mass=jnp.broadcast_to(start, (kinds, game.states)),
        values=jnp.zeros((kinds, 2, game.states), dtype),
        step=empty,
        gain=none,
        rate=jnp.full(kinds, rate, dtype),
    )
    far = jnp.asarray(jnp.inf, dtype)
    asked: Any = game
    common: Any = {"game": public(asked), "tol": jnp.asarray(tol, dtype), "sweeps": sweeps}
    if law in ("fast", "mirror-descent"):
        system = StationaryDescent(**common, growth=1.2 if law == "fast" else None)
    elif law == "damped":
        damping, temperature = jnp.asarray(damping, dtype), jnp.asarray(temperature, dtype)
        system = StationaryDamped(**common, damping=damping, temperature=temperature)
    else:
        raise ValueError(f"{law!r} is no law of motion of a stationary game: {', '.join(STATIONARY_LAWS)}")
    return system, State(agents, Standing(start, far, far))


def iterate_stationary(
    game: AbstractStationaryGame, rounds: int, law: str = "fast", **options: Any
) -> tuple[Float[Array, "n S A"], Float[Array, "n S"], Float[Array, " rounds"]]:
    """Run a law of motion for a number of rounds: a pure function of the game, for `jit` and `vmap`.

    Args:
        game: The game; under `vmap`, with leading axes on its arrays.
        rounds: How many rounds.
        law: As for `solve_stationary`.
        options: As for `first_standing`.

    Returns:
        The policies (kinds, S, A), the kinds' densities (kinds, S), and after each round the exploitability per
        reward range of the policy and density before it.
    """
    system, state = first_standing(game, law, **options)
    ended = run(system, state, rounds, record=_error)
    agents = ended.state.agents
    return jnp.moveaxis(agents.policy, 1, 2), agents.mass, ended.record


def _error(state: State) -> Array:
    return state.signal.error


def solve_stationary(
    game: AbstractStationaryGame,
    *,
    tol: float = 1e-6,
    law: str = "fast",
    max_rounds: int | None = None,
    double: bool | None = None,
    mesh: Mesh | None = None,
    watch: Callable[[Progress], Any] | None = None,
    **options: Any,
) -> StationaryEquilibrium:
    """Find an equilibrium of a stationary game.

    Args:
        game: The question.
        tol: The exploitability per reward range to reach, and the distance of the density from rest.
        law: "fast" (default), "mirror-descent" or "damped".
        max_rounds: When to give up; by default 20,000.
        double: Whether to compute in double precision; by default, if the game is not large (`DOUBLE_UP_TO`).
        mesh: Devices to spread the kinds over.
        watch: Called between chunks with a `Progress`.
        options: As for `first_standing`.

    Returns:
        The answer with its certificates; its status is `SETTLED` only if all of them hold.

    Raises:
        InputError: if the game is none, at first (see `validate_stationary`) or at the density to which the law comes.
        ValueError: if there is no such law.
    """
    validate_stationary(game)
    if double is None:
        double = game.states * game.actions <= DOUBLE_UP_TO
    with jax.enable_x64(double):
        system, state = first_standing(cast(game, jnp.float64 if double else jnp.float32), law, tol=tol, **options)

        def rest(goal: float, state: State, left: int) -> Settled:
            nearer = dataclasses.replace(system, tol=jnp.asarray(goal, system.tol.dtype))
            near = AtRest(jnp.asarray(goal))
            return settle(nearer, state, max_rounds=left, distance=near, record=_error, mesh=mesh, watch=watch)

        def judge(state: State) -> tuple[StationaryAccount, list[Certificate], dict[str, np.ndarray]]:
            agents = state.agents
            policy, mass = (np.array(x, np.float64) for x in (jnp.moveaxis(agents.policy, 1, 2), agents.mass))
            policy /= policy.sum(axis=-1, keepdims=True)
            mass /= mass.sum(axis=-1, keepdims=True)
            # A reward may be a number at the first density and none at this one.
            check_rest(game, np.asarray(game.shares, np.float64) @ mass)
            found = account_stationary(game, policy, mass)
            checks = stationary_certificates(found, policy, mass, tol)
            return found, checks, {"policy": policy, "mass": mass, "density": found.density}

        refined = refine(rest, judge, state, tol, max_rounds or 20_000)
    return StationaryEquilibrium(game=game, law=type(system).__name__, **refined)
