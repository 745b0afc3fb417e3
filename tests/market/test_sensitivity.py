"""Derivatives of prices against differences of whole solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from catallax.market.problem import CES, COBB_DOUGLAS, LEONTIEF, LINEAR, QUASILINEAR, Market
from catallax.market.sensitivity import price_sensitivities, prices_near
from catallax.market.solve import solve

SLOW = pytest.mark.bench
UTILITIES = [
    LINEAR,
    pytest.param(QUASILINEAR, marks=SLOW),
    CES(0.5),
    pytest.param(COBB_DOUGLAS, marks=SLOW),
    pytest.param(CES(-2.0), marks=SLOW),
    LEONTIEF,
]


def arrays(utility, n=20, m=4, seed=0):
    draw = np.random.default_rng(seed)
    valuations = draw.random((n, m)) + 0.05
    if utility is LEONTIEF:
        # A little of everything and much of one good: every good is scarce.
        valuations = np.eye(m)[draw.integers(0, m, n)] * 2 + valuations * 0.2
    return valuations, draw.random(n) + 0.2, draw.random(m) + 0.5


def difference(build, step=1e-5):
    up, down = (solve(build(np.exp(t)), tol=1e-11).prices for t in (step, -step))
    return (np.log(up) - np.log(down)) / (2 * step)


@pytest.mark.parametrize("utility", UTILITIES, ids=str)
@pytest.mark.parametrize("what", ["budgets", "supply", "valuations"])
def test_against_finite_differences(utility, what):
    v, b, s = arrays(utility)

    def build(factor):
        budgets, supply, valuations = b.copy(), s.copy(), v.copy()
        if what == "budgets":
            budgets[:7] *= factor
        elif what == "supply":
            supply[1] *= factor
        else:
            valuations[:7, 2] *= factor
        return Market(valuations, budgets, supply, utility=utility)

    answer = solve(build(1.0), tol=1e-11)
    with jax.enable_x64(True):
        prices = prices_near(answer)
        point = jnp.asarray(b), jnp.asarray(s), jnp.asarray(v)
        change = tuple(jnp.zeros_like(x) for x in point)
        if what == "budgets":
            change = (change[0].at[:7].set(point[0][:7]), change[1], change[2])
        elif what == "supply":
            change = (change[0], change[1].at[1].set(point[1][1]), change[2])
        else:
            change = (change[0], change[1], change[2].at[:7, 2].set(point[2][:7, 2]))
        value, slope = jax.jvp(prices, point, change)
    np.testing.assert_allclose(value, answer.prices, rtol=1e-8)
    np.testing.assert_allclose(np.asarray(slope) / answer.prices, difference(build), atol=3e-5)


def test_reverse_mode_agrees_with_forward_mode():
    v, b, s = arrays(CES(0.5))
    answer = solve(Market(v, b, s, utility=CES(0.5)), tol=1e-11)
    with jax.enable_x64(True):
        prices = prices_near(answer)
        fixed = jnp.asarray(s), jnp.asarray(v)
        back = jax.grad(lambda budgets: prices(budgets, *fixed)[1])(jnp.asarray(b))
        forth = jax.jacfwd(lambda budgets: prices(budgets, *fixed)[1])(jnp.asarray(b))
    np.testing.assert_allclose(back, forth, rtol=1e-10)


@pytest.mark.parametrize("utility", [LINEAR, CES(0.5)], ids=str)
def test_everybody_together_moves_all_prices_alike(utility):
    v, b, s = arrays(utility)
    answer = solve(Market(scipy.sparse.csr_array(v), b, s, utility=utility), tol=1e-10)
    groups = {"first": np.arange(9), "second": np.arange(9, 20)}
    both = price_sensitivities(answer, groups)
    np.testing.assert_allclose(both["first"] + both["second"], 1.0, atol=1e-6)
    assert not np.allclose(both["first"], 0.5, atol=1e-3)


def test_a_good_left_over_has_no_derivative():
    market = Market([[1.0, 0.1], [1.0, 0.2]], utility=LEONTIEF)
    with pytest.raises(ValueError, match="kink"), jax.enable_x64(True):
        prices_near(solve(market))
