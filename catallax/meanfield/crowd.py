"""Finite crowds: run a game with N actual players, and measure what is left of the limit's promises.

    flow = run_crowd(game, policy, 1_000_000, key=key)     # counts in each state at times 0 … T
    density_error(game, policy, 1000)                       # how far N players' densities are from the limit's
    deviation_gain(game, policy, 1000)                      # what one of N players gains by deviating
    crowd_law(game, policy, [100, 1000, 10_000])            # the law 1/√N, with a confidence interval

Conventions are those of crowd_rules.py. A policy is an array (kinds, T, S, A) whose rows sum to one.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int, Key, UInt32

from ..core.result import Status
from ..core.run import Progress, run
from ..core.system import State
from ..errors import InputError
from .common_noise import CommonNoise
from .crowd_rules import AuditedCrowd, FiniteCrowd, Player, Room, best_response, finals_of, mean_flow, policy_value
from .problem import AbstractGame, cast, crowd_table

BATCH = 2**18
"""About how many players are held at once where runs are repeated over seeds."""

ROW_SLACK = 1e-4
"""How far from one a policy's row may sum: what a float32 softmax over many actions may miss."""


class CrowdRun(eqx.Module):
    """What a crowd did.

    Args:
        counts: How many players were in each state at times 0 … T; rows sum to N. All zero after a stop.
        players: The players at the end: their states, kinds (`plan`) and what each earned, discounted to time 0,
            the last reward included unless the run was stopped.
        status: How the run ended.
        bytes_per_round: What one device exchanges in a round; does not depend on N.
    """

    counts: Int[np.ndarray, "U S"]
    players: Player
    status: Status
    bytes_per_round: int

    @property
    def density(self) -> Float[np.ndarray, "U S"]:
        """The empirical densities at times 0 … T, float64."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


@dataclasses.dataclass(frozen=True)
class DensityError:
    """How far a crowd's densities are from those of the limit, run by run.

    Args:
        players: N.
        distance: √(mean over t = 0 … T of Σ_s (μ̂_t(s) − μ_t(s))²), one entry per run. Where moves do not depend on
            the density, its mean square is exactly mean_t Σ_s μ_t(s)(1 − μ_t(s)) / N.
        variation: Total variation ½ Σ_s |μ̂_t(s) − μ_t(s)|, the mean over t, one entry per run.
        worst: The same, the largest over t.
        by_time: Total variation at each time, the mean over runs, shape (T+1,).
    """

    players: int
    distance: Float[np.ndarray, " R"]
    variation: Float[np.ndarray, " R"]
    worst: Float[np.ndarray, " R"]
    by_time: Float[np.ndarray, " U"]

    @property
    def rms(self) -> float:
        """Root of the mean over runs of the squared distance."""
        return float(np.sqrt(np.mean(self.distance**2)))


@dataclasses.dataclass(frozen=True)
class DeviationGain:
    """What one of N players gains if it alone turns to the best response to the limit's flow.

    A gain at most as large as what the best deviation of all would bring: among N players the best response to the
    limit's flow need not be the best of all.

    Args:
        players: N, the deviating player included.
        gain: Mean gain, over kinds by their shares: J(deviating) − J(not), where the other N − 1 hold on to the
            policy, Σ_{t<T} γᵗ r + γᵀ final.
        error: Its standard error.
        limit: The same gain in the limit of many players: the exploitability of the policy. For a policy at
            equilibrium 0, and `gain` is then what the finite number of players leaves.
        by_kind: The gain of a player of each kind.
        by_kind_error: Their standard errors.
    """

    players: int
    gain: float
    error: float
    limit: float
    by_kind: Float[np.ndarray, " n"]
    by_kind_error: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class CrowdLaw:
    """How a crowd's distance from the limit shrinks with the number of players: distance ≈ constant · N^slope.

    Args:
        players: The sizes.
        distance: The root mean square of `DensityError.distance` at each size.
        error: Its standard error.
        slope: Fitted by weighted least squares on logarithms; −1/2 is the law of large numbers.
        interval: 95% confidence interval of the slope.
        constant: Fitted; √N times the distance where the slope is −1/2.
    """

    players: Int[np.ndarray, " L"]
    distance: Float[np.ndarray, " L"]
    error: Float[np.ndarray, " L"]
    slope: float
    interval: tuple[float, float]
    constant: float


def check_policy(game: AbstractGame, policy: ArrayLike) -> Float[Array, "n T S A"]:
    """Return a policy in the game's dtype, each row summing to one.

    A game whose players are all alike may leave out the axis of kinds.

    Raises:
        ValueError: if the shape is not (kinds, T, S, A).
        InputError: if a chance is negative or not a number, or a row does not sum to one; names kind, time, state.
            Or if the game has common noise: its shocks are one for all players, and theirs would be one each.
    """
    if isinstance(game, CommonNoise):
        raise InputError(
            "an actual crowd plays a game with common noise along one history of shocks: "
            "use game.given(history) and game.policy_along(policy, history)"
        )
    kinds = int(game.shares.shape[0])
    shape = (kinds, game.horizon, game.states, game.actions)
    rows = np.asarray(policy, np.float64)
    if kinds == 1 and rows.shape == shape[1:]:
        rows = rows[None]
    if rows.shape != shape:
        raise ValueError(f"a policy has shape (kinds, times, states, actions) = {shape}, not {rows.shape}")
    if (bad := ~(rows >= 0)).any():
        kind, time, state, action = np.argwhere(bad)[0]
        raise InputError(
            f"kind {kind}, time {time}, state {state}, action {action}: a policy's chance is "
            f"{rows[kind, time, state, action]:g}; it must be a number from 0 to 1"
        )
    sums = rows.sum(axis=-1)
    if (bad := ~(np.abs(sums - 1) <= ROW_SLACK)).any():
        kind, time, state = np.argwhere(bad)[0]
        raise InputError(
            f"kind {kind}, time {time}, state {state}: the policy's chances sum to {sums[kind, time, state]:.6g}, not 1"
        )
    return jnp.asarray(rows / sums[..., None], game.start().dtype)


def _check_players(players: int, least: int = 1) -> None:
    if not least <= players < 2**30:
        raise InputError(f"{players} players; a crowd has between {least} and {2**30 - 1}")


class Entry(eqx.Module):
    """Thresholds by which a word of 32 random bits picks a player's kind and first state."""

    kinds: UInt32[Array, " n"]
    states: UInt32[Array, " S"]


