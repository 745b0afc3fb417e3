"""Systemic risk: the closed forms of Carmona, Fouque & Sun against integration, deviations and actual banks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from catallax import InputError, State, Status
from catallax.meanfield.systemic import Banks, Ledger, Lending, simulate
from catallax.testing import check_system

GAME = Banks(reversion=0.7, incentive=1.2, spread=8.0, terminal=2.0, volatility=0.9, common=0.3, length=1.5)
HURRIED = Banks(terminal=0.0, common=0.0)


def riccati(game, banks, open_loop):
    """The coefficients as the paper's adjoint equations give them."""
    less = 0 if banks is None else 1 / banks
    a, q, source = game.reversion, game.incentive, game.spread - game.incentive**2
    if open_loop:
        return lambda t, n: (2 * a + q * (2 - less)) * n + (1 - less) * n**2 - source
    return lambda t, n: 2 * (a + q) * n + (1 - less**2) * n**2 - source


@pytest.mark.parametrize("open_loop", [False, True])
@pytest.mark.parametrize("banks", [1, 2, 10, None])
@pytest.mark.parametrize("game", [GAME, HURRIED])
def test_the_slope_solves_its_riccati_equation(game, banks, open_loop):
    back = solve_ivp(riccati(game, banks, open_loop), (game.length, 0), [game.terminal], rtol=1e-11, atol=1e-12)
    seen = game.slope(back.t, banks, open_loop=open_loop)
    np.testing.assert_allclose(seen, back.y[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("banks", [1, 5, None])
def test_the_slope_where_nothing_pulls(banks):
    """a = q = ε = 0: only the end costs, and η' = k η²."""
    game = Banks(reversion=0, incentive=0, spread=0, terminal=3.0, length=2.0)
    less = 0 if banks is None else 1 / banks
    times = np.array([0.0, 1.3, 2.0])
    np.testing.assert_allclose(game.slope(times, banks), 3 / (1 + (1 - less**2) * 3 * (2 - times)), rtol=1e-12)


def cost_of(game, banks, rule, others, variance=0.4):
    """What one bank pays for a rule while the others keep to theirs: second moments and costs, integrated.

    The bank's distance y from the mean has drift −(a + others/N + (1 − 1/N) rule) y.
    """
    share, q = 1 - 1 / banks, game.incentive
    noise = game.volatility**2 * (1 - game.common**2) * share

    def rates(t, now):
        act = rule(t)
        pull = game.reversion + others(t) / banks + share * act
        return [-2 * pull * now[0] + noise, (act**2 / 2 - q * act + game.spread / 2) * now[0]]

    moment, paid = solve_ivp(rates, (0, game.length), [variance, 0.0], rtol=1e-11, atol=1e-13).y[:, -1]
    return paid + game.terminal / 2 * moment


@pytest.mark.parametrize("banks", [2, 7, 50])
def test_the_value_is_what_the_equilibrium_costs(banks):
    rule = lambda t: GAME.gain(t, banks)  # noqa: E731
    assert abs(GAME.cost(banks, variance=0.4) - cost_of(GAME, banks, rule, rule)) < 1e-8


@pytest.mark.parametrize("bump", [0.3, -0.3])
def test_nobody_gains_by_leaving_the_equilibrium_among_few(bump):
    """Deviations early and late; the loss is of second order, so its sign tells an equilibrium from a near miss."""
    rule = lambda t: GAME.gain(t, 5)  # noqa: E731
    for centre in (0.2, 1.2):
        other = lambda t: rule(t) + bump * math.exp(-8 * (t - centre) ** 2)  # noqa: E731, B023
        assert cost_of(GAME, 5, other, rule) > cost_of(GAME, 5, rule, rule) + 1e-5


@pytest.mark.parametrize("banks", [2, 6, 40])
def test_the_regret_of_the_limits_rule_is_what_the_best_answer_saves(banks):
    """The best answer to the others' rule by a Riccati equation of its own, and both costs by second moments."""
    rule = lambda t: GAME.gain(t)  # noqa: E731
    share, q = 1 - 1 / banks, GAME.incentive

    def back(t, p):
        return 2 * p * (GAME.reversion + rule(t) / banks) + (q + share * p) ** 2 - GAME.spread

    value = solve_ivp(back, (GAME.length, 0), [GAME.terminal], rtol=1e-11, atol=1e-13, dense_output=True).sol
    best = lambda t: q + share * value(t)[0]  # noqa: E731
    saved = cost_of(GAME, banks, rule, rule) - cost_of(GAME, banks, best, rule)
    assert saved > 0
    assert abs(GAME.regret(banks, variance=0.4) - saved) < 1e-8 + 1e-4 * saved


def order(sizes, gaps):
    return np.polyfit(np.log(sizes), np.log(np.abs(gaps)), 1)[0]


def test_few_banks_come_to_the_limit_at_the_rate_of_their_number():
    """Rules of both equilibria, and the cost, at rate 1/N; the limit's regret at 1/N²."""
    sizes, t = np.array([50, 100, 200, 400]), 0.5
    for open_loop in (False, True):
        gaps = [GAME.gain(t, n, open_loop=open_loop) - GAME.gain(t) for n in sizes]
        assert abs(order(sizes, gaps) + 1) < 0.02
    assert abs(order(sizes, [GAME.cost(n, variance=0.4) - GAME.cost(variance=0.4) for n in sizes]) + 1) < 0.02
    assert abs(order(sizes, [GAME.regret(n, variance=0.4) for n in sizes]) + 2) < 0.05


# --- On the engine


def lending(n=23, steps=4):
    system = Lending(jnp.array(0.5), jnp.linspace(1, 2, steps), jnp.array(0.1), jnp.array(0.2), jnp.zeros(steps))
    reserves = jnp.linspace(-1.0, 1.0, n)
    return system, State(reserves, Ledger(jnp.mean(reserves), jnp.int32(0), jnp.mean(reserves)))


@pytest.mark.bench
def test_lending_keeps_every_law(key):
    system, state = lending()
    check_system(system, state, key=key, rounds=3, differentiable=False)


def test_actual_banks_scatter_as_second_moments_say():
    """One step at a time v ← (1 − (a + gain) h)² v + σ²(1 − ρ²)(1 − 1/N) h. 20,000 banks, seed 3, 4 standard errors."""
    banks, steps = 20_000, 30
    start = np.random.default_rng(3).normal(size=banks)
    seen = simulate(GAME, start, steps, key=jax.random.key(3), limit=True)
    h = GAME.length / steps
    noise = GAME.volatility**2 * (1 - GAME.common**2) * (1 - 1 / banks) * h
    moment = [float(np.var(start))]
    for t in range(steps):
        moment.append((1 - (GAME.reversion + float(GAME.gain(t * h))) * h) ** 2 * moment[-1] + noise)
    assert seen.status is Status.FINISHED and seen.reserves.shape == (banks,)
    np.testing.assert_allclose(seen.scatter, moment, rtol=4 * math.sqrt(2 / banks))


@pytest.mark.bench
def test_the_mean_is_a_brownian_motion_and_falls_as_often_as_the_formula_says():
    """200 runs of 20 banks, seeds 0 … 199, 4 standard errors.

    A mean watched at steps is seen to fall less often: as if the threshold lay 0.5826 standard deviations of a step
    further (Broadie, Glasserman & Kou 1997).
    """
    banks, steps, runs = 20, 50, 200
    game = Banks(common=0.4, volatility=0.8)
    seen = [simulate(game, np.zeros(banks), steps, key=jax.random.key(seed)) for seed in range(runs)]
    rate = game.volatility**2 * (game.common**2 + (1 - game.common**2) / banks)
    last = np.array([one.mean[-1] for one in seen])
    assert abs(last.mean()) < 4 * math.sqrt(rate / runs)
    assert abs(last.var() / rate - 1) < 4 * math.sqrt(2 / runs)
    least = np.array([one.least for one in seen])
    np.testing.assert_allclose(least, [one.mean.min() for one in seen], atol=1e-6)
    level = -0.4
    chance = game.systemic_risk(banks, level - 0.5826 * math.sqrt(rate / steps))
    assert 0.1 < chance < 0.5
    assert abs(np.mean(least <= level) - chance) < 4 * math.sqrt(chance * (1 - chance) / runs)


def test_many_banks_fall_only_together():
    """In the limit only the common noise moves the mean; without any, it never falls."""
    assert HURRIED.systemic_risk(None, -0.5) == 0.0
    risks = [GAME.systemic_risk(n, -0.5) for n in (2, 20, 200, None)]
    assert risks == sorted(risks, reverse=True) and risks[-1] > 0


# --- Bad input


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"spread": 0.5}, "spread is 0.5; it must be at least 1"),
        ({"common": 1.5}, "common is 1.5; it must be from 0 to 1"),
        ({"volatility": 0.0}, "volatility is 0; it must be positive"),
        ({"length": math.nan}, "length is nan; it must be positive"),
        ({"reversion": -1.0}, "reversion is -1; it must be at least 0"),
    ],
)
def test_constants_out_of_range_are_refused(constants, message):
    with pytest.raises(InputError, match=message):
        Banks(**constants)


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match="the threshold 0 must lie below the first mean 0"):
        GAME.systemic_risk(10, 0.0)
    with pytest.raises(InputError, match="0 banks; there must be at least one"):
        GAME.slope(0.0, 0)
    with pytest.raises(InputError, match="1 banks; lending needs two"):
        simulate(GAME, [0.0])
    with pytest.raises(InputError, match="bank 1: its log-reserve is not finite"):
        simulate(GAME, [0.0, math.inf])
