"""The built-in games: laws of their moves and rewards, closed forms, and figures of other programs."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.errors import InputError
from catallax.meanfield.certify import account, exploitability, flow
from catallax.meanfield.games import NAMED, game_named
from catallax.meanfield.games.cyber import Cybersecurity
from catallax.meanfield.games.epidemic import INFECTED, KEEP_AWAY, Epidemic
from catallax.meanfield.games.grid import STEPS, CrowdMotion, Evacuation, crowd_motion, four_rooms
from catallax.meanfield.games.linear_quadratic import LinearQuadratic, riccati
from catallax.meanfield.games.price_formation import PriceFormation
from catallax.meanfield.maps import parse_map
from catallax.meanfield.problem import end_table, table, validate

PLAN = "#######\n#E....#\n#.##..X\n#.E#..#\n#######\n"


def even(game):
    """The policy that takes every action as often."""
    shape = (game.shares.size, game.horizon, game.states, game.actions)
    return np.full(shape, 1 / game.actions)


def matrix(targets, chances):
    """Return the probabilities of next states as one dense array, (S, A, S)."""
    states, actions, _ = targets.shape
    dense = np.zeros((states, actions, states))
    for s, a in itertools.product(range(states), range(actions)):
        np.add.at(dense[s, a], targets[s, a], chances[s, a])
    return dense


def best_response(game, density):
    """Return V_0 … V_T against a crowd that does not move, and what it does, by plain backward induction."""
    values, doing = [end_table(game, density)], []
    for time in reversed(range(game.horizon)):
        reward, targets, chances = table(game, time, density)
        worth = reward + np.sum(chances * values[0][targets], axis=-1)
        values.insert(0, worth.max(axis=1))
        doing.insert(0, worth.argmax(axis=1))
    return np.stack(values), np.stack(doing)


@eqx.filter_jit
def forms(game, density, value, mass, policy):
    """Return what `expect`, `carry` and `under` make of some values and masses."""
    moves = game.moves(jnp.int32(0), density)
    chain = moves.under(policy)
    return moves.expect(value), moves.carry(mass), chain.expect(value), chain.carry(density)


def agree(game, density, random):
    """Compare all forms of a game's moves at a density with their list as a dense matrix."""
    dense = matrix(*table(game, 0, density)[1:])
    value = random.normal(size=game.states)
    mass = random.random((game.states, game.actions))
    policy = random.dirichlet(np.ones(game.actions), game.states)
    ahead, carried, worth, after = forms(game, *map(jnp.asarray, (density, value, mass, policy)))
    under = np.einsum("sa,sat->st", policy, dense)
    np.testing.assert_allclose(ahead, dense @ value, atol=1e-12)
    np.testing.assert_allclose(carried, np.einsum("sa,sat->t", mass, dense), atol=1e-12)
    np.testing.assert_allclose(worth, under @ value, atol=1e-12)
    np.testing.assert_allclose(after, density @ under, atol=1e-12)
    return dense


@pytest.mark.parametrize("name", NAMED)
def test_every_named_game_is_one(name):
    """It is valid; all forms of its moves are one linear map, in float64 (seed 1); and it keeps single precision."""
    random = np.random.default_rng(1)
    with jax.enable_x64(True):
        game = game_named(name)
        validate(game)
        agree(game, random.dirichlet(np.ones(game.states)), random)

    def single(game, density):
        return game.reward(jnp.int32(0), density, None), game.moves(jnp.int32(0), density).expect(density)

    shapes = eqx.filter_eval_shape(single, game_named(name), jnp.full(game.states, 1 / game.states))
    assert [shape.dtype for shape in shapes] == [jnp.float32] * 2


