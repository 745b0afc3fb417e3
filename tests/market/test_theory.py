"""What theory says about markets and games, beside what the solvers say."""

import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from catallax import State, Status, run, settle
from catallax.market.problem import CES, COBB_DOUGLAS, LEONTIEF, LINEAR, QUASILINEAR, Market
from catallax.market.rules import Buyer, best_bundle
from catallax.market.solve import solve
from catallax.market.strategic import solve_strategic
from catallax.market.welfare import envy, pareto_slack

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SEEDS = st.integers(0, 10**6)
N, M = 6, 4  # one shape wherever the problem does not matter, so that the rules compile once
SMOOTH = {
    "complements": CES(-1.0),
    "cobb-douglas": COBB_DOUGLAS,
    "substitutes": CES(0.5),
    "leontief": LEONTIEF,
}
ALL = {"linear": LINEAR, **SMOOTH}


def drawn(seed: int, utility=LINEAR, *, equal: bool = False) -> Market:
    """Return a random market: valuations and supplies of order one, log-normal budgets or equal ones."""
    rng = np.random.default_rng(seed)
    budgets = np.ones(N) if equal else np.exp(rng.normal(size=N))
    return Market(0.1 + rng.random((N, M)), budgets, 0.5 + rng.random(M), utility=utility)


# Demand


@jax.jit
def demands_of_each(values, budgets, prices):
    """Return what the buyers ask for at these prices, for each of the smooth utilities."""
    buyers = Buyer(value=values, budget=budgets)
    return {
        name: jax.vmap(lambda buyer, rho=utility.rho: best_bundle(buyer, prices, rho))(buyers)
        for name, utility in ALL.items()
    }


def random_question(seed: int):
    rng = np.random.default_rng(seed)
    values, budgets = 0.1 + rng.random((N, M)), np.exp(rng.normal(size=N))
    return values, budgets, np.exp(2 * rng.normal(size=M))


@given(SEEDS)
def test_walras_law(seed):
    """Everybody spends its budget, so that excess demand is worth nothing at any prices: p·z(p) = 0."""
    values, budgets, prices = random_question(seed)
    supply = np.full(M, budgets.sum() / prices.sum())  # worth as much as the budgets
    with jax.enable_x64(True):
        demands = demands_of_each(values, budgets, prices)
    for name, demand in demands.items():
        excess = np.asarray(demand).sum(axis=0) - supply
        assert abs(prices @ excess) <= 1e-12 * budgets.sum(), name
        assert np.max(np.abs(excess)) > 1e-6, "the prices are no equilibrium"


@given(SEEDS, st.floats(-6, 6))
def test_homogeneity_of_degree_zero(seed, power):
    """Prices and budgets in pennies, not pounds: the same demand."""
    values, budgets, prices = random_question(seed)
    scale = 10.0**power
    with jax.enable_x64(True):
        one = demands_of_each(values, budgets, prices)
        other = demands_of_each(values, scale * budgets, scale * prices)
        dearer = demands_of_each(values, budgets, scale * prices)
    for name in one:
        assert np.allclose(one[name], other[name], rtol=1e-11, atol=0), name
        assert np.allclose(one[name], scale * np.asarray(dearer[name]), rtol=1e-11, atol=0), name


# Equilibria in closed form. Small markets that share no good are solved together, as islands of one large
# market: their equilibria do not touch, and the rules compile once.


def islands(markets: list[Market]) -> Market:
    """Return one market in which the buyers of each value only the goods of their own."""
    return Market(
        scipy.linalg.block_diag(*(market.dense() for market in markets)),
        np.concatenate([market.budgets for market in markets]),
        np.concatenate([market.supply for market in markets]),
        utility=markets[0].utility,
    )


