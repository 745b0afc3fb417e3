"""The light law: the course of mirror descent with momentum on logits, in sums of values; when it overshoots."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.core.result import Status
from catallax.meanfield.games.grid import CrowdMotion, congestion, four_rooms
from catallax.meanfield.games.simple import beach_bar
from catallax.meanfield.light import LEAST, OLDER, LightDescent, suits
from catallax.meanfield.moves import Stencil
from catallax.meanfield.passes import best, face, push, worth
from catallax.meanfield.problem import AbstractGame
from catallax.meanfield.rules import even_flow, mass, softmax
from catallax.meanfield.solve import first_state, iterate, solve
from catallax.testing import check_system


class Cove(AbstractGame):
    """A line of 5 places; kinds differ in taste, and the future and the end count; to go is free."""

    liked: jax.Array
    states: int = 5
    actions: int = 3
    horizon: int = 4

    def start(self):
        return jnp.asarray([0.6, 0.0, 0.1, 0.0, 0.3])

    def moves(self, time, density):
        return Stencil(0.7 * jnp.eye(3, dtype=density.dtype) + 0.1, ((0, 0), (0, -1), (0, 1)), (1, 5))

    def reward(self, time, density, kind):
        place = jnp.arange(5, dtype=density.dtype)
        earned = (1 + time).astype(density.dtype) * (-((place - kind) ** 2) / 8 - density)
        return jnp.broadcast_to(earned[:, None], (5, 3))

    def final(self, density, kind):
        return -density * kind

    @property
    def discount(self):
        return 0.9

    @property
    def kinds(self):
        return self.liked


class Tolled(Cove):
    """A step costs something."""

    def reward(self, time, density, kind):
        return super().reward(time, density, kind) - jnp.asarray([[0.0, 0.1, 0.2]], density.dtype)


class Swept(Cove):
    """A crowd sweeps along."""

    def moves(self, time, density):
        drift = 0.2 * density[2]
        return Stencil(jnp.eye(3, dtype=density.dtype) * (1 - drift) + drift / 3, ((0, 0), (0, -1), (0, 1)), (1, 5))


@pytest.fixture(scope="module")
def cove():
    with jax.enable_x64(True):
        yield Cove(liked=jnp.asarray([0.5, 3.0]))


@eqx.filter_jit
def looked(game, logits, kind, density, before, moved):
    """Return what actions are worth, what could be gained, and what a step earns now and earned before."""
    faced, past = face(game, density, kind), face(game, before, kind)
    values, actions = worth(game, density, faced, softmax(logits))
    kept, gain = (jnp.sum(moved * jnp.concatenate([x.reward[:, 0], x.final[None]])) for x in (faced, past))
    return actions, density[0] @ (best(game, density, faced)[0][0] - values[0]), kept, gain


def by_logits(game, rounds, rate, growth=1.02):
    """Return the same course with every logit held, by the passes of other laws: policies, flow, gaps, restarts."""
    logits = last = jnp.zeros((2, game.horizon, game.actions, game.states))
    flows, met = [jnp.stack([even_flow(game)] * 2)] * 2, [even_flow(game)]
    pushed = eqx.filter_jit(push)
    rates, streaks, gaps, restarts = [rate] * 2, [0, 0], [], 0
    for _ in range(rounds):
        density, plain, carried, gap = jnp.mean(flows[-1], axis=0), [], [], 0.0
        moved = 0.9 ** np.arange(5)[None, :, None] * (flows[-1] - flows[-2])
        for k in range(2):
            actions, better, kept, gain = looked(game, logits[k], game.liked[k], density, met[-1], moved[k])
            gap += 0.5 * float(better)
            if kept < 0:
                restarts += 1
                rates[k] *= max(LEAST, float(gain / (gain - kept))) if gain > 0 else 1
                streaks[k] = 0
            else:
                rates[k] *= growth
            plain.append(logits[k] + rates[k] * actions)
            carried.append(plain[k] + streaks[k] / (streaks[k] + OLDER) * (plain[k] - last[k]))
            streaks[k] += 1
        logits, last = jnp.stack(carried), jnp.stack(plain)
        met.append(density)
        flows.append(jnp.stack([pushed(game, density, softmax(own)) for own in logits]))
        gaps.append(gap)
    return jnp.moveaxis(softmax(logits), 2, 3), jnp.mean(flows[-1], axis=0), np.asarray(gaps), restarts


@pytest.mark.bench
def test_the_course_is_that_of_momentum_on_logits(cove):
    with jax.enable_x64(True):
        # Fast enough to overshoot within these rounds.
        policy, flow, gaps, restarts = by_logits(cove, 14, 8.0)
        found = iterate(cove, 14, "light", rate=8.0)
        assert restarts > 0
        np.testing.assert_allclose(found[0], policy, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found[1], flow, rtol=1e-8, atol=1e-10)
        # By a reward range that itself changes a little from round to round.
        np.testing.assert_allclose(found[2] / found[2][0], gaps / gaps[0], rtol=0.3)


@pytest.mark.bench
def test_conformance(cove):
    with jax.enable_x64(True):
        system, state = first_state(cove, "light")
        options = {"conserves": {"mass": mass}, "differentiable": False, "rounds": 3}
        check_system(system, state, key=jax.random.key(5), **options)


def test_whom_it_suits_is_read_from_the_game(cove):
    with jax.enable_x64(True):
        assert suits(cove) and suits(four_rooms(7))
        assert not suits(Tolled(cove.liked)) and not suits(Swept(cove.liked))
        assert not suits(beach_bar()) and not suits(congestion())
        with pytest.raises(ValueError, match="Tolled is not written as such; 'lean' takes any game"):
            first_state(Tolled(cove.liked), "light")


@pytest.mark.bench
def test_a_large_game_takes_it_and_begins_with_coarser_maps(monkeypatch):
    monkeypatch.setattr(sys.modules[solve.__module__], "LEAN_FROM", 0)
    row, column = (np.indices((12, 12)) + 0.5) / 12
    drawn = 10 * (1 - np.abs(row - 0.3) - np.abs(column - 0.6))
    even = np.full((12, 12), 1 / 144)
    game = CrowdMotion(np.ones((12, 12), bool), even, horizon=6, attraction=drawn, floor=1e-10, noise=0.5)
    answer = solve(game, tol=1e-3, coarser=1)
    assert answer.law == LightDescent.__name__ and answer.status == Status.SETTLED
    again = solve(game, tol=1e-3, start=answer.policy)
    assert again.rounds <= 3 and again.status == Status.SETTLED
    np.testing.assert_allclose(again.policy, answer.policy, atol=5e-3)
