"""The other way round: from a simulator of N actual players to the game of the limit.

    found = estimate_game(simulator, states=4, actions=2, players=500, start=start, horizon=20)
    answer = solve(found.game)

What is assumed, and cannot be seen from outside. Players are exchangeable; what a player earns and where it goes
depends on its own state and action and on the density of all players at that time, not on the time itself; given
these, players move independently. In each state s the dependence is linear in features φ(μ)[s] of the density:

    P(s' | s, a, μ) = Σ_f φ_f(μ)[s] p_f(s, a, s')      r(s, a, μ) = Σ_f φ_f(μ)[s] r_f(s, a)

fitted by least squares over many calls of the simulator, whose players start anywhere and act at random, so that
densities differ. Counts, standard errors and a measure of misfit come with the game. Predicted chances that leave
[0, 1] are cut and scaled to sum to one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from ..errors import InputError
from .problem import AbstractGame, Listed

Simulator = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(states (N,), actions (N,), key) -> (next states (N,), rewards (N,)), one step of N players."""

Features = Callable[[Float[Array, " S"]], Float[Array, "S F"]]
"""What the rules may depend on: from a density to F numbers for each state; the first is 1."""

SINGULAR = 1e-9
"""Features of a state and action count as dependent where the least eigenvalue of their scaled moments is below."""

EXPECTED = 5.0
"""How many moves must be expected for a frequency to enter the measure of misfit, as is usual for chi-squared."""


def own_cell(density: Float[Array, " S"]) -> Float[Array, "S 2"]:
    """Features 1 and μ(s): rules that depend on how many are where the player is."""
    return jnp.stack([jnp.ones_like(density), density], axis=-1)


def whole_density(density: Float[Array, " S"]) -> Float[Array, "S S"]:
    """Features 1 and μ(1) … μ(S−1): rules linear in the whole density (μ(0) follows, since densities sum to one)."""
    row = jnp.concatenate([jnp.ones_like(density[:1]), density[1:]])
    return jnp.broadcast_to(row, (density.shape[0], row.shape[0]))


def no_density(density: Float[Array, " S"]) -> Float[Array, "S 1"]:
    """Feature 1 alone: rules that do not depend on the crowd."""
    return jnp.ones_like(density)[:, None]


class EstimatedGame(AbstractGame):
    """A game whose tables were fitted.

    Args:
        targets: The successors that were seen for each state and action, padded with the state itself.
        chance: Coefficients of their probabilities on the features; 0 for padding.
        earning: Coefficients of the reward on the features.
        first: The density at time 0.
        rate: The discount.
        features: From a density to the features in each state.
    """

    targets: Int[Array, "S A K"]
    chance: Float[Array, "S A K F"]
    earning: Float[Array, "S A F"]
    first: Float[Array, " S"]
    rate: float
    states: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    features: Features = eqx.field(static=True)

    @property
    def discount(self):
        return self.rate

    def start(self):
        return self.first

    def moves(self, time, density):
        del time
        cut = jnp.maximum(jnp.einsum("sakf,sf->sak", self.chance, self.features(density)), 0)
        # Uncut, they sum to one, so cut, to no less.
        return Listed(self.targets, cut / jnp.sum(cut, axis=-1, keepdims=True))

    def reward(self, time, density, kind):
        del time, kind
        return jnp.einsum("saf,sf->sa", self.earning, self.features(density))


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """A game estimated from a simulator, and how well it is known.

    Args:
        game: The game, which `solve` takes.
        counts: How often each action was taken in each state.
        chance_error: Standard errors of `game.chance`, robust to unequal variances (White 1980).
        reward_error: Standard errors of `game.earning`, likewise.
        misfit: Chi-squared per degree of freedom of the observed moves against the fitted chances: near 1 if the
            features suffice, well above if the rules depend on the density in another way; NaN where no
            state and action has two successors, or too few moves to tell.
        reward_rms: Root mean square of what the fitted reward leaves unexplained, per call, state and action, in
            units of reward; weighted by counts.
    """

    game: EstimatedGame
    counts: Int[np.ndarray, "S A"]
    chance_error: Float[np.ndarray, "S A K F"]
    reward_error: Float[np.ndarray, "S A F"]
    misfit: float
    reward_rms: float