def solved_together(markets: list[Market], tol: float = 1e-10) -> list[SimpleNamespace]:
    """Return each market's prices, allocation, utilities and money, from one solution of all."""
    answer = solve(islands(markets), tol=tol)
    assert answer.status == Status.SETTLED, answer.certificates
    parts, row, column = [], 0, 0
    for market in markets:
        rows, columns = slice(row, row + market.n), slice(column, column + market.m)
        row, column = rows.stop, columns.stop
        part = SimpleNamespace(prices=answer.prices[columns], allocation=answer.allocation[rows, columns])
        part.utilities, part.money = answer.utilities[rows], answer.money[rows]
        parts.append(part)
    return parts


def test_cobb_douglas_in_closed_form():
    market = drawn(1, COBB_DOUGLAS)
    alpha = market.dense() / market.dense().sum(axis=1, keepdims=True)
    answer = solve(market, tol=1e-10)
    expected = market.budgets @ alpha / market.supply
    assert np.allclose(answer.prices, expected, rtol=1e-9)
    assert np.allclose(answer.allocation, market.budgets[:, None] * alpha / expected, rtol=1e-8)


def fractions(*texts: str) -> np.ndarray:
    return np.array([float(Fraction(text)) for text in texts])


# Worked out by hand: valuations, budgets, then prices and the utilities that they leave. Where a buyer splits
# its money between goods their prices are in the ratio of its valuations; the money on each good adds up to
# its price.
LINEAR_BY_HAND = {
    "each its own good": ([[2, 1], [1, 3]], [1, 2], ("1", "2"), ("2", "3")),
    "both want the first, one splits": ([[4, 1], [2, 1]], [1, 1], ("4/3", "2/3"), ("3", "3/2")),
    "the rich one splits": ([[3, 1], [1, 2]], [5, 1], ("9/2", "3/2"), ("10/3", "4/3")),
    "three buyers, two goods": ([[1, 1], [2, 1], [1, 2]], [1, 1, 1], ("3/2", "3/2"), ("2/3", "4/3", "4/3")),
    "three goods": ([[6, 3, 2], [1, 1, 1]], [5, 1], ("36/11", "18/11", "12/11"), ("55/6", "11/12")),
    "a chain": ([[2, 1, 0], [0, 3, 1], [1, 0, 1]], [1, 4, 2], ("3/2", "4", "3/2"), ("4/3", "3", "4/3")),
}


def test_integer_linear_markets_by_hand():
    markets = [Market(values, budgets) for values, budgets, _, _ in LINEAR_BY_HAND.values()]
    answers = solved_together(markets, tol=1e-9)
    for (name, (_, _, prices, utilities)), answer in zip(LINEAR_BY_HAND.items(), answers, strict=True):
        assert np.allclose(answer.prices, fractions(*prices), rtol=1e-6), name
        assert np.allclose(answer.utilities, fractions(*utilities), rtol=1e-6), name


@pytest.mark.parametrize("name", LINEAR_BY_HAND)
def test_the_hand_did_not_slip(name):
    """Prices add up to the budgets, and utilities are what the budgets buy at the best rate: exactly."""
    values, budgets, prices, utilities = LINEAR_BY_HAND[name]
    paid = [Fraction(price) for price in prices]
    assert sum(paid) == sum(budgets)
    for row, budget, utility in zip(values, budgets, utilities, strict=True):
        assert Fraction(utility) == budget * max(value / price for value, price in zip(row, paid, strict=True))


def test_a_tie_that_nobody_needs():
    """Prices (2, 1, 1) leave the second buyer indifferent between two goods of which it buys one.

    There small changes of prices hardly cost anybody anything: the gap is small long before prices are exact.
    """
    answer = solve(Market([[6, 3, 2], [1, 1, 1]], [3, 1]), tol=1e-7)
    assert answer.status == Status.SETTLED
    assert np.allclose(answer.prices, [2, 1, 1], rtol=1e-3)
    assert np.allclose(answer.utilities, [9, 1], rtol=1e-3)


