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
from ..core.result import Status
from ..core.run import Progress, run
from ..core.settle import Settled, settle
from ..core.system import AbstractSystem, State
from .certify import Account, account, certificates
from .lean import Frugal, LeanDescent
from .passes import earned, times
from .problem import AbstractGame, cast, kind_of, validate
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

LAWS = ("fast", "lean", "mirror-descent", "fictitious-play", "damped")
"""The laws of motion by name; "fast" is the default, and "lean" is the same in less memory."""

DOUBLE_UP_TO = 4_000_000
"""Games of up to so many times × states × actions are solved in double precision unless said otherwise."""

LEAN_FROM = 50_000_000
"""Above so many kinds × times × states × actions "fast" is the lean law: its rounds take longer, in less memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class MeanFieldEquilibrium:
    """A mean-field game's answer.

    Args:
        game: The question.
        policy: Each kind's probabilities of actions, shape (kinds, T, S, A), for decisions t = 0 … T−1.
        flow: The crowd's densities that the policy leads to, shape (T + 1, S).
        value: What each kind's policy is worth against the flow, shape (kinds,), in units of reward.
        exploitability: What players gain on average by a best response to the flow, in units of reward.
        reach: The reward range: that of the rewards along the flow times Σ γ^t, averaged over kinds.
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        rounds: How many rounds it took.
        law: The name of the law of motion.
        bytes_per_round: What one device exchanges in a round.
        history: Rounds, and the law's own exploitability per reward range after each; for pictures, not for claims.
    """

    game: AbstractGame
    policy: np.ndarray
    flow: np.ndarray
    value: np.ndarray
    exploitability: float
    reach: float
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    law: str
    bytes_per_round: int
    history: tuple[np.ndarray, np.ndarray]


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
) -> tuple[AbstractSystem, State]:
    """Return a law of motion and the state it begins in: everyone acts evenly at random.

    Args:
        game: The question.
        law: As for `solve`.
        tol: Kinds that could gain no more than this per reward range stay as they are.
        rate: Of mirror descent, per unit of reward; by default 1 per largest difference of rewards at the start.
        every: After how many rounds mirror descent measures exploitability.
        damping: Of the damped fixed point.
        temperature: Of the damped fixed point; None for best responses.
    """
    if law not in LAWS:
        raise ValueError(f"{law!r} is no law of motion of a mean-field game: {', '.join(LAWS)}")
    dtype = game.start().dtype
    shares = jnp.asarray(game.shares, dtype)
    kinds = shares.size
    density = even_flow(game)
    signal = Crowd(density, jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    tol = jnp.asarray(tol, dtype)
    if law == "damped":
        warm = None if temperature is None else jnp.asarray(temperature, dtype)
        system = DampedFixedPoint(public(game), jnp.asarray(damping, dtype), warm)
        return system, State(Taker(shares, game.kinds), density)
    nothing = jnp.zeros((kinds, game.horizon, game.actions, game.states), dtype)
    if law == "fictitious-play":
        averagers = Averager(shares, game.kinds, nothing, jnp.zeros((kinds, game.states), dtype))
        return FictitiousPlay(public(game), tol), State(averagers, signal)
    speed = _first_rate(game, density) if rate is None else jnp.asarray(rate, dtype)
    passed, none = jnp.broadcast_to(density, (kinds, *density.shape)), jnp.zeros(kinds, dtype)
    speeds = jnp.full(kinds, speed, dtype)
    if law == "lean":
        frugal = Frugal(shares, game.kinds, nothing, passed, passed, passed, passed, none, speeds)
        return LeanDescent(public(game), tol), State(frugal, signal)
    even = jnp.full_like(nothing, 1 / game.actions)
    if law == "mirror-descent":
        return MirrorDescent(public(game), speed, tol, every), State(
            Follower(shares, game.kinds, nothing, even), signal
        )
    pacers = Pacer(shares, game.kinds, nothing, even, passed, nothing, none, speeds)
    return PacedDescent(public(game), tol, every), State(pacers, signal)


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
    elif isinstance(system, LeanDescent):
        policy = softmax(agents.logits)
    else:
        policy = agents.policy
    return jnp.moveaxis(policy, 2, 3)


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
        InputError: if the game is none; see `validate`.
        ValueError: if there is no such law.
    """
    law = "fast" if law is None else law
    validate(game)
    if double is None:
        double = game.horizon * game.states * game.actions <= DOUBLE_UP_TO
    if law == "fast" and game.shares.size * game.horizon * game.states * game.actions > LEAN_FROM:
        law = "lean"
    rounds, kept = max_rounds or 20_000, []
    with jax.enable_x64(double):
        game_now = cast(game, jnp.float64 if double else jnp.float32)
        goal = 0.9 * tol
        system, state = first_state(game_now, law, tol=goal, **options)
        while True:
            settled = settle(
                system,
                state,
                max_rounds=rounds - sum(len(part[0]) for part in kept),
                distance=Within(jnp.asarray(goal)),
                record=_measure,
                mesh=mesh,
                watch=watch,
            )
            kept.append((np.asarray(settled.recorded), np.asarray(settled.record)))
            state = settled.state
            answer = None  # Two policies at once may be more than the memory holds.
            policy = _policy(system, state)
            answer = _answer(game, system, settled, policy, tol, kept)
            left = rounds - answer.rounds
            if answer.status == Status.SETTLED or settled.status != Status.SETTLED or left <= 0 or goal < tol / 1e3:
                return answer
            # What the law measured on the way was not quite the flow of its policy: go on to a closer rest.
            goal = goal / 4
            if isinstance(system, MirrorDescent | PacedDescent | LeanDescent | FictitiousPlay):
                system = dataclasses.replace(system, tol=jnp.asarray(goal, system.tol.dtype))


def _policy(system: AbstractSystem, state: State) -> np.ndarray:
    """Return `policies` as float64; of the lean law time by time, since the whole of it may be gigabytes."""
    if not isinstance(system, LeanDescent):
        return np.array(policies(system, state), np.float64)
    logits = np.asarray(state.agents.logits)
    policy = np.empty((*logits.shape[:2], *logits.shape[:1:-1]))
    for place in np.ndindex(logits.shape[:2]):
        row = logits[place].T.astype(np.float64)
        policy[place] = np.exp(row - row.max(axis=1, keepdims=True))
    return policy


def _answer(
    game: AbstractGame, system: AbstractSystem, settled: Settled, policy: np.ndarray, tol: float, kept: list
) -> MeanFieldEquilibrium:
    # Single precision's rows sum to one only to 1e-7, which a long horizon would add up. In place: it may be gigabytes.
    policy /= policy.sum(axis=-1, keepdims=True)
    found: Account = account(game, policy)
    checks = certificates(found, policy, tol)
    status = Status(settled.status)
    if all(check.holds for check in checks):
        status = Status.SETTLED
    elif status == Status.SETTLED:
        status = Status.OUT_OF_ROUNDS
    recorded, record = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return MeanFieldEquilibrium(
        game,
        policy,
        found.flow,
        found.value,
        found.exploitability,
        float(found.shares @ found.reach),
        status,
        tuple(checks),
        recorded.size,
        type(system).__name__,
        settled.bytes_per_round,
        (recorded, record),
    )


def _measure(state: State) -> Array:
    signal = state.signal
    return signal.error if isinstance(signal, Crowd) else jnp.zeros((), signal.dtype)
