"""Finite crowds: the laws of the engine, exact small games, the law 1/√N, and games estimated from simulators."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from catallax import InputError, Status, mesh, run
from catallax.meanfield.certify import account
from catallax.meanfield.certify import flow as certified_flow
from catallax.meanfield.crowd import begin, check_policy, crowd_law, density_error, deviation_gain, run_crowd
from catallax.meanfield.crowd_rules import (
    AuditedCrowd,
    FiniteCrowd,
    _cumulative,
    _passed,
    best_response,
    mean_flow,
    policy_value,
)
from catallax.meanfield.estimate import as_simulator, estimate_game, no_density, own_cell, whole_density
from catallax.meanfield.problem import AbstractGame, Listed, crowd_table, end_table, table
from catallax.meanfield.solve import solve
from catallax.testing import check_locality, check_system


class Alley(AbstractGame):
    """Four places in a ring: stay or go on; crowded places are hard to leave and earn less. Two kinds of players."""

    crowding: jax.Array
    chance: jax.Array
    first: jax.Array
    two: bool = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    ending: float = eqx.field(static=True)
    states: int = 4
    actions: int = 2

    def __init__(self, crowding=0.5, two=True, horizon=5, first=(0.4, 0.3, 0.2, 0.1), chance=(0.8, 0.9), ending=1.0):
        self.crowding, self.chance, self.first = jnp.array(crowding), jnp.array(chance), jnp.array(first)
        self.two, self.horizon, self.ending = two, horizon, ending

    def start(self):
        return self.first

    def moves(self, time, density):
        here = jnp.arange(4, dtype=jnp.int32)
        targets = jnp.broadcast_to(jnp.stack([here, (here + 1) % 4], -1)[:, None], (4, 2, 2))
        leave = self.chance[1] - self.crowding * density
        stay = self.chance[0] - self.crowding * 0.3 * density[0] * jnp.ones(4)
        chances = jnp.stack([jnp.stack([stay, 1 - stay], -1), jnp.stack([1 - leave, leave], -1)], 1)
        return Listed(targets, chances)

    def reward(self, time, density, kind):
        taste = jnp.arange(4) / 4 if kind is None else kind
        return (taste - 2 * self.crowding * density)[:, None] - jnp.array([[0.0, 0.1]])

    def final(self, density, kind):
        # Only where it pays to end does company cost: there one of two meets more of it than the limit knows of.
        return self.ending * jnp.array([0.0, 1.0, 0.0, 0.0]) * (1 - 2 * self.crowding * density)

    @property
    def discount(self):
        return 0.9

    @property
    def kinds(self):
        return jnp.array([[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.3, 0.0]]) if self.two else None

    @property
    def shares(self):
        return jnp.array([0.25, 0.75]) if self.two else jnp.ones(1)


def some_policy(game, seed=0):
    kinds = game.shares.shape[0]
    return np.random.default_rng(seed).dirichlet(np.ones(game.actions), (kinds, game.horizon, game.states))


GAME = Alley()
STEADY = Alley(crowding=0.0)
POLICY = some_policy(GAME)


# --- The engine's laws


def audited(game, policy):
    policy = check_policy(game, policy)
    flow = eqx.filter_jit(mean_flow)(game, policy)
    best, best_value = eqx.filter_jit(best_response)(game, flow)
    value = eqx.filter_jit(policy_value)(game, policy, flow)
    # Every player of GAME follows one of the first two policies; the others are those of deviating players.
    return AuditedCrowd(game, jnp.concatenate([policy, best]), jnp.concatenate([value, best_value]), flow)


@pytest.mark.bench
def test_a_crowd_keeps_every_law(key):
    """The signal counts players, so it has no derivative to check; another player's place must not be seen."""
    system = FiniteCrowd(GAME, check_policy(GAME, POLICY))
    laws = {"players": lambda state: jnp.sum(state.signal.counts)}
    check_system(system, begin(GAME, 37, key), key=key, conserves=laws, differentiable=False, rounds=3, redraw=shuffled)