def two_goods(market: Market) -> np.ndarray:
    """Return prices of a linear market with two goods and supply one: the buyer at the margin decides.

    In the order of how much they prefer the first good, buyers spend on it until the rest cannot pay for the
    second: either p₁/p₂ is a buyer's v₁/v₂, who splits, or it lies between two buyers and nobody does.
    """
    values, total = market.dense(), market.budgets.sum()
    ratios = values[:, 0] / values[:, 1]
    order = np.argsort(-ratios)
    before = 0.0
    for buyer in order:
        after = before + market.budgets[buyer]
        first = total * ratios[buyer] / (1 + ratios[buyer])
        if first <= before:
            return np.array([before, total - before])
        if first <= after:
            return np.array([first, total - first])
        before = after
    return np.array([before, total - before])


def test_two_linear_goods_in_closed_form():
    rng = np.random.default_rng(0)
    markets = [Market(rng.random((5, 2)), np.exp(rng.normal(size=5))) for _ in range(6)]
    for answer, market in zip(solved_together(markets, tol=1e-9), markets, strict=True):
        assert np.allclose(answer.prices, two_goods(market), rtol=1e-6)


@pytest.mark.parametrize("rho", [0.5, -1.0])
def test_ces_by_hand(rho):
    value, supply, budgets = np.array([4.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 5.0])
    mirrored, alike = solved_together(
        [
            Market([[4.0, 1.0], [1.0, 4.0]], utility=CES(rho)),
            Market(np.tile(value, (3, 1)), budgets, supply, utility=CES(rho)),
        ]
    )
    # Mirror images of one another: equal prices, and quantities in the ratio (a/b)^(1/(1−ρ)).
    more = 4 ** (1 / (1 - rho))
    part = more / (1 + more)
    assert np.allclose(mirrored.prices, 1, rtol=1e-8)
    assert np.allclose(mirrored.allocation, [[part, 1 - part], [1 - part, part]], rtol=1e-8)
    # All alike: prices are the marginal utilities of parts of the supply, p_j ∝ v_j s_j^(ρ−1).
    marginal = value * supply ** (rho - 1)
    assert np.allclose(alike.prices, 8 * marginal / (marginal @ supply), rtol=1e-8)


def test_leontief_by_hand():
    mirrored, free = solved_together(
        [
            Market([[1.0, 2.0], [2.0, 1.0]], utility=LEONTIEF),
            Market([[2.0, 1.0], [3.0, 1.0]], [1.0, 3.0], utility=LEONTIEF),
        ],
        tol=1e-9,
    )
    # Mirror images, each using a third of one good and two thirds of the other.
    assert np.allclose(mirrored.prices, 1, rtol=1e-7) and np.allclose(mirrored.utilities, 1 / 3, rtol=1e-7)
    # The first good runs out and earns all the money; of the second 3/8 are used, and it is free.
    assert np.allclose(free.prices, [4, 0], atol=1e-7)
    assert np.allclose(free.utilities, [1 / 8, 1 / 4], rtol=1e-7)
    assert free.allocation[:, 1].sum() == pytest.approx(3 / 8, rel=1e-6)


def test_quasilinear_by_hand():
    left, keen, poor = solved_together(
        [
            Market([[3.0, 1.0], [1.0, 2.0]], [10.0, 10.0], utility=QUASILINEAR),
            Market([[3.0, 1.0], [2.0, 1.0]], [1.0, 10.0], utility=QUASILINEAR),
            Market([[3.0, 1.0], [1.0, 3.0]], [0.5, 0.5], utility=QUASILINEAR),
        ],
        tol=1e-9,
    )
    # Money is left, so each good costs what it is worth to the one who values it most.
    assert np.allclose(left.prices, [3, 2], rtol=1e-6) and np.allclose(left.money, [7, 8], rtol=1e-6)
    # The keen one has money for half only; the other pays its value for the rest, and keeps what is left.
    assert np.allclose(keen.prices, [2, 1], rtol=1e-6)
    assert np.allclose(keen.allocation[:, 0], 0.5, rtol=1e-6)
    assert np.allclose(keen.money, [0, 8], atol=1e-5)
    # No money is left, as if it had no worth of its own.
    assert np.allclose(poor.prices, 0.5, rtol=1e-6) and np.allclose(poor.money, 0, atol=1e-6)


# Scaling


