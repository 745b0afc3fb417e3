"""The answer: an equilibrium of a mean-field game, by the law of motion that suits it, with its certificates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ..certificate import Certificate
from ..core.run import Progress, run
from ..core.settle import Settled, settle
from ..core.system import AbstractSystem, State
from .certify import Account, account, certificates
from .coarse import COARSE_ROUNDS, COARSE_TOL, coarsened, flows_of, logits_of, refined
from .lean import Frugal, LeanDescent
from .light import LightDescent, light_state, suits
from .passes import earned, times
from .problem import AbstractGame, cast, check_flow, kind_of, validate
from .refine import Equilibrium, refine
from .rules import (
    Averager,
    Crowd,
    DampedFixedPoint,
    FictitiousPlay,
    Follower,
    MirrorDescent,
    PacedDescent,
    Pacer,
    Taker,
    even_flow,
    public,
    softmax,
)

LAWS = ("fast", "lean", "light", "mirror-descent", "fictitious-play", "damped")
"""The laws of motion by name; "fast" is the default, "lean" is the same in less memory, and "light" takes still less
and fewer rounds, for games that it suits (`light.suits`)."""

KEEP_LOGITS = ("fast", "lean", "light", "mirror-descent")
"""The laws that can begin with a given policy."""

DOUBLE_UP_TO = 4_000_000
"""Games of up to so many times × states × actions are solved in double precision unless said otherwise."""

LEAN_FROM = 50_000_000
"""Above so many kinds × times × states × actions "fast" is the light law, or where that does not suit the lean one."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MeanFieldEquilibrium(Equilibrium):
    """A mean-field game's answer: an `Equilibrium`, whose policy has shape (kinds, T, S, A) for times t = 0 … T−1.

    Args:
        game: The question.
        flow: The crowd's densities that the policy leads to, shape (T + 1, S).

    Values and the exploitability are against the flow; the reward range is that of the rewards along it times Σ γ^t.
    """

    game: AbstractGame
    flow: np.ndarray


class Within(eqx.Module):
    """The measure of rest: the exploitability per reward range, in units of the tolerance."""

    tol: Array

    def __call__(self, before: Any, after: Any) -> Array:
        if isinstance(after, Crowd):
            return after.error / self.tol
        return jnp.max(jnp.sum(jnp.abs(after - before), axis=-1)) / self.tol