def _entry(game: AbstractGame) -> Entry:
    start, shares, _ = crowd_table(game)
    return Entry(_thresholds(shares), _thresholds(start))


def _thresholds(chances: Float[np.ndarray, " n"]) -> UInt32[Array, " m"]:
    """Return cumulative chances in units of 2⁻³², up to the last that is positive."""
    # In double precision: a single one has too few digits for the cells of a large map.
    total = np.cumsum(chances)[: np.flatnonzero(chances > 0)[-1]] / chances.sum()
    return jnp.asarray(np.minimum(total * 2.0**32, 2.0**32 - 1).astype(np.uint32))


def begin(game: AbstractGame, players: int, key: Key[Array, ""]) -> State:
    """Return N players whose kinds and first states are drawn independently, from `shares` and `start`."""
    return _begin_compiled(game, _entry(game), players, key)


def _begin(game: AbstractGame, entry: Entry, players: int, key: Key[Array, ""]) -> State:
    numbers = jnp.arange(players, dtype=jnp.int32)
    words = jax.vmap(lambda number: jax.random.key_data(jax.random.fold_in(key, number))[:2])(numbers)
    plans = jnp.searchsorted(entry.kinds, words[:, 0], side="right").astype(jnp.int32)
    return _state(game, jnp.searchsorted(entry.states, words[:, 1], side="right").astype(jnp.int32), plans)


def _state(game: AbstractGame, states: Int[Array, " N"], plans: Int[Array, " N"]) -> State:
    dtype = game.start().dtype
    counts = jnp.zeros(game.states, jnp.int32).at[states].add(1)
    room = Room(counts, jnp.int32(0), jnp.ones((), dtype))
    return State(Player(states, plans, jnp.zeros(states.shape, dtype)), room)


_begin_compiled = eqx.filter_jit(_begin)


def _counts(state: State) -> Int[Array, " S"]:
    return state.signal.counts


def run_crowd(
    game: AbstractGame,
    policy: ArrayLike,
    players: int,
    *,
    key: Key[Array, ""] | None = None,
    mesh: Mesh | None = None,
    block: int | None = None,
    watch: Callable[[Progress], Any] | None = None,
) -> CrowdRun:
    """Run a game with N actual players to its end, on the engine.

    States and counts are the same bit for bit on any number of devices, earnings to rounding.

    Args:
        game: The game.
        policy: Chances of each action, (kinds, T, S, A); (T, S, A) where players are all alike.
        players: N, the players in all.
        key: Randomness; `jax.random.key(0)` by default.
        mesh, block, watch: As for `catallax.run`.

    Raises:
        InputError: if the policy's rows do not sum to one, or there is no player.
        ValueError: if the policy has another shape.
    """
    _check_players(players)
    game = cast(game, jnp.result_type(float))
    policy = check_policy(game, policy)
    key = jax.random.key(0) if key is None else key
    first, later = jax.random.split(key)
    state = begin(game, players, first)
    system = FiniteCrowd(game, policy)
    ended = run(system, state, game.horizon, key=later, record=_counts, mesh=mesh, block=block, watch=watch)
    counts = np.asarray(state.signal.counts)[None]
    if ended.record is not None:
        counts = np.concatenate([counts, np.asarray(ended.record)])
    agents = ended.state.agents
    if ended.status is Status.FINISHED:
        agents = _paid(game, ended.state)
    return CrowdRun(counts, agents, ended.status, ended.bytes_per_round)