@pytest.mark.parametrize("name", ["linear", "substitutes", "complements"])
def test_prices_scale_with_budgets_and_against_supply(name):
    market = drawn(3, ALL[name])
    prices = solve(market, tol=1e-9).prices
    richer = Market(market.dense(), 1000 * market.budgets, market.supply, utility=market.utility)
    assert np.allclose(solve(richer, tol=1e-9).prices, 1000 * prices, rtol=1e-6)
    more = Market(market.dense(), market.budgets, 1000 * market.supply, utility=market.utility)
    assert np.allclose(solve(more, tol=1e-9).prices, prices / 1000, rtol=1e-6)


def test_units_of_goods_and_of_utility_do_not_matter():
    market = drawn(4)
    prices = solve(market, tol=1e-9).prices
    units, scales = np.array([1e-3, 1.0, 60.0, 1e4]), np.logspace(-4, 4, N)
    other = Market(market.dense() / units * scales[:, None], market.budgets, market.supply * units)
    assert np.allclose(solve(other, tol=1e-9).prices, prices / units, rtol=1e-6)


# Welfare


@pytest.mark.parametrize("seed", range(3))
def test_first_welfare_theorem(seed):
    market = drawn(seed)
    assert pareto_slack(market, solve(market, tol=1e-9).allocation) <= 1e-7
    # Strategists and equal shares leave something on the table.
    assert pareto_slack(market, solve_strategic(market).allocation) > 1e-4
    assert pareto_slack(market, np.tile(market.supply / N, (N, 1))) > 1e-2


def test_first_welfare_theorem_for_complements():
    market = drawn(5, LEONTIEF)
    answer = solve(market, tol=1e-9)
    assert pareto_slack(market, answer.allocation) <= 1e-7
    assert pareto_slack(market, answer.allocation * 0.99) > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_no_envy_at_equal_budgets(name):
    market = drawn(6, ALL[name], equal=True)
    answer = solve(market, tol=1e-9)
    assert envy(market, answer.allocation) <= 1e-7
    assert envy(market, answer.allocation[::-1]) > 0.01
    # At unequal budgets nobody would rather have spent as another did.
    unequal = drawn(6, ALL[name])
    assert envy(unequal, solve(unequal, tol=1e-9).allocation) <= 1e-7


# Games


@pytest.mark.parametrize("n", [1, 3, 8])
def test_cournot(n):
    example = runpy.run_path(str(EXAMPLES / "cournot.py"))
    with jax.enable_x64(True):
        system = example["Cournot"](a=12.0, b=2.0, c=3.0)
        first = jnp.asarray(np.random.default_rng(n).random(n))
        ended = settle(system, example["begin"](first), rtol=1e-12, atol=1e-12, throw=True)
        made = np.asarray(ended.state.agents.output)
    assert np.allclose(made, 9 / (2 * (n + 1)), rtol=1e-9)
    share = system.welfare(made.sum()) / system.welfare(9 / 2)
    assert share == pytest.approx(1 - 1 / (n + 1) ** 2, rel=1e-12)


def test_prisoners_dilemma():
    example = runpy.run_path(str(EXAMPLES / "prisoners.py"))
    for first in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.3, 0.6)]:
        choices = example["rest"](first)
        assert np.array_equal(choices, [1, 1]), first
    served = example["years_served"]
    assert np.array_equal(served(np.ones(2)), [5, 5])
    assert np.array_equal(served(np.zeros(2)), [1, 1])  # better for both, and no rest:
    assert np.array_equal(served(np.array([1.0, 0.0])), [0, 10])


def test_silence_is_no_rest():
    example = runpy.run_path(str(EXAMPLES / "prisoners.py"))
    state = State(example["Prisoner"](jnp.arange(2, dtype=jnp.int32)), jnp.zeros((2, 1)))
    ended = run(example["Dilemma"](jnp.asarray(example["YEARS"], jnp.float32)), state, 1, key=jax.random.key(0))
    assert np.array_equal(np.asarray(ended.state.signal), [[1], [1]])