def first_state(
    game: AbstractGame,
    law: str = "fast",
    *,
    tol: Any = 0.0,
    rate: Any = None,
    every: int = 10,
    damping: Any = 0.5,
    temperature: Any = None,
    start: Any = None,
    coarser: int = 0,
) -> tuple[AbstractSystem, State]:
    """Return a law of motion and the state it begins in: everyone acts evenly at random, unless said otherwise.

    Args:
        game: The question.
        law: As for `solve`.
        tol: Kinds that could gain no more than this per reward range stay as they are.
        rate: Of mirror descent, per unit of reward; by default 1 per largest difference of rewards at the start.
        every: After how many rounds mirror descent measures exploitability.
        damping: Of the damped fixed point.
        temperature: Of the damped fixed point; None for best responses.
        start: A policy (kinds, T, S, A) to begin with, for a law that keeps logits.
        coarser: Begin with the policy that rests on coarser maps, so many times halved; for a game that has them (see
            `coarse`) and a law that keeps logits, outside of transformations. The rate is then the one met there.

    Raises:
        ValueError: if there is no such law, or it cannot begin so.
    """
    if law not in LAWS:
        raise ValueError(f"{law!r} is no law of motion of a mean-field game: {', '.join(LAWS)}")
    dtype = game.start().dtype
    shares = jnp.asarray(game.shares, dtype)
    kinds = shares.size
    tol = jnp.asarray(tol, dtype)
    if law not in KEEP_LOGITS and (start is not None or coarser):
        raise ValueError(f"{law!r} keeps no logits, so that it begins with no policy; {', '.join(KEEP_LOGITS)} do")
    logits = None if start is None else logits_of(game, start, dtype)
    if coarser:
        logits, met = _from_coarser(game, law, tol, coarser)
        rate = met if rate is None else rate
    if law == "light":
        return light_state(game, tol, _first_rate(game, even_flow(game)) if rate is None else rate, logits)
    if logits is None:
        density = even_flow(game)
        passed = jnp.broadcast_to(density, (kinds, *density.shape))
    else:
        passed = flows_of(game, logits)
        density = jnp.tensordot(shares, passed, 1)
    signal = Crowd(density, jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    if law == "damped":
        warm = None if temperature is None else jnp.asarray(temperature, dtype)
        system = DampedFixedPoint(public(game), jnp.asarray(damping, dtype), warm)
        return system, State(Taker(shares, game.kinds), density)
    shape = kinds, game.horizon, game.actions, game.states
    if law == "fictitious-play":
        averagers = Averager(shares, game.kinds, jnp.zeros(shape, dtype), jnp.zeros((kinds, game.states), dtype))
        return FictitiousPlay(public(game), tol), State(averagers, signal)
    speed = _first_rate(game, density) if rate is None else jnp.asarray(rate, dtype)
    none, speeds = jnp.zeros(kinds, dtype), jnp.broadcast_to(speed, (kinds,))
    logits = jnp.zeros(shape, dtype) if logits is None else logits
    if law == "lean":
        frugal = Frugal(shares, game.kinds, logits, passed, passed, passed, passed, none, speeds)
        return LeanDescent(public(game), tol), State(frugal, signal)
    policy = softmax(logits)
    if law == "mirror-descent":
        followers = Follower(shares, game.kinds, logits, policy)
        return MirrorDescent(public(game), jnp.max(speed), tol, every), State(followers, signal)
    pacers = Pacer(shares, game.kinds, logits, policy, passed, jnp.zeros_like(logits), none, speeds)
    return PacedDescent(public(game), tol, every), State(pacers, signal)


def _from_coarser(game: AbstractGame, law: str, tol: Array, levels: int) -> tuple[Array, Array]:
    """Return the logits that rest on coarser maps, read on this one, and each kind's middle rate of the last rounds."""
    less = coarsened(game)
    near = jnp.maximum(tol, jnp.asarray(COARSE_TOL, tol.dtype))
    paced = "fast" if law == "mirror-descent" else law
    options = {"every": 1} if paced == "fast" else {}
    system, state = first_state(less, paced, tol=near, coarser=levels - 1, **options)
    settled = settle(
        system, state, max_rounds=COARSE_ROUNDS, distance=Within(near), record=lambda state: state.agents.rate
    )
    if settled.record is None:
        raise ValueError("coarser maps are solved from the host, not inside a transformation; give `start` there")
    return refined(game, _logits(system, settled.state)), jnp.median(settled.record[-8:], axis=0)


def _first_rate(game: AbstractGame, density: Array) -> Array:
    """Return one per the largest difference of two rewards in the first flow."""

    def widen(reaches: Array, step: Any) -> tuple[Array, None]:
        rewards = jnp.stack(
            [earned(game, step[0], step[1], kind_of(game, kind)) for kind in range(game.shares.shape[0])]
        )
        least, most = jnp.min(rewards, axis=(1, 2)), jnp.max(rewards, axis=(1, 2))
        return jnp.stack([jnp.minimum(reaches[0], least), jnp.maximum(reaches[1], most)]), None

    unknown = jnp.full((2, game.shares.shape[0]), jnp.inf, density.dtype) * jnp.asarray([[1], [-1]], density.dtype)
    (least, most), _ = lax.scan(widen, unknown, (times(game), density[:-1]))
    widest = jnp.max(most - least)
    return 1 / jnp.where(widest > 0, widest, 1.0)


def policies(system: AbstractSystem, state: State) -> Float[Array, "n T S A"]:
    """Return the policies that a state of a law of motion stands for, as (kinds, T, S, A)."""
    agents = state.agents
    if isinstance(system, DampedFixedPoint):
        policy = jax.vmap(lambda agent: system.answer(state.signal, agent.kind))(agents)
    elif isinstance(system, LeanDescent | LightDescent):
        policy = softmax(_logits(system, state))
    else:
        policy = agents.policy
    return jnp.moveaxis(policy, 2, 3)


def _logits(system: AbstractSystem, state: State) -> Float[Array, "n T A S"]:
    """Return the logits of a law that keeps them, or of the light law."""
    if not isinstance(system, LightDescent):
        return state.agents.logits
    return jax.vmap(lambda agent: lax.map(lambda time: system.logits(agent, time), times(system.game)))(state.agents)


def iterate(
    game: AbstractGame, rounds: int, law: str = "fast", **options: Any
) -> tuple[Float[Array, "n T S A"], Float[Array, "T1 S"], Float[Array, " rounds"]]:
    """Run a law of motion for a number of rounds: a pure function of the game, for `jit`, `vmap` and derivatives.

    Args:
        game: The game; under `vmap`, with leading axes on its arrays.
        rounds: How many rounds.
        law: As for `solve`.
        options: As for `first_state`.

    Returns:
        The policies (kinds, T, S, A), the flow that the law holds, (T + 1, S), and after each round the
        exploitability per reward range as the law last measured it (the damped fixed point does not: zeros).
    """
    system, state = first_state(game, law, **options)
    ended = run(system, state, rounds, record=_measure)
    density = ended.state.signal.density if isinstance(ended.state.signal, Crowd) else ended.state.signal
    return policies(system, ended.state), density, ended.record


def solve(
    game: AbstractGame,
    *,
    tol: float = 1e-6,
    law: str | None = None,
    max_rounds: int | None = None,
    double: bool | None = None,
    mesh: Mesh | None = None,
    watch: Callable[[Progress], Any] | None = None,
    **options: Any,
) -> MeanFieldEquilibrium:
    """Find an equilibrium of a mean-field game.

    Args:
        game: The question.
        tol: The exploitability per reward range to reach.
        law: "fast" (default), or a textbook law: "mirror-descent", "fictitious-play", "damped".
        max_rounds: When to give up; by default 20,000.
        double: Whether to compute in double precision; by default, if the game is not large (`DOUBLE_UP_TO`).
        mesh: Devices to spread the kinds over.
        watch: Called between chunks with a `Progress`.
        options: As for `first_state`.

    Returns:
        The answer with its certificates; its status is `SETTLED` only if all of them hold.

    Raises:
        InputError: if the game is none, at first (see `validate`) or in the flow to which the law comes.
        ValueError: if there is no such law.
    """
    law = "fast" if law is None else law
    validate(game)
    if double is None:
        double = game.horizon * game.states * game.actions <= DOUBLE_UP_TO
    if law == "fast" and game.shares.size * game.horizon * game.states * game.actions > LEAN_FROM:
        law = "light" if suits(game) else "lean"
    with jax.enable_x64(double):
        game_now = cast(game, jnp.float64 if double else jnp.float32)
        system, *first = first_state(game_now, law, tol=tol, **options)

        def rest(goal: float, state: State, left: int) -> Settled:
            nearer = system
            if isinstance(system, MirrorDescent | PacedDescent | LeanDescent | LightDescent | FictitiousPlay):
                nearer = dataclasses.replace(system, tol=jnp.asarray(goal, system.tol.dtype))
            within = Within(jnp.asarray(goal))
            return settle(nearer, state, max_rounds=left, distance=within, record=_measure, mesh=mesh, watch=watch)

        def judge(state: State) -> tuple[Account, list[Certificate], dict[str, np.ndarray]]:
            policy = _policy(system, state)
            # Single precision's rows sum to one only to 1e-7, which a long horizon would add up. In place: it may be
            # gigabytes.
            policy /= policy.sum(axis=-1, keepdims=True)
            found = account(game, policy)
            if not np.isfinite(found.relative):
                # A reward may be a number in the first flow and none in this one.
                check_flow(game, found.flow)
            return found, certificates(found, policy, tol), {"policy": policy, "flow": found.flow}

        # Held here too, the first state would stay in memory beside the last one.
        fields = refine(rest, judge, first.pop(), tol, max_rounds or 20_000)
    return MeanFieldEquilibrium(game=game, law=type(system).__name__, **fields)


def _policy(system: AbstractSystem, state: State) -> np.ndarray:
    """Return `policies` as float64; of laws for large games time by time, since the whole of it may be gigabytes."""
    if not isinstance(system, LeanDescent | LightDescent):
        return np.array(policies(system, state), np.float64)
    game, agents = system.game, state.agents
    policy = np.empty((agents.share.size, game.horizon, game.states, game.actions))
    for kind in range(agents.share.size):
        agent = jax.tree.map(lambda leaf: leaf[kind], agents)  # noqa: B023
        for time in range(game.horizon):
            row = np.asarray(system.logits(agent, jnp.int32(time)), np.float64).T
            policy[kind, time] = np.exp(row - row.max(axis=1, keepdims=True))
    return policy


def _measure(state: State) -> Array:
    signal = state.signal
    return signal.error if isinstance(signal, Crowd) else jnp.zeros((), signal.dtype)