@pytest.mark.parametrize(
    ("noise", "periodic", "shielded"),
    [(0.0, False, True), (0.0, True, True), (0.3, False, False), (0.3, True, True), (1.0, False, True)],
)
def test_a_walk_is_a_step_and_a_gust(noise, periodic, shielded):
    """Seed 2: on a random map, the product of a step's and a gust's dense matrices, written cell by cell."""
    random = np.random.default_rng(2)
    free = random.random((5, 4)) < 0.7
    start = free / free.sum()
    with jax.enable_x64(True):
        game = CrowdMotion(free, start, horizon=2, noise=noise, periodic=periodic, shielded=shielded)
        validate(game)
        found = agree(game, start.reshape(-1), random)
    step, gust = np.zeros((20, 5, 20)), np.zeros((20, 20))
    for i, j in itertools.product(range(5), range(4)):
        ends = []
        for down, right in STEPS:
            row, column = i + down, j + right
            inside = periodic or (0 <= row < 5 and 0 <= column < 4)
            ends.append((row % 5, column % 4) if inside and free[i, j] and free[row % 5, column % 4] else None)
        ends[0] = (i, j)
        count = sum(end is not None for end in ends) if shielded else 5
        here = i * 4 + j
        gust[here, here] += 1 - noise
        for action, end in enumerate(ends):
            there = here if end is None else end[0] * 4 + end[1]
            step[here, action, there] = 1
            if end is not None or not shielded:
                gust[here, there] += noise / count
    np.testing.assert_allclose(found, step @ gust, atol=1e-12)
    np.testing.assert_array_equal(found[~free.reshape(-1)].sum(axis=1)[:, ~free.reshape(-1)].sum(axis=1), 5.0)


@pytest.mark.parametrize(
    ("options", "figure"),
    [
        ({}, 167.6604464714278),
        ({"horizon": 41}, 171.32529207499354),
        ({"noise": 0.0}, 383.1071459094305),
    ],
)
def test_four_rooms_are_those_of_openspiel(options, figure):
    """OpenSpiel 2.0.2, `mfg_crowd_modelling_2d` with the setting `crowd_modelling_2d_four_rooms`.

    The figure is its NashConv of its uniform policy, which is uniform over the steps that no wall blocks.
    """
    with jax.enable_x64(True):
        game = four_rooms(**options)
        policy = np.asarray(game.legal_policy())
    assert exploitability(game, policy) == pytest.approx(figure, rel=1e-12)


def test_four_rooms_of_other_sizes():
    for size in (7, 12, 25):
        game = four_rooms(size)
        free = np.asarray(game.free).reshape(size, size)
        assert free.sum() == (size - 3) ** 2 - 0 + 4
        assert game.horizon == round(40 * size / 13)
    with pytest.raises(ValueError, match="at least 7"):
        four_rooms(6)


def test_crowd_motion_is_that_of_mfglib():
    """MFGLib 0.3.0's `crowd_motion`, from its definition: a step or none, a second one by chance, both cut at walls."""
    with jax.enable_x64(True):
        game = crowd_motion(4, 5, horizon=2, bars=[(2, 2), (1, 3)])
        density = np.random.default_rng(4).dirichlet(np.ones(20))
        for time, bar in enumerate([(2, 2), (1, 3)]):
            reward, targets, chances = table(game, time, density)
            dense = matrix(targets, chances)
            for i, j, action in itertools.product(range(4), range(5), range(5)):
                expected = np.zeros((4, 5))
                for gust, (down, right) in enumerate(STEPS):
                    # Cutting each step at the wall, not their sum: they differ where a step is undone by a gust.
                    row = np.clip(np.clip(i + STEPS[action][0], 0, 3) + down, 0, 3)
                    column = np.clip(np.clip(j + STEPS[action][1], 0, 4) + right, 0, 4)
                    expected[row, column] += 0.5 if gust == 0 else 0.125
                np.testing.assert_allclose(dense[i * 5 + j, action], expected.reshape(-1), atol=1e-12)
                far = abs(i - bar[0]) + abs(j - bar[1])
                earned = 10 * (1 - far / 9) - np.log(density[i * 5 + j] + 1e-10)
                assert reward[i * 5 + j, action] == pytest.approx(earned, rel=1e-12)
    with pytest.raises(ValueError, match="3 places of the bar for 2"):
        crowd_motion(horizon=2, bars=[(1, 1)] * 3)


def test_grids_refuse_what_does_not_fit():
    free = np.ones((3, 4), bool)
    with pytest.raises(ValueError, match="first density has shape"):
        CrowdMotion(free, np.ones((4, 3)) / 12, horizon=2)
    with pytest.raises(ValueError, match="attraction is"):
        CrowdMotion(free, free / 12, horizon=2, attraction=np.ones((3, 3, 4)))
    with pytest.raises(InputError, match="negative"):
        validate(CrowdMotion(free, free / 12, horizon=2, noise=-0.5))
    with pytest.raises(InputError, match="sums to 2"):
        validate(CrowdMotion(free, free / 6, horizon=2))