def test_an_audited_crowd_is_local(key):
    check_locality(audited(GAME, POLICY), begin(GAME, 37, key), key=key, redraw=shuffled)


def shuffled(key, agents):
    return jax.tree.map(lambda leaf: jax.random.permutation(key, leaf), agents)


@pytest.fixture(scope="module")
def alone():
    return run_crowd(GAME, POLICY, 1001, key=jax.random.key(5))


@pytest.mark.parametrize(
    "options", [pytest.param({"mesh": 1}, marks=pytest.mark.bench), {"mesh": 2}, {"mesh": 8, "block": 40}]
)
def test_the_same_crowd_bit_for_bit_on_any_number_of_devices(options, alone):
    """1001 players, divisible by neither, with moves that depend on the density."""
    there = run_crowd(GAME, POLICY, 1001, key=jax.random.key(5), **{**options, "mesh": mesh(options["mesh"])})
    assert there.status is alone.status is Status.FINISHED
    np.testing.assert_array_equal(there.counts, alone.counts)
    np.testing.assert_array_equal(there.players.state, alone.players.state)
    np.testing.assert_allclose(there.players.earned, alone.players.earned, rtol=1e-5, atol=1e-6)


def test_many_seeds_at_once_are_one_crowd_each(alone):
    together = density_error(GAME, POLICY, 1001, 3, seed=5).distance
    limit = np.asarray(eqx.filter_jit(mean_flow)(GAME, check_policy(GAME, POLICY)), np.float64)
    for key, distance in zip(jax.random.split(jax.random.key(5), 3), together, strict=True):
        miss = run_crowd(GAME, POLICY, 1001, key=key).density - limit
        np.testing.assert_allclose(distance, np.sqrt(np.mean(np.sum(miss**2, axis=1))), rtol=1e-12)


def test_nobody_is_lost_and_the_last_count_is_where_the_players_are(alone):
    assert alone.counts.shape == (GAME.horizon + 1, GAME.states)
    np.testing.assert_array_equal(alone.counts.sum(axis=1), 1001)
    np.testing.assert_array_equal(np.bincount(alone.players.state, minlength=4), alone.counts[-1])
    np.testing.assert_allclose(alone.density.sum(axis=1), 1, rtol=1e-14)


def test_bytes_exchanged_do_not_depend_on_the_number_of_players(alone, key):
    system = FiniteCrowd(GAME, check_policy(GAME, POLICY))
    assert run(system, begin(GAME, 10, key), 0).bytes_per_round == alone.bytes_per_round


def test_no_chance_is_never_taken():
    """Chances of zero at either end and in between, against the least and the largest draw."""
    rows = np.array([[0.0, 0.3, 0.7, 0.0], [0.1, 0.0, 0.9, 0.0], [0.3, 0.3, 0.3, 0.1], [1.0, 0, 0, 0]])
    # What single precision leaves of one may fall short of it, which must not open the way to the last.
    rows = np.concatenate([rows, [[0.3, 0.3, 0.399999, 0.0]]])
    steps = _cumulative(jnp.asarray(rows))
    for draw, expected in ((0.0, [1, 0, 0, 0, 0]), (1 - 2.0**-24, [2, 2, 3, 0, 2])):
        taken = [int(_passed(row, jnp.asarray(draw, row.dtype))) for row in steps]
        assert taken == expected


def test_a_deterministic_game_goes_where_it_must():
    """Every player goes on each time, from state 0, in a game that always lets it."""

    sure = Alley(crowding=0.0, chance=(1.0, 1.0), first=(1.0, 0.0, 0.0, 0.0))
    on = np.zeros((2, 5, 4, 2))
    on[..., 1] = 1
    counts = run_crowd(sure, on, 1001).counts
    np.testing.assert_array_equal(counts, 1001 * np.eye(4, dtype=int)[[0, 1, 2, 3, 0, 1]])


def test_a_million_players():
    million = run_crowd(GAME, POLICY, 1_000_000)
    np.testing.assert_array_equal(million.counts.sum(axis=1), 1_000_000)
    assert np.abs(million.density - certified_flow(GAME, POLICY)).max() < 5 * 0.5 / 1000