@eqx.filter_jit
def _paid(game: AbstractGame, state: State) -> Player:
    """Add what it earns to end where each player is."""
    room, agents = state.signal, state.agents
    final = room.worth * finals_of(game, room.density)
    return Player(agents.state, agents.plan, agents.earned + final[agents.plan % final.shape[0], agents.state])


# --- Distance from the limit


@eqx.filter_jit
def _repeated_counts(
    game: AbstractGame, entry: Entry, policy: Array, players: int, keys: Key[Array, " R"]
) -> Int[Array, "R U S"]:
    def once(key: Key[Array, ""]) -> Array:
        first, later = jax.random.split(key)
        state = _begin(game, entry, players, first)
        ended = run(FiniteCrowd(game, policy), state, game.horizon, key=later, record=_counts)
        return jnp.concatenate([state.signal.counts[None], ended.record])

    return _repeat(once, keys, players)


def _repeat(once: Callable[[Array], Array], keys: Key[Array, " R"], players: int) -> Array:
    """Map over runs, as many at once as fit into a batch of players."""
    runs = keys.shape[0]
    # A divisor, so that no remainder is compiled apart.
    batch = max(size for size in range(1, runs + 1) if runs % size == 0 and size <= max(1, BATCH // players))
    return lax.map(once, keys) if batch == 1 else lax.map(once, keys, batch_size=batch)


def _keys(seed: int, runs: int) -> Key[Array, " R"]:
    return jax.random.split(jax.random.key(seed), runs)


def density_error(
    game: AbstractGame, policy: ArrayLike, players: int, runs: int = 16, *, seed: int = 0
) -> DensityError:
    """Measure how far the densities of N players are from those of the limit, under the same policy.

    Args:
        game: The game.
        policy: As for `run_crowd`.
        players: N.
        runs: How many independent crowds.
        seed: Of the first crowd's randomness; the others' follow from it.

    Raises:
        InputError, ValueError: as for `run_crowd`.
    """
    _check_players(players)
    game = cast(game, jnp.result_type(float))
    policy = check_policy(game, policy)
    counts = np.asarray(_repeated_counts(game, _entry(game), policy, players, _keys(seed, runs)), np.float64)
    flow = np.asarray(eqx.filter_jit(mean_flow)(game, policy), np.float64)
    miss = counts / players - flow
    distance = np.sqrt(np.mean(np.sum(miss**2, axis=2), axis=1))
    variation = 0.5 * np.sum(np.abs(miss), axis=2)
    return DensityError(players, distance, variation.mean(axis=1), variation.max(axis=1), variation.mean(axis=0))


def crowd_law(
    game: AbstractGame,
    policy: ArrayLike,
    sizes: Sequence[int] = (10, 100, 1000, 10_000),
    runs: int = 32,
    *,
    seed: int = 0,
) -> CrowdLaw:
    """Fit how the distance from the limit shrinks with the number of players.

    Weighted least squares of ln(distance) on ln N, the weights from the spread over runs. If the points lie further
    from the line than their standard errors explain, the interval is widened accordingly.

    Args:
        game: The game.
        policy: As for `run_crowd`.
        sizes: The numbers of players, at least three.
        runs: How many independent crowds of each size.
        seed: Of the randomness.

    Raises:
        InputError, ValueError: as for `run_crowd`; InputError for fewer than three sizes or fewer than four runs.
    """
    if len(set(sizes)) < 3 or runs < 4:
        raise InputError(f"{len(set(sizes))} sizes and {runs} runs; a slope needs at least 3 sizes and 4 runs of each")
    squares = [density_error(game, policy, n, runs, seed=seed + place).distance ** 2 for place, n in enumerate(sizes)]
    mean = np.array([square.mean() for square in squares])
    # ln of the root of a mean: half the relative error of the mean.
    relative = np.array([square.std(ddof=1) / square.mean() / math.sqrt(runs) / 2 for square in squares])
    relative = np.maximum(relative, 1e-12)
    x, y, weights = np.log(np.asarray(sizes, np.float64)), np.log(mean) / 2, relative**-2.0
    centre = np.sum(weights * x) / np.sum(weights)
    spread = np.sum(weights * (x - centre) ** 2)
    slope = float(np.sum(weights * (x - centre) * y) / spread)
    height = float(np.sum(weights * y) / np.sum(weights) - slope * centre)
    misfit = np.sum(weights * (y - height - slope * x) ** 2) / (len(sizes) - 2)
    # The weights are themselves estimated, from runs − 1 degrees of freedom each.
    freedom = len(sizes) * (runs - 1)
    half = float(scipy.stats.t.ppf(0.975, freedom) * math.sqrt(max(1.0, misfit) / spread))
    root = np.sqrt(mean)
    return CrowdLaw(
        np.asarray(sizes), root, root * relative, slope, (slope - half, slope + half), float(np.exp(height))
    )


# --- Deviating


def _repeated_audits(
    game: AbstractGame, entry: Entry, tables: tuple, players: int, kind: Int[Array, ""], keys: Key[Array, " R"]
) -> Float[Array, "R 2"]:
    """Return what player 0, of a given kind, books if it holds on to its policy, and if it deviates."""
    policy, value, flow = tables
    kinds = policy.shape[0] // 2
    system = AuditedCrowd(game, policy, value, flow)

    def once(key: Key[Array, ""]) -> Array:
        first, later = jax.random.split(key)
        drawn = _begin(game, entry, players, first).agents

        def booked(plan: Array) -> Array:
            state = _state(game, drawn.state, drawn.plan.at[0].set(plan))
            ended = run(system, state, game.horizon, key=later).state
            room, agent = ended.signal, jax.tree.map(lambda leaf: leaf[0], ended.agents)
            change = finals_of(game, room.density) - finals_of(game, flow[-1])
            return agent.earned + room.worth * change[kind, agent.state]

        return jax.vmap(booked)(jnp.stack([kind, kind + kinds]))

    return _repeat(once, keys, 2 * players)


@eqx.filter_jit
def _audits(
    game: AbstractGame, entry: Entry, policy: Array, players: int, keys: Key[Array, " R"]
) -> tuple[Array, Array]:
    """Return for each kind the gain in the limit, and what N players add to it, run by run."""
    flow = mean_flow(game, policy)
    value = policy_value(game, policy, flow)
    best, best_value = best_response(game, flow)
    tables = jnp.concatenate([policy, best]), jnp.concatenate([value, best_value]), flow
    kinds = jnp.arange(policy.shape[0], dtype=jnp.int32)
    booked = lax.map(lambda kind: _repeated_audits(game, entry, tables, players, kind, keys), kinds)
    # Value by value before the sum: two nearly equal sums would leave the rounding of each.
    limit = (best_value - value)[:, 0] @ game.start()
    return limit, booked[..., 1] - booked[..., 0]


def deviation_gain(
    game: AbstractGame, policy: ArrayLike, players: int, runs: int = 256, *, seed: int = 0
) -> DeviationGain:
    """Measure what one of N players gains by deviating to the best response to the limit's flow.

    Each run is played twice with the same random numbers: player 0 holds on to the policy, then deviates; the other
    N − 1 hold on. Its influence on the crowd is included. What is averaged is not its luck but what
    `AuditedCrowd` books,
    whose expectation is the same and whose variance is smaller by a factor of about N.

    Args:
        game: The game.
        policy: As for `run_crowd`.
        players: N, at least 2.
        runs: How many independent pairs of crowds for each kind, at least 2.
        seed: Of the randomness.

    Raises:
        InputError, ValueError: as for `run_crowd`.
    """
    _check_players(players, 2)
    if runs < 2:
        raise InputError(f"{runs} runs; a standard error needs at least 2")
    # In double precision, so that the limit's gain is not lost in the rounding of two values.
    with jax.enable_x64(True):
        game = cast(game, jnp.float64)
        limit, extra = _audits(game, _entry(game), check_policy(game, policy), players, _keys(seed, runs))
    limit, extra = np.asarray(limit, np.float64), np.asarray(extra, np.float64)
    gains, errors = limit + extra.mean(axis=1), extra.std(axis=1, ddof=1) / math.sqrt(runs)
    shares = np.asarray(game.shares, np.float64)
    # The kinds' runs share their random numbers, so the error of the mean is taken run by run.
    error = float((shares @ extra).std(ddof=1) / math.sqrt(runs))
    return DeviationGain(players, float(shares @ gains), error, float(shares @ limit), gains, errors)
