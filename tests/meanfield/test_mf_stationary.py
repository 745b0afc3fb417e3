"""Stationary games: by hand, against enumeration and dense algebra, under the contract, and honest about failure."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import Status
from catallax.errors import InputError
from catallax.meanfield.games.stationary import Places, stationary_rooms
from catallax.meanfield.moves import Dense
from catallax.meanfield.problem import Listed, cast
from catallax.meanfield.stationary import AbstractStationaryGame, rest_table, validate_stationary
from catallax.meanfield.stationary_certify import account_stationary, certify_stationary, rest
from catallax.meanfield.stationary_solve import (
    STATIONARY_LAWS,
    first_standing,
    iterate_stationary,
    solve_stationary,
)
from catallax.testing import check_conservation, check_locality, check_permutation, check_system


class Web(AbstractStationaryGame):
    """Any chances and rewards, less the density; if caught, moves are drawn to where the crowd is."""

    chances: jax.Array
    pay: jax.Array
    caught: float = 0.0
    discount: float = 0.8

    @property
    def states(self):
        return self.pay.shape[0]

    @property
    def actions(self):
        return self.pay.shape[1]

    def moves(self, density):
        drawn = jnp.broadcast_to(density, self.chances.shape)
        return Dense((1 - self.caught) * self.chances.astype(density.dtype) + self.caught * drawn)

    def reward(self, density, kind):
        return self.pay.astype(density.dtype) - density[:, None]


def web(seed, states=4, actions=2, caught=0.0):
    draw = np.random.default_rng(seed)
    with jax.enable_x64(True):
        chances = jnp.asarray(draw.dirichlet(np.ones(states), (states, actions)))
        return Web(chances, jnp.asarray(draw.normal(size=(states, actions))), caught)


def values(answer):
    return {one.name: one.value for one in answer.certificates}


@pytest.fixture(scope="module")
def rooms():
    return solve_stationary(stationary_rooms(), tol=1e-6)


def test_places_by_hand():
    # Everywhere price × density is the same, so that densities are as one over the price.
    answer = solve_stationary(Places([1.0, 2.0, 4.0]), tol=1e-7)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.density, np.array([4, 2, 1]) / 7, atol=1e-5)
    np.testing.assert_allclose(answer.policy[0], np.tile(answer.density, (3, 1)), atol=1e-5)
    np.testing.assert_allclose(answer.value, -4 / 7 / (1 - 0.9), atol=1e-5)


def test_two_kinds_by_hand():
    # The first kind, a quarter of all, likes place 0 in any case; the second is indifferent at μ₀ − μ₁ = 0.3.
    answer = solve_stationary(Places([1.0, 1.0], [[2.0, 0.0], [0.3, 0.0]], [0.25, 0.75]), tol=1e-8)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.density, [0.65, 0.35], atol=1e-6)
    np.testing.assert_allclose(answer.mass, [[1, 0], [0.4 / 0.75, 0.35 / 0.75]], atol=1e-6)
    np.testing.assert_allclose(answer.value, [13.5, -3.5], atol=1e-5)


def test_the_fast_law_reaches_a_millionth_of_the_reward_range_in_rooms(rooms):
    assert rooms.status == Status.SETTLED and rooms.rounds < 400
    assert values(rooms)["exploitability"] <= 1e-6 and values(rooms)["rest"] <= 1e-6
    assert not np.any(rooms.mass[0][~np.asarray(rooms.game.free)])
    # Moves are quick enough for every place to be as good as any other.
    weights = np.exp(np.asarray(rooms.game.attraction, np.float64)) * np.asarray(rooms.game.free)
    np.testing.assert_allclose(rooms.density, weights / weights.sum(), atol=1e-5)
    rounds, errors = rooms.history
    assert rounds.size == rooms.rounds and errors[-1] <= 1e-6


@pytest.mark.bench
def test_mirror_descent_comes_to_the_same_rest(rooms):
    slow = solve_stationary(stationary_rooms(), law="mirror-descent")
    assert slow.status == Status.SETTLED
    np.testing.assert_allclose(slow.density, rooms.density, atol=1e-5)


@pytest.mark.bench
def test_the_damped_fixed_point_rests_as_near_as_its_temperature_allows(rooms):
    # A rest with a temperature is no equilibrium, and so never settles at a small tolerance.
    away, options = [], {"law": "damped", "damping": 0.1, "max_rounds": 2000}
    for temperature in (0.5, 0.25):
        rested = solve_stationary(stationary_rooms(), temperature=temperature, **options)
        assert rested.status == Status.OUT_OF_ROUNDS
        away.append(np.abs(rested.density - rooms.density).max())
    assert away[1] < 0.75 * away[0] < 0.04


@pytest.mark.bench
def test_a_sweep_a_round_comes_to_the_same_rest(rooms):
    slow = solve_stationary(stationary_rooms(), sweeps=1, rate=0.02, law="mirror-descent", tol=1e-5)
    assert slow.status == Status.SETTLED
    np.testing.assert_allclose(slow.density, rooms.density, atol=5e-5)


def test_moves_that_depend_on_the_density():
    answer = solve_stationary(web(5, caught=0.3), tol=1e-7)
    assert answer.status == Status.SETTLED
    # The certificate finds the density of the policy by itself, and it is the same one.
    alone = certify_stationary(answer.game, answer.policy, tol=1e-6)
    assert all(one.holds for one in alone)
    np.testing.assert_allclose(rest(answer.game, answer.policy), answer.mass, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_exploitability_is_that_of_the_best_of_all_pure_policies(seed):
    game = web(seed)
    draw = np.random.default_rng(10 + seed)
    policy, mass = draw.dirichlet(np.ones(2), (1, 4)), draw.dirichlet(np.ones(4), 1)
    chances = np.asarray(game.chances)
    reward = np.asarray(game.pay) - mass[0][:, None]

    def worth(rows):
        chain = np.einsum("sa,sat->st", rows, chances)
        return np.linalg.solve(np.eye(4) - 0.8 * chain, np.sum(rows * reward, axis=1)), chain

    own, chain = worth(policy[0])
    pure = [worth(np.eye(2)[list(choice)])[0] for choice in itertools.product(range(2), repeat=4)]
    found = account_stationary(game, policy, mass)
    np.testing.assert_allclose(found.value[0], mass[0] @ own, rtol=1e-12)
    np.testing.assert_allclose(found.best[0], mass[0] @ np.max(pure, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.drift[0], np.abs(mass[0] @ chain - mass[0]).sum(), rtol=1e-12)
    np.testing.assert_allclose(found.reach[0], (reward.max() - reward.min()) / 0.2, rtol=1e-12)


def test_rest_is_the_left_eigenvector_and_periods_do_not_matter():
    game, policy = web(3), np.full((1, 4, 2), 0.5)
    found = rest(game, policy)[0]
    chain = np.asarray(game.chances).mean(axis=1)
    np.testing.assert_allclose(found @ chain, found, atol=1e-12)
    # Two places that swap: the density would swap for ever.
    swap = Web(jnp.asarray([[[0.0, 1.0]], [[1.0, 0.0]]]), jnp.asarray([[1.0], [0.0]]))
    swap = eqx.tree_at(lambda one: one.discount, swap, 0.5)
    answer = solve_stationary(swap, tol=1e-9)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.density, 0.5, atol=1e-9)
    np.testing.assert_allclose(rest(swap, np.ones((1, 2, 1))), 0.5)


def test_what_a_round_measures_is_what_the_certificate_says():
    with jax.enable_x64(True):
        game = cast(web(4), jnp.float64)
        run = eqx.filter_jit(lambda game, rounds: iterate_stationary(game, rounds, "mirror-descent", tol=1e-10))
        policy, mass, errors = run(game, 4)
        _, _, longer = run(game, 5)
    found = account_stationary(game, np.asarray(policy), np.asarray(mass))
    np.testing.assert_allclose(longer[:4], errors, rtol=1e-9)
    np.testing.assert_allclose(longer[4], found.relative, rtol=1e-7)


def test_a_policy_is_worth_what_its_actions_are():
    with jax.enable_x64(True):
        system, state = first_standing(cast(web(4), jnp.float64), "mirror-descent", tol=1e-10, sweeps=2000)
        agent = jax.tree.map(lambda leaf: leaf[0], state.agents)
        moves, reward, span = system.faced(agent, state.signal.density)
        worth, actions = system.valued(agent, moves, reward, span)
        np.testing.assert_allclose(jnp.sum(agent.policy * actions, axis=0), worth[0], rtol=1e-8)


def test_a_bad_answer_does_not_pass(rooms):
    game, policy, mass = rooms.game, rooms.policy, rooms.mass
    assert all(one.holds for one in certify_stationary(game, policy, mass))
    even, there = np.full_like(policy, 0.2), np.full_like(mass, 1 / 121)
    held = {one.name: one.holds for one in certify_stationary(game, policy, there)}
    assert not held["exploitability"] and not held["rest"] and held["mass"]
    held = {one.name: one.holds for one in certify_stationary(game, even)}
    assert not held["exploitability"] and held["rest"]
    held = {one.name: one.holds for one in certify_stationary(game, 1.1 * policy, 0.9 * mass)}
    assert not held["policy"] and not held["mass"]
    with pytest.raises(ValueError, match="the policy has shape"):
        certify_stationary(game, policy[0])
    with pytest.raises(ValueError, match="the densities have shape"):
        account_stationary(game, policy, mass[0])


def test_too_few_rounds_is_said():
    answer = solve_stationary(Places([1.0, 2.0, 4.0]), max_rounds=2)
    assert answer.status == Status.OUT_OF_ROUNDS and answer.rounds == 2
    with pytest.raises(ValueError, match="no law of motion"):
        solve_stationary(Places([1.0, 2.0]), law="walras")


def everybody(state):
    return jnp.sum(state.signal.density)


@pytest.mark.bench
@pytest.mark.parametrize("law", STATIONARY_LAWS)
def test_conformance(law):
    worths = np.random.default_rng(8).random((7, 3))
    with jax.enable_x64(True):
        system, state = first_standing(Places([1.0, 2.0, 3.0], worths), law, tol=1e-4)
        # Sweeps end when they are close enough, and so have no reverse mode.
        options = {"conserves": {"mass": everybody}, "differentiable": False, "rounds": 3}
        check_system(system, state, key=jax.random.key(5), **options)


def test_kinds_are_local_have_no_order_and_keep_their_mass():
    worths = np.random.default_rng(8).random((7, 3))
    system, state = first_standing(Places([1.0, 2.0, 3.0], worths), tol=1e-4, sweeps=1)
    key = jax.random.key(0)
    check_locality(system, state, key=key)
    check_permutation(system, state, key=key)
    check_conservation(system, state, key=key, conserves={"mass": everybody}, rounds=8)


def test_rooms_are_those_of_the_peer():
    # Two steps into a door, one across a wall's end, and none where the sum of step and gust ends in a wall.
    game = stationary_rooms(pull=0.0)
    reward, targets, chances = rest_table(game, np.full(121, 1 / 121))

    def to(cell, action, end):
        there = targets[cell[0] * 11 + cell[1], action] == end[0] * 11 + end[1]
        return np.sum(chances[cell[0] * 11 + cell[1], action] * there)

    east, stay = 4, 0
    assert to((2, 4), east, (2, 6)) == pytest.approx(0.2)
    assert to((2, 4), east, (2, 5)) == pytest.approx(0.2)
    assert to((0, 4), east, (0, 6)) == pytest.approx(0.2)
    assert to((0, 4), east, (0, 4)) == pytest.approx(0.8)
    assert [to((0, 0), stay, end) for end in ((0, 0), (0, 1), (1, 0))] == pytest.approx([0.6, 0.2, 0.2])
    np.testing.assert_allclose(reward[0], np.log(121), rtol=1e-12)
    # Steps are symmetric, so that even chances keep an even density, from which nobody gains.
    assert account_stationary(game, np.full((1, 121, 5), 0.2)).exploitability == pytest.approx(0, abs=1e-9)


class Faulty(Places):
    """What users may get wrong."""

    fault: str = eqx.field(static=True, default="")

    def __init__(self, fault):
        super().__init__([1.0, 2.0])
        self.fault = fault
        self.discount = 1.0 if fault == "discount" else 0.9

    def start(self):
        return jnp.asarray([1.5, -0.5]) if self.fault == "start" else jnp.asarray([0.5, 0.5])

    def moves(self, density):
        chance = 0.7 if self.fault == "sum" else -1.0 if self.fault == "sign" else 1.0
        end = 2 if self.fault == "target" else 1
        targets = jnp.asarray([[[0], [1]], [[0], [end]]], jnp.int32)
        return Listed(targets, jnp.asarray([[[1.0], [1.0]], [[1.0], [chance]]], density.dtype))

    def reward(self, density, kind):
        return super().reward(density, kind).at[1, 0].set(jnp.nan if self.fault == "nan" else 0.0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("discount", "the discount is 1.0"),
        ("start", "the first density is -0.5 at state 1"),
        ("sum", "state 1, action 1: the probabilities of its moves sum to 0.7"),
        ("sign", "state 1, action 1: a move has probability -1"),
        ("target", "state 1, action 1: moves to 2, and states are 0 to 1"),
        ("nan", "state 1, action 0: the reward is nan"),
    ],
)
def test_what_is_no_game_is_refused(fault, said):
    with pytest.raises(InputError, match=said):
        validate_stationary(Faulty(fault))


class Brittle(Places):
    """Places of which the first earns no number once it holds three quarters of the crowd."""

    def reward(self, density, kind):
        return jnp.where(density[0] > 0.75, jnp.nan, super().reward(density, kind))


def test_a_reward_that_is_no_number_on_the_way_is_told_where():
    # The crowd would rest at 0.8 and 0.2, and begins at one half.
    with pytest.raises(InputError, match="state 0, action 0: the reward is nan"):
        solve_stationary(Brittle([1.0, 4.0]))


@pytest.mark.bench
def test_iterate_under_vmap_is_a_loop_over_games():
    prices, discounts = jnp.asarray([[1.0, 2.0], [1.0, 4.0]]), jnp.asarray([0.9, 0.5])

    def of(price, discount):
        game = eqx.tree_at(lambda one: (one.price, one.discount), Places([1.0, 1.0]), (price, discount))
        return iterate_stationary(game, 30, "mirror-descent", tol=1e-4)

    with jax.enable_x64(True):
        prices, discounts = prices.astype(float), discounts.astype(float)
        together = jax.jit(jax.vmap(of))(prices, discounts)
        for place in range(2):
            for whole, one in zip(together, jax.jit(of)(prices[place], discounts[place]), strict=True):
                np.testing.assert_allclose(whole[place], one, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(together[1][:, 0], [[2 / 3, 1 / 3], [0.8, 0.2]], atol=1e-3)