# --- Against the limit


def test_the_limit_agrees_with_the_independent_certificate():
    """Flow, values and best responses in double precision against the NumPy that checks the solvers."""
    with jax.enable_x64(True):
        game = Alley(crowding=0.7)
        policy = check_policy(game, POLICY)
        flow = eqx.filter_jit(mean_flow)(game, policy)
        best, value = eqx.filter_jit(best_response)(game, flow)
        start = np.asarray(game.start(), np.float64)
        worth = eqx.filter_jit(policy_value)
        own, again = (np.asarray(worth(game, rows, flow)[:, 0]) @ start for rows in (policy, best))
    checked = account(game, POLICY)
    np.testing.assert_allclose(flow, checked.flow, atol=1e-7)
    np.testing.assert_allclose(own, checked.value, atol=1e-6)
    np.testing.assert_allclose(np.asarray(value[:, 0]) @ start, checked.best, atol=1e-6)
    np.testing.assert_allclose(again, checked.best, atol=1e-6)
    gain = deviation_gain(game, POLICY, 20, 64)
    assert abs(gain.limit - checked.exploitability) < 1e-6


@pytest.fixture(scope="module")
def laws():
    """Forty times the law of independent players, whose distance is known. Seeds 0, 10, …, 390."""
    return [crowd_law(STEADY, POLICY, [10, 100, 1000], 25, seed=seed) for seed in range(0, 400, 10)]


def test_the_constant_of_the_law_is_the_binomial_variance(laws):
    """Independent players: E Σ_s (μ̂ − μ)² = Σ_s μ(1 − μ)/N at every time, for any N. 4 standard errors."""
    flow = certified_flow(STEADY, POLICY)
    exact = np.mean(np.sum(flow * (1 - flow), axis=1)) / laws[0].players
    squares = np.array([law.distance**2 for law in laws])
    error = squares.std(axis=0, ddof=1) / np.sqrt(len(laws))
    assert np.all(np.abs(squares.mean(axis=0) - exact) < 4 * error)
    assert np.all(error < 0.03 * exact)


def test_the_interval_of_the_slope_covers_as_often_as_it_says(laws):
    """The slope is −1/2 exactly; 38 of 40 intervals should hold it, 33 or fewer have odds of one in a thousand."""
    assert sum(law.interval[0] < -0.5 < law.interval[1] for law in laws) >= 34
    assert np.mean([law.interval[1] - law.interval[0] for law in laws]) < 0.1


def test_total_variation_at_the_start_is_the_mean_absolute_deviation():
    """½ Σ_s E|μ̂_0 − μ_0| from the binomial law itself, 1000 crowds of 10. Seeds 0 … 39, 4 standard errors."""
    seen = [density_error(STEADY, POLICY, 10, 25, seed=seed) for seed in range(40)]
    first = np.array([one.by_time[0] for one in seen])
    count, start = np.arange(11), np.asarray(STEADY.start(), float)
    exact = 0.5 * sum(np.sum(binom.pmf(count, 10, p) * np.abs(count / 10 - p)) for p in start)
    assert abs(first.mean() - exact) < 4 * first.std() / np.sqrt(40) < 0.08 * exact
    assert np.all(seen[0].worst >= seen[0].variation)


class Uneven(Alley):
    """A ring in which the second kind earns more everywhere, so that kinds cannot be mistaken for one another."""

    @property
    def kinds(self):
        return jnp.array([[0.0, 1.0, 0.0, 0.5], [3.0, 2.0, 2.5, 2.0]])


def test_earnings_have_the_mean_that_the_limit_says():
    """Independent players: what one earns on average is the limit's value. 40 crowds, 4 standard errors."""
    game = Uneven(crowding=0.0)
    crowds = [run_crowd(game, POLICY, 1001, key=jax.random.key(seed)).players for seed in range(40)]
    earned = np.concatenate([crowd.earned for crowd in crowds])
    kinds = np.concatenate([crowd.plan for crowd in crowds])
    for kind, value in enumerate(account(game, POLICY).value):
        mine = earned[kinds == kind]
        assert abs(mine.mean() - value) < 4 * mine.std() / np.sqrt(mine.size)
    assert abs(np.mean(kinds == 0) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / kinds.size)


