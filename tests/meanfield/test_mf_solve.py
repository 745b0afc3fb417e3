"""Answers: certified, honest about failure, the same under vmap, and reached by every law of motion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import Status
from catallax.errors import InputError
from catallax.meanfield.certify import certify, exploitability
from catallax.meanfield.games.simple import BeachBar, beach_bar, left_right, rock_paper_scissors
from catallax.meanfield.problem import AbstractGame, Listed, cast
from catallax.meanfield.solve import iterate, solve


def values(answer):
    return {one.name: one.value for one in answer.certificates}


def test_the_fast_law_reaches_a_millionth_of_the_reward_range():
    answer = solve(beach_bar(20, 10, bar=8), tol=1e-6)
    assert answer.status == Status.SETTLED
    assert values(answer)["exploitability"] <= 1e-6
    assert answer.rounds < 400
    rounds, errors = answer.history
    assert rounds.size == answer.rounds and errors[-1] <= 1e-6


@pytest.mark.parametrize(
    ("law", "tol"),
    [
        pytest.param(law, tol, marks=pytest.mark.bench)
        for law, tol in (("mirror-descent", 1e-6), ("fictitious-play", 2e-3))
    ],
)
def test_textbook_laws_come_to_the_same_rest(law, tol):
    fast, slow = solve(beach_bar(), tol=1e-9), solve(beach_bar(), law=law, tol=tol, max_rounds=4000)
    assert slow.status == Status.SETTLED
    np.testing.assert_allclose(slow.flow, fast.flow, atol=20 * tol**0.5)
    np.testing.assert_allclose(slow.value, fast.value, atol=50 * tol)


def test_a_damped_fixed_point_with_a_temperature_rests_near_the_equilibrium():
    warm = solve(left_right(), law="damped", temperature=0.05, damping=0.05, tol=0.05)
    assert warm.status == Status.SETTLED
    np.testing.assert_allclose(warm.policy[0, 0, 0, 0], 2 / 3, atol=0.05)


def test_too_few_rounds_is_said():
    answer = solve(beach_bar(), max_rounds=3)
    assert answer.status == Status.OUT_OF_ROUNDS
    assert not answer.certificates[0].holds
    assert answer.rounds == 3


def test_a_game_that_is_not_monotone_is_not_said_to_be_solved():
    answer = solve(rock_paper_scissors(), max_rounds=300)
    assert (answer.status == Status.SETTLED) == all(one.holds for one in answer.certificates)
    assert answer.status == Status.OUT_OF_ROUNDS


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law of motion"):
        solve(left_right(), law="walras")


@pytest.mark.bench
def test_single_precision_is_possible():
    answer = solve(left_right(), tol=1e-4, double=False)
    assert answer.status == Status.SETTLED


def test_iterate_under_vmap_is_a_loop():
    bars = jnp.asarray([0, 1, 3], jnp.int32)

    def of(bar):
        return iterate(cast(BeachBar(4, 3, bar), jnp.float64), 40)

    # In double precision: the law sets its rate by a quotient of small differences, which rounding may tip.
    with jax.enable_x64(True):
        together = jax.jit(jax.vmap(of))(bars)
        for place, bar in enumerate(bars):
            for whole, one in zip(together, jax.jit(of)(bar), strict=True):
                np.testing.assert_allclose(whole[place], one, rtol=1e-6, atol=1e-9)
    gap = exploitability(BeachBar(4, 3, 3), np.asarray(together[0][2], np.float64))
    assert gap < 0.01


class Infection(AbstractGame):
    """Healthy or ill; going out, one is infected in proportion to the ill. Moves depend on the density."""

    rate: jax.Array
    states: int = 2
    actions: int = 2
    horizon: int = 12

    def start(self):
        return jnp.asarray([0.6, 0.4])

    def moves(self, time, density):
        caught = self.rate * density[1]
        healthy = jnp.stack([jnp.stack([1 - caught, caught]), jnp.asarray([1.0, 0.0], density.dtype)])
        ill = jnp.broadcast_to(jnp.asarray([0.3, 0.7], density.dtype), (2, 2))
        return Listed(jnp.broadcast_to(jnp.arange(2), (2, 2, 2)), jnp.stack([healthy, ill]))

    def reward(self, time, density, kind):
        return -jnp.asarray([[0.0, 0.4], [1.0, 1.4]], density.dtype)


def test_moves_that_depend_on_the_density():
    answer = solve(Infection(rate=jnp.asarray(0.8)), tol=1e-6)
    assert answer.status == Status.SETTLED


class Quarters(AbstractGame):
    """Two kinds choose between two quarters once; each kind has a taste for the first, and all shun the crowd."""

    taste: jax.Array
    states: int = 3
    actions: int = 2
    horizon: int = 2

    def start(self):
        return jnp.asarray([1.0, 0.0, 0.0])

    def moves(self, time, density):
        targets = jnp.broadcast_to(jnp.arange(1, 3), (3, 2))[:, :, None]
        return Listed(targets, jnp.ones((3, 2, 1), density.dtype))

    def reward(self, time, density, kind):
        earned = -density + jnp.asarray([0.0, 1.0, 0.0], density.dtype) * kind
        return jnp.broadcast_to(earned[:, None], (3, 2))

    @property
    def kinds(self):
        return self.taste

    @property
    def shares(self):
        return jnp.asarray([0.25, 0.75])


def test_two_kinds_by_hand():
    # The first kind always prefers the first quarter; the second is indifferent where μ₁ − μ₂ = 0.3: μ₁ = 0.65, of
    # which 0.25 is the first kind, so that 0.4 / 0.75 of the second goes there. At time 0 all stand in one place,
    # which costs everyone 1.
    answer = solve(Quarters(taste=jnp.asarray([2.0, 0.3])), tol=1e-8)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.flow[1], [0, 0.65, 0.35], atol=1e-5)
    np.testing.assert_allclose(answer.policy[:, 0, 0, 0], [1, 0.4 / 0.75], atol=1e-5)
    np.testing.assert_allclose(answer.value, [0.35, -1.35], atol=1e-5)


def test_progress_is_told():
    seen = []
    solve(beach_bar(), tol=1e-9, max_rounds=200, watch=seen.append)
    assert seen[-1].status is not None
    assert seen[-1].last_round == 200


def test_games_may_be_written_in_either_precision():
    single = left_right()
    assert single.pay.dtype == jnp.float32
    answer = solve(single, tol=1e-8)
    assert answer.status == Status.SETTLED and answer.policy.dtype == np.float64
    assert single.pay.dtype == jnp.float32


class Emptied(AbstractGame):
    """All go from the first state to the second; what it earns to be in an empty one is given."""

    bad: jax.Array
    states: int = 2
    actions: int = 2
    horizon: int = 2

    def start(self):
        return jnp.asarray([0.5, 0.5])

    def moves(self, time, density):
        return Listed(jnp.ones((2, 2, 1), jnp.int32), jnp.ones((2, 2, 1), density.dtype))

    def reward(self, time, density, kind):
        earned = jnp.where(density == 0, self.bad.astype(density.dtype), -density)
        return jnp.broadcast_to(earned[:, None], (2, 2))


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_a_reward_that_is_no_number_later_on_is_told_where(bad):
    # In the first density, at which games are checked, no state is empty.
    with pytest.raises(InputError, match=f"time 1, state 0, action 0: the reward is {bad}"):
        solve(Emptied(bad=jnp.asarray(bad)), tol=1e-3)


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_where_a_reward_is_no_number_nothing_is_certified(bad):
    held = {one.name: one.holds for one in certify(Emptied(bad=jnp.asarray(bad)), np.full((1, 2, 2, 2), 0.5))}
    assert held == {"exploitability": False, "policy": True, "mass": True}
