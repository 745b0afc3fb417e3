"""The certificate, against enumeration of all policies and against what the compiled passes say."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.meanfield.certify import account, certify, exploitability, flow
from catallax.meanfield.games.simple import BeachBar, left_right
from catallax.meanfield.passes import best, face, worth
from catallax.meanfield.problem import cast, table
from catallax.meanfield.rules import first_flow


def random_policy(game, seed=0, kinds=1):
    draw = np.random.default_rng(seed)
    return draw.dirichlet(np.ones(game.actions), (kinds, game.horizon, game.states))


def test_exploitability_is_that_of_the_best_of_all_pure_policies():
    game = left_right(horizon=2)
    policy = random_policy(game, 4)
    densities = flow(game, policy)
    # Every pure policy over states and times, by the definition of its value.
    values = []
    for choice in itertools.product(range(2), repeat=6):
        pure = np.eye(2)[np.array(choice).reshape(2, 3)]
        at, total = np.array([1.0, 0.0, 0.0]), 0.0
        for time in range(2):
            reward, targets, chances = table(game, time, densities[time])
            acting = at[:, None] * pure[time]
            total += np.sum(acting * reward)
            at = np.zeros(3)
            np.add.at(at, targets, acting[:, :, None] * chances)
        values.append(total)
    found = account(game, policy)
    np.testing.assert_allclose(found.best[0], max(values), rtol=1e-12)
    left = policy[0, 0, 0, 0]
    np.testing.assert_allclose(found.value[0], -(left**2) - 2 * (1 - left) ** 2, rtol=1e-12)
    np.testing.assert_allclose(exploitability(game, policy), max(values) - found.value[0], rtol=1e-12)


def test_it_agrees_with_the_compiled_passes():
    game = BeachBar(7, 5, 3)
    policy = random_policy(game, 1)
    found = account(game, policy)
    with jax.enable_x64(True):
        double = cast(game, jnp.float64)
        own = jnp.moveaxis(jnp.asarray(policy), 3, 2)
        densities = first_flow(double, own)
        faced = face(double, densities, None)
        value = densities[0] @ worth(double, densities, faced, own[0])[0][0]
        top = densities[0] @ best(double, densities, faced)[0][0]
    np.testing.assert_allclose(found.flow, densities, rtol=1e-12)
    np.testing.assert_allclose([found.value[0], found.best[0]], [value, top], rtol=1e-12)


def test_a_bad_policy_does_not_pass():
    game = left_right()
    good = np.full((1, 2, 3, 2), 0.5)
    good[0, 0, 0] = 2 / 3, 1 / 3
    assert all(one.holds for one in certify(game, good, tol=1e-9))
    bad = good.copy()
    bad[0, 0, 0] = 0.7, 0.3
    assert not certify(game, bad, tol=1e-6)[0].holds
    bad[0, 0, 0] = 0.8, 0.3
    assert not {one.name: one for one in certify(game, bad)}["policy"].holds
    with pytest.raises(ValueError, match="the policy has shape"):
        flow(game, good[0])


def test_it_imports_neither_the_solver_nor_the_rules():
    script = (
        "import sys, catallax.meanfield.certify;"
        "print([name for name in ('catallax.core.run', 'catallax.meanfield.rules', 'catallax.meanfield.solve')"
        " if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