def test_the_law_of_the_crowd_where_players_move_as_others_stand():
    """Slopes of −1/2 on average, the first of them in an interval as wide as they spread. Seeds 500, 510, …, 690."""
    laws = [crowd_law(GAME, POLICY, [10, 100, 1000], 25, seed=seed) for seed in range(500, 700, 10)]
    slopes = np.array([law.slope for law in laws])
    assert abs(slopes.mean() + 0.5) < 4 * slopes.std(ddof=1) / np.sqrt(20) < 0.03
    half = np.mean([law.interval[1] - law.interval[0] for law in laws]) / 2
    assert 0.6 < half / (2 * slopes.std(ddof=1)) < 1.7
    np.testing.assert_allclose(laws[0].distance, laws[0].constant * laws[0].players ** laws[0].slope, rtol=0.15)


# --- Deviating among finitely many


def exact_gain(game, policy, deviation):
    """The gain of one of two players, of each kind, by walking through all pairs of states."""
    start, shares, discount = crowd_table(game)
    states, actions = game.states, game.actions
    kinds = shares.size

    moment = functools.cache(lambda time, pair, kind: table(game, time, np.bincount(pair, minlength=states) / 2, kind))

    def value(kind, rows, other):
        """What player 0 earns from each pair of states on, with player 1 of a given kind."""

        def density(pair):
            return np.bincount(pair, minlength=states) / 2

        pairs = list(itertools.product(range(states), repeat=2))
        after = {pair: end_table(game, density(pair), kind)[pair[0]] for pair in pairs}
        for time in reversed(range(game.horizon)):
            now = {}
            for pair in pairs:
                reward, targets, chances = moment(time, pair, kind)
                reach = np.zeros((states, actions, states))
                for s, a in itertools.product(range(states), range(actions)):
                    np.add.at(reach[s, a], targets[s, a], chances[s, a])
                mine = rows[time, pair[0]] @ reach[pair[0]]
                theirs = policy[other][time, pair[1]] @ reach[pair[1]]
                ahead = np.array([[after[x, y] for y in range(states)] for x in range(states)])
                now[pair] = rows[time, pair[0]] @ reward[pair[0]] + discount * mine @ ahead @ theirs
            after = now
        return sum(start[x] * start[y] * after[x, y] for x, y in pairs)

    return np.array(
        [
            sum(shares[o] * (value(k, deviation[k], o) - value(k, policy[k], o)) for o in range(kinds))
            for k in range(kinds)
        ]
    )


def test_the_gain_of_one_of_two_is_the_exact_one():
    """Own influence included: among two it is as large as it can be. 4000 runs, seed 3, 4 standard errors."""
    game = Alley(crowding=0.75, horizon=3, ending=4.0)
    policy = some_policy(game)
    best = np.asarray(audited(game, policy).policy[2:], float)
    exact = exact_gain(game, policy, best)
    seen = deviation_gain(game, policy, 2, 4000, seed=3)
    assert np.all(np.abs(seen.by_kind - exact) < 4 * seen.by_kind_error)
    assert np.all(seen.by_kind_error < 0.05)
    assert abs(seen.gain - game.shares @ exact) < 4 * seen.error
    # The test can tell: the limit's gain is another one.
    assert np.all(np.abs(seen.limit - exact) > 8 * seen.by_kind_error)


def test_the_gain_comes_to_that_of_the_limit():
    few, many = (deviation_gain(GAME, POLICY, players, 64, seed=4) for players in (20, 2000))
    assert abs(many.gain - many.limit) < 4 * many.error
    assert many.error < few.error / 5
    assert few.limit == many.limit


