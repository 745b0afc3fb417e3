"""Common noise: exact on the tree of shocks, the plain game without it, and by hand and by enumeration with it."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import Status
from catallax.errors import InputError
from catallax.meanfield import common_noise
from catallax.meanfield.certify import account, flow
from catallax.meanfield.common_noise import Branching, CommonNoise
from catallax.meanfield.crowd import run_crowd
from catallax.meanfield.games.simple import BeachBar, closing_bar
from catallax.meanfield.problem import AbstractGame, Listed, table, validate
from catallax.meanfield.rules import public
from catallax.meanfield.solve import solve

RAIN = np.array([[0.7, 0.3], [0.4, 0.6]])


class Quarters(AbstractGame):
    """Two kinds choose a quarter once, after a shock that all see; the second quarter costs what the shock says."""

    price: jax.Array
    taste: jax.Array
    states: int = eqx.field(static=True, default=3)
    actions: int = eqx.field(static=True, default=2)
    horizon: int = eqx.field(static=True, default=2)

    def start(self):
        return jnp.asarray([1.0, 0.0, 0.0])

    def moves(self, time, density):
        targets = jnp.broadcast_to(jnp.arange(1, 3), (3, 2))[:, :, None]
        return Listed(targets, jnp.ones((3, 2, 1), density.dtype))

    def reward(self, time, density, kind):
        first = jnp.asarray([0.0, 1.0, 0.0], density.dtype)
        second = jnp.asarray([0.0, 0.0, 1.0], density.dtype)
        earned = -density * (first + self.price * second) + kind * first
        return jnp.broadcast_to(earned[:, None], (3, 2))

    @property
    def kinds(self):
        return self.taste

    @property
    def shares(self):
        return jnp.asarray([0.25, 0.75])


def quarters(price):
    return Quarters(jnp.asarray(price), jnp.asarray([0.0, 0.0]))


@pytest.fixture(scope="module")
def bar():
    game = CommonNoise([BeachBar(3, 2, 0, pull=2.0), BeachBar(3, 2, 2, pull=1.0)], RAIN, [0.25, 0.75])
    policy = np.random.default_rng(2).dirichlet(np.ones(3), (1, 2, game.states))
    return game, policy


def test_two_prices_by_hand():
    # Who knows the price before it chooses: μ₁ = price·μ₂. With price 1 a half goes to the first quarter, with price 3
    # three quarters; the price at time 1 is that of time 0, or would be known too late.
    game = CommonNoise([quarters(1.0), quarters(3.0)], np.eye(2), [0.4, 0.6])
    answer = solve(game, tol=1e-8)
    assert answer.status == Status.SETTLED
    for shock, (share, value) in enumerate([(1 / 2, -1 / 2), (3 / 4, -3 / 4)]):
        density = game.density_along(answer.flow, [shock] * 3)
        np.testing.assert_allclose(density[1], [0, share, 1 - share], atol=1e-5)
        assert value == -share
    np.testing.assert_allclose(answer.value, -(0.4 * 1 / 2 + 0.6 * 3 / 4), atol=1e-5)


def test_without_noise_it_is_the_plain_game(bar):
    plain = BeachBar(3, 2, 1)
    game = CommonNoise([plain], [[1.0]])
    assert game.nodes == 1
    policy = bar[1][:, :, :3]
    alone, noisy = account(plain, policy), account(game, policy)
    np.testing.assert_allclose(noisy.flow, alone.flow, rtol=1e-12)
    for name in ("value", "best", "reach"):
        np.testing.assert_allclose(getattr(noisy, name), getattr(alone, name), rtol=1e-12)
    # Nor does a shock that changes nothing.
    same = CommonNoise([plain, plain], RAIN, [0.5, 0.5])
    twice = np.tile(policy.reshape(1, 2, 1, 3, 3), (1, 1, same.nodes, 1, 1)).reshape(1, 2, -1, 3)
    noisy = account(same, twice)
    np.testing.assert_allclose([noisy.value, noisy.best], [alone.value, alone.best], rtol=1e-6)
    np.testing.assert_allclose(same.density_along(noisy.flow, [0, 1, 0]), alone.flow, rtol=1e-6)


def test_densities_and_values_are_those_of_every_history_by_itself(bar):
    game, policy = bar
    found = account(game, policy)
    sequences, chances = game.histories()
    every = [list(one) for one in itertools.product(range(2), repeat=3)]
    assert sorted(sequences.tolist()) == every
    by_hand = [[0.25, 0.75][a] * RAIN[a, b] * RAIN[b, c] for a, b, c in sequences]
    np.testing.assert_allclose(chances, by_hand, rtol=1e-6)
    value = 0.0
    for history, chance in zip(sequences, chances, strict=True):
        known = game.given(history)
        own = game.policy_along(policy, history)
        along = flow(known, own)
        np.testing.assert_allclose(game.density_along(found.flow, history), along, rtol=1e-5)
        value += chance * account(known, own).value[0]
    np.testing.assert_allclose(found.value[0], value, rtol=1e-6)


def test_the_best_response_is_the_best_of_all_that_see_the_same_history():
    # One place to be and another to stay in for two decisions: 2^(nodes · states) pure policies, enumerated.
    game = CommonNoise([quarters(1.0), quarters(3.0)], RAIN, [0.5, 0.5])
    policy = np.random.default_rng(3).dirichlet(np.ones(2), (2, 2, game.states))
    found = account(game, policy)
    sequences, chances = game.histories()
    # Only the first decision counts, in state 0, and it knows z_0: two choices after each of two shocks.
    values = np.zeros((2, 2))
    for history, chance in zip(sequences, chances, strict=True):
        density = game.density_along(found.flow, history)
        reward = [[table(game.given(history), time, density[time])[0] for time in range(2)]][0]
        for choice in range(2):
            values[history[0], choice] += chance * (reward[0][0, 0] + reward[1][1 + choice, 0])
    np.testing.assert_allclose(found.best, values.max(axis=1).sum(), rtol=1e-5)


def test_a_bar_that_closes_has_one_history_for_each_time():
    game = closing_bar(5, 4, 2, closes=0.2)
    assert game.nodes == 5
    sequences, chances = game.histories()
    assert len(sequences) == 5 and chances.sum() == pytest.approx(1)
    assert all(np.all(np.diff(one) >= 0) for one in sequences)
    open_throughout = chances[[one.tolist() == [0] * 5 for one in sequences]]
    np.testing.assert_allclose(open_throughout, 0.8**4, rtol=1e-6)


@pytest.mark.bench
def test_people_stay_nearer_to_a_bar_that_is_open():
    game = closing_bar(10, 10, 5, closes=0.2)
    answer = solve(game, tol=1e-6)
    assert answer.status == Status.SETTLED
    still, shut = (game.density_along(answer.flow, [0] * t + [1] * (11 - t)) for t in (11, 3))
    assert still[-1, 5] > shut[-1, 5]
    np.testing.assert_allclose(still[:4], shut[:4], atol=1e-12)


def test_moves_agree_with_their_list_and_are_transposes(bar):
    game, _ = bar
    draw = np.random.default_rng(4)
    moves = game.moves(jnp.int32(1), jnp.asarray(draw.dirichlet(np.ones(game.states)), jnp.float32))
    assert isinstance(moves, Branching)
    targets, chances = map(np.asarray, moves.listed())
    matrix = np.zeros((game.states, 3, game.states))
    for place in np.ndindex(targets.shape):
        matrix[place[0], place[1], targets[place]] += chances[place]
    np.testing.assert_allclose(matrix.sum(axis=2), 1.0, rtol=1e-6)
    value, mass = draw.random(game.states), draw.random((game.states, 3))
    np.testing.assert_allclose(moves.expect(jnp.asarray(value, jnp.float32)), matrix @ value, rtol=1e-5)
    np.testing.assert_allclose(
        moves.carry(jnp.asarray(mass, jnp.float32)), np.einsum("sa,sat->t", mass, matrix), rtol=1e-5
    )


def test_it_is_a_game_whose_kinds_are_private():
    game = CommonNoise([quarters(1.0), quarters(3.0)], np.eye(2), [0.4, 0.6])
    validate(game)
    assert public(game).types is None and public(game).portions is None and public(game).stacked.taste is None
    assert game.shares.shape == game.types.shape == (2,)


def test_an_actual_crowd_plays_along_one_history(bar):
    game, policy = bar
    with pytest.raises(InputError, match="along one history of shocks"):
        run_crowd(game, policy, 10, key=jax.random.key(0))
    with pytest.raises(InputError, match="shock 1 cannot happen at time 2"):
        CommonNoise([quarters(1.0), quarters(3.0)], np.eye(2)).walk([0, 0, 1])
    with pytest.raises(InputError, match="one at each of 3 times"):
        game.walk([0, 1])


def test_what_is_no_common_noise_is_refused(monkeypatch):
    two = [BeachBar(3, 2, 0), BeachBar(3, 2, 1)]
    with pytest.raises(InputError, match="after shock 1 the chances are"):
        CommonNoise(two, [[1.0, 0.0], [0.5, 0.6]])
    with pytest.raises(ValueError, match="2 games need chances of shape"):
        CommonNoise(two, [[1.0]])
    with pytest.raises(ValueError, match="of one class, size and horizon"):
        CommonNoise([BeachBar(3, 2, 0), BeachBar(4, 2, 0)], RAIN)
    monkeypatch.setattr(common_noise, "MOST_NODES", 7)
    with pytest.raises(InputError, match="8 histories by time 2"):
        CommonNoise(two, RAIN, [0.5, 0.5])