def test_alone_in_a_building_one_takes_the_shortest_way():
    """Without company and wind the best response costs the distance to the exit, from every free cell."""
    plan = parse_map(PLAN)
    with jax.enable_x64(True):
        game = Evacuation(plan, crowding=0.0)
        assert game.horizon == 18  # twice the nine steps from the entry that is farther
        values, _ = best_response(game, np.full(game.states, 1 / game.states))
        np.testing.assert_allclose(-values[0][plan.free.reshape(-1)], plan.distance[plan.free], atol=1e-12)
        dear = Evacuation(plan, crowding=0.0, effort=0.5, late=3.0, horizon=3)
        values, _ = best_response(dear, np.full(game.states, 1 / game.states))
    distance = plan.distance[plan.free]
    # Who cannot get out within the horizon of three stays where it is, and is late.
    cost = np.where(distance <= 3, 1.5 * distance, 3 + 3.0)
    np.testing.assert_allclose(-values[0][plan.free.reshape(-1)], cost, atol=1e-12)


def test_who_is_out_stays_out_and_pays_nothing():
    with jax.enable_x64(True):
        plan = parse_map(PLAN)
        game = Evacuation(plan, noise=0.7, crowding=2.0)
        density = np.random.default_rng(6).dirichlet(np.ones(game.states))
        reward, targets, chances = table(game, 0, density)
    out, dense = plan.exits.reshape(-1), matrix(targets, chances)
    assert np.all(reward[out] == 0) and np.all(dense[out][:, :, out] == 1)
    inside = plan.free.reshape(-1) & ~out
    expected = 1 + 2.0 * plan.free.sum() * density[inside]
    np.testing.assert_allclose(reward[inside], np.repeat(-expected[:, None], 5, axis=1), rtol=1e-12)


@pytest.mark.parametrize("name", ["four_rooms", "crowd_motion", "congestion", "price_formation"])
def test_games_that_are_called_monotone_are(name):
    """Seed 7: Σ (r(μ) − r(μ'))(μ − μ') ≤ 0 at 20 pairs of densities, and strictly for some."""
    random = np.random.default_rng(7)
    with jax.enable_x64(True):
        game = game_named(name)
        free = np.asarray(getattr(game, "free", np.ones(game.states, bool)))
        sums = []
        for _ in range(20):
            one, other = random.dirichlet(np.ones(game.states), 2) * free
            change = table(game, 0, one)[0] - table(game, 0, other)[0]
            sums.append(float(np.max(change, axis=1) @ (one - other)))
    assert max(sums) <= 1e-12 and min(sums) < -1e-4


def test_who_keeps_away_is_not_infected():
    """If all keep away the infected fall by the recovery each step; if all go out, as x ← 0.7x + 0.81x(1 − x)."""
    game = Epidemic(horizon=12)
    away, out = (np.zeros((1, 12, 2, 2)) for _ in range(2))
    away[..., KEEP_AWAY], out[..., 1 - KEEP_AWAY] = 1, 1
    np.testing.assert_allclose(flow(game, away)[:, INFECTED], 0.6 * 0.7 ** np.arange(13), rtol=1e-6)
    x = [0.6]
    for _ in range(12):
        x.append(0.7 * x[-1] + 0.81 * x[-1] * (1 - x[-1]))
    np.testing.assert_allclose(flow(game, out)[:, INFECTED], x, rtol=1e-6)
    reward = table(game, 3, np.array([0.5, 0.5]))[0]
    np.testing.assert_allclose(reward, [[0, -0.5], [-1, -1.5]], rtol=1e-6)


def test_parameters_can_be_mapped_over():
    density, out = jnp.asarray([0.5, 0.5]), jnp.asarray([[1.0, 0.0], [0.0, 0.0]])

    @jax.jit
    @jax.vmap
    def both(x):
        infected = Epidemic(contagion=x).moves(jnp.int32(0), density).carry(out)[INFECTED]
        return infected, four_rooms(7, aversion=x).reward(jnp.int32(0), jnp.full(49, 1 / 49), None)[8, 0]

    infected, cost = both(jnp.asarray([0.2, 0.8]))
    np.testing.assert_allclose(infected, [0.1, 0.4], rtol=1e-6)
    np.testing.assert_allclose(cost, np.log(49) * np.array([0.2, 0.8]), rtol=1e-5)


