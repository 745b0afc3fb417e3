"""Where a law begins: a given policy, and the rest of coarser maps, which is the same game on half the side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.core.result import Status
from catallax.meanfield.certify import account, certify
from catallax.meanfield.coarse import coarsened, flows_of, logits_of, refined
from catallax.meanfield.games.grid import CrowdMotion, four_rooms
from catallax.meanfield.games.simple import beach_bar
from catallax.meanfield.solve import first_state, solve

SIDE, HORIZON = 12, 6


def hill(side=SIDE, horizon=HORIZON, **more):
    row, column = (np.indices((side, side)) + 0.5) / side
    drawn = 10 * (1 - np.abs(row - 0.3) - np.abs(column - 0.6))
    even = np.full((side, side), 1 / side**2)
    return CrowdMotion(np.ones((side, side), bool), even, horizon=horizon, attraction=drawn, floor=1e-10, **more)


@pytest.fixture(scope="module")
def rested():
    """The game, and its answer."""
    game = hill(noise=0.5)
    return game, solve(game, tol=1e-3)


def test_a_walk_of_two_steps_earns_what_one_step_does_on_the_coarser_map():
    # Everyone goes east by two cells a time here and by one there, from the same places: same places, twice the pay.
    with jax.enable_x64(True):
        fine = hill(horizon=4, periodic=True, aversion=0.7)
        coarse = fine.coarser()
        assert (coarse.shape, coarse.horizon) == ((SIDE // 2, SIDE // 2), 2)
        found = []
        for game in (fine, coarse):
            east = np.zeros((1, game.horizon, game.states, 5))
            east[..., 4] = 1
            found.append(account(game, east))
        moved = fine._blocks(found[0].flow[::2])
        np.testing.assert_allclose(moved.reshape(3, -1), found[1].flow, atol=1e-15)
        # Coarse densities are four times as large: the logarithm of that, twice at each of two times, is no difference
        # that any policy makes. What is left is the slope within a cell, half a cell a step.
        fine_pay = float(found[0].value[0])
        coarse_pay = float(found[1].value[0]) + 0.7 * 2 * 2 * np.log(4)
        slope = 10 / SIDE
        assert abs(fine_pay - coarse_pay) < 4 * slope


def test_mass_and_free_cells_are_those_of_the_blocks():
    free = np.ones((5, 7), bool)
    free[2, :] = False  # A thin wall vanishes.
    free[0:2, 4:6] = False  # A thick one does not, but for who starts there.
    start = np.zeros((5, 7))
    start[0, 0], start[1, 1], start[4, 6] = 0.5, 0.25, 0.25
    coarse = CrowdMotion(free, start, horizon=5, noise=0.3).coarser()
    assert (coarse.shape, coarse.horizon, coarse.noise) == ((3, 4), 3, 0.0)
    np.testing.assert_array_equal(np.asarray(coarse.free).reshape(3, 4), [[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_allclose(np.asarray(coarse.start()).reshape(3, 4)[[0, 2], [0, 3]], [0.75, 0.25])


def test_one_who_starts_alone_in_a_corner_still_does():
    coarse = four_rooms(13).coarser()
    assert float(coarse.start()[0]) == 1 and bool(coarse.free[0])


def test_attraction_by_time_is_taken_at_every_other_time():
    drawn = np.arange(5.0)[:, None, None] * np.ones((5, 4, 4))
    game = CrowdMotion(np.ones((4, 4), bool), np.full((4, 4), 1 / 16), horizon=5, attraction=drawn)
    np.testing.assert_allclose(np.asarray(game.coarser().attraction)[:, 0], [0.0, 4.0, 8.0])


@pytest.mark.parametrize("shape", [(6, 6), (5, 7)])
def test_between_cells_what_is_linear_stays_linear(shape):
    game = CrowdMotion(np.ones(shape, bool), np.full(shape, 1 / np.prod(shape)), horizon=3)
    coarse = game.coarser()
    row, column = np.indices(coarse.shape)
    x = 3.0 * row - 2.0 * column
    read = np.asarray(game.finer(jnp.asarray(x, jnp.float32).reshape(1, -1))).reshape(shape)
    row, column = (np.indices(shape) - 0.5) / 2
    np.testing.assert_allclose(read[1:-1, 1:-1], (3 * row - 2 * column)[1:-1, 1:-1], rtol=1e-6)


def test_refined_logits_are_read_at_half_the_time():
    game = hill(noise=0.5)
    coarse = coarsened(game)
    logits = 3 * jax.random.normal(jax.random.key(3), (1, coarse.horizon, 5, coarse.states), jnp.float32)
    fine = refined(game, logits)
    assert fine.shape == (1, HORIZON, 5, SIDE**2)
    for time in range(HORIZON):
        row = logits[0, time // 2]
        row = jnp.maximum(row - jnp.max(row, axis=0, keepdims=True), jnp.float32(-4))
        np.testing.assert_allclose(fine[0, time], game.finer(row), rtol=1e-5, atol=1e-6)


def test_flows_are_those_of_the_certificate(rested):
    game, answer = rested
    logits = logits_of(game, answer.policy, jnp.float32)
    np.testing.assert_allclose(flows_of(game, logits)[0], answer.flow, atol=1e-6)


@pytest.mark.parametrize("law", ["fast", pytest.param("lean", marks=pytest.mark.bench)])
def test_from_its_answer_a_game_is_at_rest(rested, law):
    game, answer = rested
    again = solve(game, tol=1e-3, law=law, start=answer.policy)
    assert again.rounds <= 2 and again.status == Status.SETTLED
    np.testing.assert_allclose(again.policy, answer.policy, atol=1e-6)


@pytest.mark.bench
def test_coarser_maps_begin_nearer_and_end_at_the_same_rest():
    game = hill(24, 24, noise=0.5)
    plain, nested = solve(game, tol=1e-3), solve(game, tol=1e-3, coarser=1)
    assert nested.status == Status.SETTLED and certify(game, nested.policy, 1e-3)[0].holds
    assert nested.history[1][0] < 0.5 * plain.history[1][0]
    assert nested.rounds < plain.rounds
    np.testing.assert_allclose(nested.flow, plain.flow, atol=0.05 * plain.flow.max())


def test_what_cannot_begin_so_says_so(rested):
    game, answer = rested
    with pytest.raises(ValueError, match="'damped' keeps no logits.*fast, lean, light, mirror-descent"):
        solve(game, law="damped", coarser=1)
    with pytest.raises(ValueError, match="has no coarser map"):
        first_state(beach_bar(), coarser=1)
    with pytest.raises(ValueError, match=r"shape \(1, 5, 144, 5\), not \(kinds, T, S, A\) = \(1, 6, 144, 5\)"):
        solve(game, start=answer.policy[:, 1:])
    with pytest.raises(ValueError, match="rows that are no probabilities"):
        solve(game, start=2 * answer.policy)
    with pytest.raises(ValueError, match="1 × 4 cells has no coarser"):
        CrowdMotion(np.ones((1, 4), bool), np.full((1, 4), 0.25), horizon=2).coarser()
    with pytest.raises(ValueError, match="not inside a transformation"):
        jax.jit(lambda: first_state(game, coarser=1)[1].signal.density)()