@pytest.mark.bench
def test_at_equilibrium_only_the_finite_number_is_left():
    """Among 2000 nobody gains more than a hundredth."""
    gain = deviation_gain(GAME, solve(GAME, tol=1e-4).policy, 2000, 64)
    assert gain.limit < 1e-3 and abs(gain.gain) < 0.01 + 4 * gain.error


# --- Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.__setitem__((1, 2, 3), [0.5, 0.6]),
            "kind 1, time 2, state 3: the policy's chances sum to 1.1",
        ),
        (lambda rows: rows.__setitem__((0, 1, 2), [1.5, -0.5]), "kind 0, time 1, state 2, action 1: .*-0.5"),
        (lambda rows: rows.__setitem__((0, 0, 1, 0), np.nan), "kind 0, time 0, state 1, action 0: .*nan"),
    ],
)
def test_a_policy_that_is_none_is_refused(change, message):
    rows = POLICY.copy()
    change(rows)
    with pytest.raises(InputError, match=message):
        run_crowd(GAME, rows, 10)


def test_wrong_shapes_and_numbers_are_refused():
    with pytest.raises(ValueError, match=r"shape .* = \(2, 5, 4, 2\), not \(5, 4, 2\)"):
        run_crowd(GAME, POLICY[0], 10)
    with pytest.raises(InputError, match="0 players"):
        run_crowd(GAME, POLICY, 0)
    with pytest.raises(InputError, match="1 players; a crowd has between 2"):
        deviation_gain(GAME, POLICY, 1)
    with pytest.raises(InputError, match="1 runs; a standard error"):
        deviation_gain(GAME, POLICY, 10, 1)
    with pytest.raises(InputError, match="2 sizes and 32 runs"):
        crowd_law(GAME, POLICY, [10, 100, 100])


def test_players_all_alike_need_no_axis_of_kinds():
    game = Alley(two=False)
    policy = some_policy(game)
    np.testing.assert_array_equal(check_policy(game, policy[0]), check_policy(game, policy))


# --- The other way round


ONE = Alley(two=False, ending=0.0)
ASKED = {"states": 4, "actions": 2, "players": 400, "start": [0.4, 0.3, 0.2, 0.1], "horizon": 5, "discount": 0.9}


@pytest.fixture(scope="module")
def found():
    return estimate_game(as_simulator(ONE), **ASKED, episodes=150, steps=6, key=jax.random.key(2))


def rules(game, density):
    """Rewards, and chances as one matrix per action."""
    reward, targets, chances = table(game, 0, density)
    reach = np.zeros((4, 2, 4))
    for s, a in itertools.product(range(4), range(2)):
        np.add.at(reach[s, a], targets[s, a], chances[s, a])
    return reward, reach


def test_the_rules_are_found(found):
    """Rules that are linear in the density: rewards, which are not random, exactly; chances to their errors."""
    rng = np.random.default_rng(0)
    for density in rng.dirichlet(np.ones(4), 5):
        (reward, reach), (guess, path) = rules(ONE, density), rules(found.game, density)
        np.testing.assert_allclose(guess, reward, atol=1e-4)
        np.testing.assert_allclose(path, reach, atol=0.06)
        np.testing.assert_allclose(path.sum(axis=-1), 1, atol=1e-6)
    assert found.counts.sum() == 150 * 6 * 400
    assert found.reward_rms < 1e-4
    assert abs(found.misfit - 1) < 0.1


def test_standard_errors_are_right(found):
    """Errors of the coefficients in units of their standard errors have variance one: 2 × 16 free ones."""
    base, slopes = rules(ONE, np.eye(4)[0])[1], []
    for place in range(1, 4):
        slopes.append(rules(ONE, np.eye(4)[place])[1] - base)
    exact = np.stack([base, *slopes], axis=-1)
    targets = np.asarray(found.game.targets)
    exact = np.take_along_axis(exact, targets[..., None], axis=2)
    z = ((np.asarray(found.game.chance) - exact) / found.chance_error)[:, :, 0]
    assert z.size == 32 and np.abs(z).max() < 4
    # Likely and unlikely outcomes each by themselves: 99% of chi-square with 16 degrees of freedom, over 16.
    for likely in np.moveaxis(z, 1, 0):
        assert 0.32 < np.mean(likely**2) < 2.15