def test_cybersecurity_follows_its_rates():
    """Entry by entry at one density; and infections die out where nobody attacks and none spreads."""
    with jax.enable_x64(True):
        game = Cybersecurity(spread=((0.3, 0.4), (0.2, 0.6)))
        reward, targets, chances = table(game, 0, np.array([0.1, 0.2, 0.3, 0.4]))
        calm = Cybersecurity(attack=0.0, spread=((0.0, 0.0), (0.0, 0.0)), recovery=(0.5, 0.5), horizon=20)
        path = flow(calm, even(calm))
    defended = 0.25 * (0.6 * 0.4 + 0.3 * 0.1 + 0.2 * 0.3)
    exposed = 0.25 * (0.6 * 0.5 + 0.4 * 0.1 + 0.6 * 0.3)
    rates = np.array([[0, 0.125, 0, 0], [defended, 0, 0, 0], [0, 0, 0, 0.1], [0, 0, exposed, 0]])
    switch = 0.2 * np.eye(4)[[2, 3, 0, 1]]
    expected = np.stack([rates, rates + switch], axis=1)
    expected += (1 - expected.sum(axis=-1))[:, :, None] * np.eye(4)[:, None, :]
    np.testing.assert_allclose(matrix(targets, chances), expected, atol=1e-12)
    np.testing.assert_allclose(reward, -0.25 * np.array([[1.1] * 2, [0.3] * 2, [0.8] * 2, [0.0] * 2]), atol=1e-12)
    np.testing.assert_allclose(path[:, 0] + path[:, 2], 0.5 * (1 - 0.125) ** np.arange(21), rtol=1e-12)
    with pytest.raises(InputError, match=r"probability 1\.7"):
        Cybersecurity(step=1.0)


def test_linear_quadratic_converges_to_its_closed_form():
    """Halving the grids of places and controls divides the error of V_0 near the mean by four, or about that."""
    errors = []
    with jax.enable_x64(True):
        for fine in (1, 2, 4):
            game = LinearQuadratic(
                np.linspace(-3, 3, 40 * fine + 1),
                np.linspace(-3, 3, 40 * fine + 1),
                jumps=[-0.6, 0.6],
                weights=[1, 1],
                step=0.25,
                reversion=0.5,
                tilt=0.2,
                spread=0.7,
                last=1.2,
                horizon=6,
            )
            x = np.asarray(game.places)
            values, doing = best_response(game, np.asarray(game.start()))
            exact = riccati(game)
            near = np.abs(x) < 0.5
            errors.append(np.max(np.abs(values[0] + exact.curvature[0] * x**2 / 2 + exact.offset[0])[near]))
            control = np.asarray(game.controls)[doing[0]]
            assert np.max(np.abs(control + exact.gain[0] * x)[near]) < 6 / (40 * fine)
            if fine == 1:
                # The crowd that answers so keeps its mean, and nobody gains by another answer.
                policy = np.eye(game.actions)[doing][None]
                assert np.abs(flow(game, policy) @ x).max() < 1e-12
                assert abs(exploitability(game, policy)) < 1e-12
    assert errors[0] < 0.05 and errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors


def test_the_closed_form_is_a_fixed_point_of_bellman():
    """Against a thousand controls in steps of 1e-4 around the best, at x = 0.7 and −0.7, one step from the end."""
    game = LinearQuadratic(jumps=[-1.0, 1.0], weights=[1, 1], horizon=1, step=0.1, tilt=0.3)
    exact = riccati(game)
    for x in (0.7, -0.7):
        a = -exact.gain[0] * x + 1e-4 * np.arange(-500, 501)
        after = x - 0.1 * x + 0.1 * a
        worth = 0.1 * (-0.5 * a**2 - 0.3 * a * x - 0.25 * x**2) - 0.5 * (after**2 + 0.1)
        assert np.argmax(worth) == 500
        assert worth.max() == pytest.approx(-exact.curvature[0] * x**2 / 2 - exact.offset[0], rel=1e-6)


