"""Left-right and rock-paper-scissors by hand, and the beach bar."""

import jax.numpy as jnp
import numpy as np
import pytest

from catallax import Status
from catallax.meanfield.certify import account
from catallax.meanfield.games.simple import beach_bar, left_right, rock_paper_scissors
from catallax.meanfield.problem import table, validate
from catallax.meanfield.solve import solve


def test_left_right_by_hand():
    answer = solve(left_right(), tol=1e-9)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.policy[0, 0, 0], [2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(answer.flow[1], [0, 2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(answer.value, -2 / 3, atol=1e-6)


def test_rock_paper_scissors_by_hand():
    game = rock_paper_scissors()
    policy = np.full((1, 2, 4, 3), 1 / 3)
    policy[0, 0, 0] = np.array([26, 20, 31]) / 77
    found = account(game, policy)
    assert found.exploitability == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.value, 6 / 11, rtol=1e-12)
    # Not monotone: of the textbook laws the one that averages comes near, and says how near.
    answer = solve(game, law="fictitious-play", tol=1e-2)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.policy[0, 0, 0], policy[0, 0, 0], atol=2e-2)


def test_the_beach_ends_where_it_ends():
    game = beach_bar(6, 3, bar=1)
    validate(game)
    _, targets, chances = table(game, 0, np.full(6, 1 / 6))

    def to(state, action, end):
        return np.sum(chances[state, action] * (targets[state, action] == end))

    # From the first place, one step back and wind back or none all end there: 1/4 + 1/2, and wind forth, 1/4, too.
    assert to(0, 0, 0) == pytest.approx(1.0)
    assert [to(0, 1, end) for end in range(3)] == pytest.approx([0.75, 0.25, 0.0])
    assert [to(3, 2, end) for end in range(6)] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.25])
    assert [to(5, 2, end) for end in range(6)] == pytest.approx([0, 0, 0, 0, 0, 1.0])


def test_the_beach_bar_pays_for_distance_effort_and_company():
    density = np.array([0.1, 0.2, 0.3, 0.4])
    reward = table(beach_bar(), 0, density)[0]
    away = np.array([2, 1, 0, 1])
    np.testing.assert_allclose(reward, -away[:, None] - np.array([1, 0, 1]) / 4 - np.log(density)[:, None], rtol=1e-6)
    shifted = table(beach_bar(bar=jnp.int32(0)), 0, density)[0]
    np.testing.assert_allclose(shifted[:, 1], -np.array([0, 1, 2, 1]) - np.log(density), rtol=1e-6)