def estimate_game(
    simulator: Simulator,
    *,
    states: int,
    actions: int,
    players: int,
    start: ArrayLike,
    horizon: int,
    features: Features = whole_density,
    episodes: int = 100,
    steps: int = 10,
    anywhere: bool = True,
    discount: float = 1.0,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """Fit the game of the limit to a simulator of N players.

    Each episode draws a random policy (every row uniform over the simplex) and lets the players act by it for some
    steps, each step one call of the simulator.

    Args:
        simulator: (states, actions, key) -> (next states, rewards), all of shape (N,): one step of all players.
        states: S.
        actions: A.
        players: N. The more, the less the noise, but only many calls with different densities tell how the rules
            depend on the density.
        start: The density at time 0 of the game that is made, (S,).
        horizon: T of the game that is made.
        features: What the rules may depend on; the first feature must be 1. `whole_density`, `own_cell`,
            `no_density`, or a function of your own in JAX.
        episodes: How many.
        steps: Calls of the simulator in each.
        anywhere: Whether an episode's players start at a density drawn uniformly from all densities, so that
            every state is seen; otherwise each starts as drawn from `start`, and only what is reached is seen.
        discount: Of the game that is made.
        key: Randomness; `jax.random.key(0)` by default.

    Raises:
        InputError: if the simulator answers with states out of range or rewards that are not finite, if a state and
            action was never seen, or never at enough different densities to tell the features apart.
        ValueError: if shapes do not fit.

    Reference:
        White (1980), A heteroskedasticity-consistent covariance matrix estimator, for the standard errors.
    """
    first = _density(start, states)
    _check_features(features, states)
    if min(players, episodes, steps, horizon, actions) < 1:
        raise InputError("players, episodes, steps, horizon and actions must be at least 1")
    key = jax.random.key(0) if key is None else key
    calls = []
    for episode in range(episodes):
        own = jax.random.fold_in(key, episode)
        calls += _episode(simulator, own, first, (states, actions, players), steps, anywhere)
    return _fit(_gathered(calls, states, actions), first, horizon, features, discount)


@dataclasses.dataclass(frozen=True, eq=False)
class _Calls:
    """Sums over the players of each call (C calls); K successors of each state and action, those that were seen."""

    density: Float[np.ndarray, "C S"]
    count: Int[np.ndarray, "C S A"]
    earned: Float[np.ndarray, "C S A"]
    targets: Int[np.ndarray, "S A K"]
    moved: Int[np.ndarray, "C S A K"]


def _gathered(calls: list[tuple], states: int, actions: int) -> _Calls:
    """Stack the calls; moves come as codes (s·A + a)·S + s' and how often, so that no S×A×S table is held."""
    density, count, earned, codes, times = zip(*calls, strict=True)
    known = np.unique(np.concatenate(codes))
    cell, target = known // states, known % states
    rank = np.arange(known.size) - np.searchsorted(cell, cell)
    width = int(rank.max()) + 1
    targets = np.repeat(np.arange(states), actions * width).reshape(states * actions, width)
    targets[cell, rank] = target
    moved = np.zeros((len(calls), states * actions, width), np.int64)
    for row, code, often in zip(moved, codes, times, strict=True):
        place = np.searchsorted(known, code)
        row[cell[place], rank[place]] = often
    shape = (states, actions, width)
    return _Calls(
        np.stack(density), np.stack(count), np.stack(earned), targets.reshape(shape), moved.reshape(-1, *shape)
    )


def _density(start: ArrayLike, states: int) -> Float[np.ndarray, " S"]:
    first = np.asarray(start, np.float64)
    if first.shape != (states,):
        raise ValueError(f"start has one entry per state, ({states},), not {first.shape}")
    if not (first >= 0).all() or not abs(first.sum() - 1) < 1e-6:
        raise InputError(f"start must be non-negative and sum to one; its sum is {first.sum():g}")
    return first / first.sum()


def _check_features(features: Features, states: int) -> None:
    seen = np.asarray(features(jnp.full(states, 1 / states)))
    if seen.ndim != 2 or seen.shape[0] != states:
        raise ValueError(f"features gives a row for each state, ({states}, F), not {seen.shape}")
    if not np.all(seen[:, 0] == 1):
        raise ValueError("the first feature must be 1, so that the fitted chances sum to one")


def _episode(simulator, key, first, sizes, steps, anywhere):
    """Return the sums of one episode's calls."""
    states, actions, players = sizes
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    density = rng.dirichlet(np.ones(states)) if anywhere else first
    policy = rng.dirichlet(np.ones(actions), states)
    where = rng.choice(states, size=players, p=density / density.sum())
    calls = []
    for step in range(steps):
        chosen = (rng.random(players)[:, None] >= np.cumsum(policy, axis=1)[where, :-1]).sum(axis=1)
        now = jnp.asarray(where, jnp.int32), jnp.asarray(chosen, jnp.int32)
        answer = simulator(*now, jax.random.fold_in(key, step))
        after, earned = _answer(answer, where, chosen, states)
        code = where * actions + chosen
        cells = states * actions
        count = np.bincount(code, minlength=cells).reshape(states, actions)
        total = np.bincount(code, weights=earned, minlength=cells).reshape(states, actions)
        moves = np.unique(code * states + after, return_counts=True)
        calls.append((np.bincount(where, minlength=states) / players, count, total, *moves))
        where = after
    return calls


def _answer(answer, where, chosen, states):
    """Check what a simulator answered."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ValueError("a simulator returns two arrays, the next states and the rewards")
    after, earned = (np.asarray(part) for part in answer)
    if after.shape != where.shape or earned.shape != where.shape:
        raise ValueError(
            f"a simulator returns next states and rewards of shape {where.shape}, not {after.shape} and {earned.shape}"
        )
    if not np.issubdtype(after.dtype, np.integer):
        raise ValueError(f"next states are whole numbers, not {after.dtype}")
    earned = earned.astype(np.float64)
    for bad, what in (
        ((after < 0) | (after >= states), f"a next state that is not in 0 … {states - 1}"),
        (~np.isfinite(earned), "a reward that is not a finite number"),
    ):
        if bad.any():
            player = int(np.argmax(bad))
            value = after[player] if "state" in what else earned[player]
            raise InputError(
                f"state {where[player]}, action {chosen[player]}: the simulator gave player {player} {what}: {value}"
            )
    return after.astype(np.int64), earned


def _fit(data: _Calls, first, horizon, features, discount) -> Estimate:
    x = np.asarray(jax.vmap(features)(jnp.asarray(data.density)), np.float64)
    counts = data.count.sum(axis=0)
    _check_seen(counts)
    # Per call, state and action all players share one row of features, so sums over them suffice.
    inverse = _inverse(np.einsum("csa,csf,csg->safg", data.count, x, x, optimize=True), counts)
    chance, chance_error = _regress(x, data.count, data.moved, inverse, indicator=True)
    earning, reward_error = _regress(x, data.count, data.earned[..., None], inverse, indicator=False)
    fitted = np.einsum("csf,sakf->csak", x, chance)
    left = data.earned - data.count * np.einsum("csf,saf->csa", x, earning[:, :, 0])
    rms = float(np.sqrt(np.sum(left**2 / np.maximum(data.count, 1)) / data.count.sum()))
    real = jnp.result_type(float)
    game = EstimatedGame(
        targets=jnp.asarray(data.targets, jnp.int32),
        chance=jnp.asarray(chance, real),
        earning=jnp.asarray(earning[:, :, 0], real),
        first=jnp.asarray(first, real),
        rate=discount,
        states=counts.shape[0],
        actions=counts.shape[1],
        horizon=horizon,
        features=features,
    )
    misfit = _misfit(data.count, data.moved, fitted, x.shape[2])
    return Estimate(game, counts, chance_error, reward_error[:, :, 0], misfit, rms)


def _check_seen(counts: Int[np.ndarray, "S A"]) -> None:
    if (never := counts == 0).any():
        state, action = np.argwhere(never)[0]
        raise InputError(
            f"state {state}, action {action} was never seen ({never.sum()} of {counts.size} pairs in "
            f"{counts.sum()} moves), so nothing is known of it; ask for more episodes or players, or anywhere=True"
        )


def _inverse(moments: Float[np.ndarray, "S A F F"], counts: Int[np.ndarray, "S A"]) -> Float[np.ndarray, "S A F F"]:
    """Invert the features' moments, scaled to a unit diagonal for the check."""
    scale = np.sqrt(np.einsum("saff->saf", moments))
    safe = np.where(scale > 0, scale, 1)
    unit = moments / safe[..., :, None] / safe[..., None, :]
    least = np.linalg.eigvalsh(unit)[..., 0]
    if (bad := least < SINGULAR).any():
        state, action = np.argwhere(bad)[0]
        raise InputError(
            f"state {state}, action {action}: {counts[state, action]} moves at too few different densities to tell "
            f"{moments.shape[-1]} features apart; ask for more episodes, or fewer features (own_cell, no_density)"
        )
    return np.linalg.inv(unit) / safe[..., :, None] / safe[..., None, :]


def _regress(x, count, total, inverse, *, indicator: bool):
    """Regress sums of outcomes (C, S, A, K) on features; return coefficients (S, A, K, F) and robust standard errors.

    For indicators the residuals' squares are known from the sums alone, since y² = y; for rewards the residual of a
    call's sum is taken, which allows for what the players of one call have in common.
    """
    beta = np.einsum("csak,csf,safg->sakg", total, x, inverse, optimize=True)
    fitted = np.einsum("csf,sakf->csak", x, beta, optimize=True)
    if indicator:
        square = total * (1 - 2 * fitted) + count[..., None] * fitted**2
    else:
        square = (total - count[..., None] * fitted) ** 2
    meat = np.einsum("csak,csf,csg->sakfg", square, x, x, optimize=True)
    covariance = np.einsum("safg,sakgh,sahi->sakfi", inverse, meat, inverse, optimize=True)
    return beta, np.sqrt(np.maximum(np.einsum("sakff->sakf", covariance), 0))


def _misfit(count, moved, fitted, coefficients: int) -> float:
    """Return chi-squared per degree of freedom of moves against fitted chances."""
    expected = count[..., None] * fitted
    room = expected * (1 - fitted)
    use = (expected >= EXPECTED) & (count[..., None] * (1 - fitted) >= EXPECTED)
    if not use.any():
        return float("nan")
    terms = np.where(use, (moved - expected) ** 2 / np.where(use, room, 1), 0)
    # Each fitted coefficient takes one degree of freedom; binomial terms, so K counts without the −1.
    freedom = use.sum() - coefficients * use.any(axis=0).sum()
    return float(terms.sum() / freedom) if freedom > 0 else float("nan")


def as_simulator(game: AbstractGame, *, time: int = 0, kind: Any = None) -> Simulator:
    """Return the simulator of a game's N players whose rules are those at one time: the inverse of `estimate_game`.

    Args:
        game: The game.
        time: At which its rules are taken.
        kind: The kind of all players, an entry of `game.kinds`.
    """

    @jax.jit
    def simulator(states: Array, actions: Array, key: Array) -> tuple[Array, Array]:
        dtype = game.start().dtype
        counts = jnp.zeros(game.states, jnp.int32).at[states].add(1)
        density = counts.astype(dtype) / jnp.asarray(states.shape[0], dtype)
        now = jnp.int32(time)
        targets, chances = game.moves(now, density).listed()
        steps = jnp.cumsum(chances, axis=-1)[..., :-1]
        draws = jax.random.uniform(key, states.shape, dtype)
        way = jnp.sum(draws[:, None] >= steps[states, actions], axis=-1)
        return targets[states, actions, way], game.reward(now, density, kind)[states, actions]

    return simulator
