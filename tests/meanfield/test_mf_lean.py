"""The lean law: the same course as the fast one, the same policies from the solver, and the rules of the contract."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.core.run import run
from catallax.meanfield.moves import Stencil
from catallax.meanfield.problem import AbstractGame
from catallax.meanfield.rules import even_flow, first_flow, mass
from catallax.meanfield.solve import first_state, iterate, policies, solve
from catallax.testing import check_system


class Shore(AbstractGame):
    """A line of 5 places; kinds differ in taste, actions cost, a crowd drifts, and the future and the end count."""

    liked: jax.Array
    states: int = 5
    actions: int = 3
    horizon: int = 4

    def start(self):
        return jnp.asarray([0.6, 0.0, 0.1, 0.0, 0.3])

    def moves(self, time, density):
        drift = 0.2 * density[2] + 0.1 * (time % 2).astype(density.dtype)
        return Stencil(jnp.eye(3, dtype=density.dtype) * (1 - drift) + drift / 3, ((0, 0), (0, -1), (0, 1)), (1, 5))

    def reward(self, time, density, kind):
        place = jnp.arange(5, dtype=density.dtype)
        cost = jnp.asarray([0.0, 0.1, 0.2], density.dtype)
        return (-((place - kind) ** 2) / 8 - density)[:, None] - cost[None]

    def final(self, density, kind):
        return -density * kind

    @property
    def discount(self):
        return 0.9

    @property
    def kinds(self):
        return self.liked


@pytest.fixture(scope="module")
def shore():
    with jax.enable_x64(True):
        yield Shore(liked=jnp.asarray([0.5, 3.0]))


@pytest.mark.bench
def test_the_course_is_that_of_the_fast_law(shore):
    with jax.enable_x64(True):
        fast, lean = iterate(shore, 12, "fast", every=1), iterate(shore, 12, "lean")
        for one, other in zip(fast, lean, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-10)
        assert float(lean[2][-1]) < 0.5 * float(lean[2][0])


@pytest.mark.bench
def test_conformance(shore):
    with jax.enable_x64(True):
        system, state = first_state(shore, "lean")
        options = {"conserves": {"mass": mass}, "differentiable": False, "rounds": 3}
        check_system(system, state, key=jax.random.key(5), **options)


def test_all_act_evenly_in_the_first_flow(shore):
    with jax.enable_x64(True):
        even = jnp.full((2, 4, 3, 5), 1 / 3)
        np.testing.assert_allclose(even_flow(shore), first_flow(shore, even), rtol=1e-12)


def test_a_large_game_takes_the_lean_law_and_its_policy_is_the_softmax(shore, monkeypatch):
    monkeypatch.setattr(sys.modules[solve.__module__], "LEAN_FROM", 0)
    answer = solve(shore, tol=1e-9, max_rounds=5)
    assert answer.law == "LeanDescent" and answer.rounds == 5
    with jax.enable_x64(True):
        system, state = first_state(shore, "lean", tol=0.9e-9)
        ended = run(system, state, 5).state
        np.testing.assert_allclose(answer.policy, policies(system, ended), rtol=1e-9)