def test_the_standard_error_of_a_share_is_that_of_the_binomial_law():
    """Where nothing depends on the density a chance is a share of n counts, and its error √(p(1 − p)/n), exactly."""
    steady = as_simulator(Alley(crowding=0.0, two=False, ending=0.0))
    asked = {**ASKED, "features": no_density}
    found = estimate_game(steady, **asked, episodes=3, steps=2, key=jax.random.key(5))
    share = np.asarray(found.game.chance, float)[..., 0]
    exact = np.sqrt(share * (1 - share) / found.counts[..., None])
    np.testing.assert_allclose(found.chance_error[..., 0], exact, rtol=1e-3)


def test_the_estimated_game_can_be_solved_and_its_answer_is_one_of_the_true_game(found):
    policy = solve(found.game, tol=1e-3).policy
    assert account(ONE, np.asarray(policy)).relative < 0.01


def test_too_few_features_show():
    poor = estimate_game(as_simulator(ONE), **ASKED, features=no_density, episodes=40, steps=2)
    assert poor.misfit > 1.5 and poor.reward_rms > 0.01
    half = estimate_game(as_simulator(ONE), **ASKED, features=own_cell, episodes=40, steps=2)
    assert half.reward_rms < 1e-4 < poor.reward_rms


def test_chances_stay_chances_where_the_line_leaves_them(found):
    game = eqx.tree_at(lambda game: game.chance, found.game, 3 * (found.game.chance - 0.5) + 0.5)
    chances = np.asarray(game.moves(jnp.int32(0), jnp.array([1.0, 0, 0, 0])).chances)
    assert chances.min() == 0
    np.testing.assert_allclose(chances.sum(axis=-1), 1, atol=1e-6)


def broken(change):
    fine = as_simulator(ONE)
    return lambda states, actions, key: change(*map(np.array, fine(states, actions, key)))


def set_one(array, value):
    array[3] = value
    return array


@pytest.mark.parametrize(
    ("simulator", "error", "message"),
    [
        (broken(lambda s, r: (set_one(s, 4), r)), InputError, r"state \d, action \d: .*player 3 .*not in 0 … 3: 4"),
        (
            broken(lambda s, r: (s, set_one(r, np.nan))),
            InputError,
            r"state \d, action \d: .*player 3 .*finite number: nan",
        ),
        (broken(lambda s, r: (s, r[1:])), ValueError, r"of shape \(400,\), not \(400,\) and \(399,\)"),
        (broken(lambda s, r: (s + 0.5, r)), ValueError, "next states are whole numbers"),
        (broken(lambda s, r: s), ValueError, "two arrays"),
    ],
)
def test_a_simulator_that_answers_badly_is_refused(simulator, error, message):
    with pytest.raises(error, match=message):
        estimate_game(simulator, **ASKED)


def test_what_was_never_seen_is_said():
    """Nobody ever leaves place 0 … 1, and nobody starts elsewhere."""

    def stuck(states, actions, key):
        return np.asarray(states) % 2, np.zeros(states.shape)

    asked = {**ASKED, "start": [0.5, 0.5, 0, 0]}
    with pytest.raises(InputError, match=r"state 2, action 0 was never seen \(4 of 8 pairs in 400000 moves\)"):
        estimate_game(stuck, **asked, anywhere=False)
    with pytest.raises(InputError, match="state 0, action 0: .* too few different densities to tell 4 features apart"):
        estimate_game(stuck, **ASKED, episodes=2, steps=1, features=whole_density)
    with pytest.raises(InputError, match="its sum is 0.9"):
        estimate_game(stuck, **{**ASKED, "start": [0.4, 0.3, 0.2, 0.0]})
    with pytest.raises(ValueError, match="the first feature must be 1"):
        estimate_game(stuck, **ASKED, features=lambda density: density[:, None])