def test_linear_quadratic_of_the_literature_moves_to_the_nearest_place():
    """Entry by entry at a mean that is not zero (seed 8), and at zero where ties go up whatever the rounding."""
    density = np.random.default_rng(8).dirichlet(np.ones(11))
    with jax.enable_x64(True):
        game = LinearQuadratic(between=False)
        reward, targets, chances = table(game, 0, density)
        mean = density @ np.arange(-5, 6)
        weights = np.exp(-0.5 * (3.0 * np.arange(-3, 4)) ** 2)
        np.testing.assert_allclose(chances[0, 0], weights / weights.sum(), rtol=1e-6)
        for s, a, j in itertools.product(range(-5, 6), range(-2, 3), range(-3, 4)):
            there = np.clip(round(s + 0.1 * (mean - s + a) + 9 * j * np.sqrt(0.1)), -5, 5)
            assert targets[s + 5, a + 2, j + 3] == there + 5
            assert reward[s + 5, a + 2] == pytest.approx(
                0.1 * (-0.5 * a**2 + 0.01 * a * (mean - s) - 0.25 * (mean - s) ** 2), rel=1e-5
            )
        np.testing.assert_allclose(end_table(game, density), -0.5 * (mean - np.arange(-5, 6)) ** 2, rtol=1e-6)
        level = np.full(11, 1 / 11)
        for tilt in (1e-15, -1e-15):
            tilted = level + tilt * np.arange(-5, 6)
            assert np.array_equal(table(game, 0, level)[1], table(game, 0, tilted)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": [0, 1, 3]}, "equal steps"),
        ({"jumps": [1.0]}, "together"),
        ({"jumps": [1.0, 2.0], "weights": [1.0]}, "2 values of the noise and 1 weights"),
    ],
)
def test_linear_quadratic_refuses_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        LinearQuadratic(**options)


def test_the_price_clears_the_orders():
    """Seed 9: at the price, what the outside supplies is what traders order; and orders move the stock."""
    with jax.enable_x64(True):
        game = PriceFormation(slope=0.7)
        density = np.random.default_rng(9).dirichlet(np.ones(game.states))
        orders = np.tile(np.arange(-2, 3), 9)
        stock = np.repeat(np.arange(9), 5)
        for time in (0, 13):
            price = float(game.price(jnp.int32(time), jnp.asarray(density)))
            supplied = (price - float(game.levels[time])) / 0.7
            assert supplied == pytest.approx(density @ orders, abs=1e-12)
            reward, targets, _ = table(game, time, density)
            paid = price * orders + 0.05 * orders**2 + 0.005 * (stock - 4) ** 2
            np.testing.assert_allclose(reward, np.repeat(-paid[:, None], 5, axis=1), atol=1e-6)
            after, order = stock[targets[..., 0]], orders[targets[..., 0]]
            assert np.array_equal(after, stock[:, None] + order)
            wanted = stock[:, None] + np.arange(-2, 3)
            assert np.array_equal(after, np.clip(wanted, 0, 8))


def test_a_small_trader_earns_every_rise_of_the_price():
    """With room for one unit, no costs and no influence, the best response buys before each rise and sells after."""
    levels = np.array([1.0, 0.4, 0.9, 0.7, 0.2, 0.8, 0.5])
    with jax.enable_x64(True):
        game = PriceFormation(
            levels, capacity=1, largest=1, slope=0.0, friction=0.0, storage=0.0, worth=0.0, begin=[1.0, 0.0]
        )
        found = account(game, even(game)).best[0]
    assert found == pytest.approx(np.maximum(np.diff(levels[1:]), 0).sum(), rel=1e-12)


def test_price_formation_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="do not fit a store of 1"):
        PriceFormation(capacity=1, largest=2)
    with pytest.raises(InputError, match="has 3 entries; inventories 0 to 8"):
        PriceFormation(begin=[0.5, 0.5, 0.0])
    with pytest.raises(InputError, match="the horizon is 3, and there are 2 levels"):
        PriceFormation([1.0, 2.0], horizon=3)
    assert PriceFormation(horizon=24).horizon == 24


def test_games_are_found_by_name():
    assert game_named("four-rooms", size=9).states == 81
    with pytest.raises(InputError, match="no game 'four_room'; did you mean 'four_rooms'"):
        game_named("four_room")
