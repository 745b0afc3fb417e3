"""The market's answers: certified on every instance, by every law, on any number of devices."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from benchmarks.problems import awkward
from catallax import Sequence, Status, mesh
from catallax.market.certify import best_utilities, certify
from catallax.market.interior import Quote, steady_cholesky
from catallax.market.problem import CES, COBB_DOUGLAS, LEONTIEF, LINEAR, QUASILINEAR, Market
from catallax.market.rules import ElasticDemand, ProportionalResponse, Tatonnement
from catallax.market.solve import SINGLE_TO, Normal, first_state, solve
from catallax.testing import check_system

INSTANCES = {name: (v, b, s) for name, v, b, s in awkward()}


def small(utility=LINEAR, n=12, m=5, seed=3, scale=1.0):
    draw = np.random.default_rng(seed)
    return Market(draw.random((n, m)) + 0.05, draw.random(n) * scale + 0.1, draw.random(m) + 0.5, utility=utility)


LONG = ("one percent more goods", "more goods than buyers", "one percent of goods", "one percent csr")
"""Instances of a shape of their own, which is compiled much longer than it runs."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.bench] * (name in LONG)) for name in INSTANCES])
def test_every_linear_instance_reaches_its_gap(name):
    valuations, budgets, supply = INSTANCES[name]
    answer = solve(Market(valuations, budgets, supply), tol=1e-6)
    values = {c.name: c.value for c in answer.certificates}
    assert values["gap"] <= 1e-6
    assert values["clearing"] <= 1e-9
    # Never a wrong "settled", and no failure without a certificate that says so.
    assert (answer.status == Status.SETTLED) == all(c.holds for c in answer.certificates)
    if name != "badly scaled minimum":
        assert answer.status == Status.SETTLED


@pytest.fixture
def single(monkeypatch):
    """Every table, however small, begins in single precision."""
    monkeypatch.setattr(sys.modules[solve.__module__], "SINGLE_FROM", 0)


@pytest.mark.parametrize("utility", [LINEAR, pytest.param(QUASILINEAR, marks=pytest.mark.bench)], ids=str)
def test_a_beginning_in_single_precision_comes_to_the_same_rest(single, utility):
    market = small(utility, n=60, m=8)
    answer = solve(market, tol=1e-9)
    assert answer.status == Status.SETTLED
    recorded, distance = answer.history
    assert recorded.tolist() == list(range(1, answer.rounds + 1))
    # The first part was left where it should be, and not by chance never entered.
    assert np.any((distance[:-1] <= SINGLE_TO) & (distance[1:] <= SINGLE_TO))
    np.testing.assert_allclose(answer.prices, solve(market, law="proportional-response", tol=1e-4).prices, rtol=2e-2)
    assert answer.prices.dtype == np.float64 and max(c.value for c in answer.certificates) <= 1e-9


@pytest.mark.bench
def test_a_beginning_in_single_precision_that_leads_nowhere_is_forgotten(single):
    # In single precision, budgets over fifty decades are none at all.
    draw = np.random.default_rng(11)
    market = Market(draw.random((30, 6)) + 0.05, 10.0 ** draw.uniform(-50, 0, 30))
    answer = solve(market, tol=1e-6)
    assert answer.status == Status.SETTLED, [(c.name, c.value) for c in answer.certificates]


def test_a_beginning_in_single_precision_may_run_out_of_rounds(single):
    answer = solve(small(n=60, m=8), max_rounds=3)
    assert (answer.status, answer.rounds, len(answer.history[0])) == (Status.OUT_OF_ROUNDS, 3, 3)


@pytest.mark.parametrize("utility", [QUASILINEAR, CES(0.5), CES(0.97), COBB_DOUGLAS, CES(-3.0), LEONTIEF], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "pareto budgets",
        pytest.param("more goods than buyers", marks=pytest.mark.bench),
        pytest.param("one percent of goods", marks=pytest.mark.bench),
        pytest.param("small integers", marks=pytest.mark.bench),
    ],
)
def test_other_utilities_settle(name, utility):
    answer = solve(Market(*INSTANCES[name], utility=utility), tol=1e-6)
    assert answer.status == Status.SETTLED, [(c.name, c.value) for c in answer.certificates]


@pytest.mark.parametrize("law", ["tatonnement", "proportional-response"])
@pytest.mark.parametrize("utility", [CES(0.5), COBB_DOUGLAS, CES(-1.0)], ids=str)
def test_textbook_laws_come_to_the_same_rest(law, utility):
    market = small(utility)
    fast, slow = solve(market, tol=1e-9), solve(market, law=law, tol=1e-7)
    np.testing.assert_allclose(slow.prices, fast.prices, rtol=1e-5)


def test_proportional_response_approaches_linear_prices():
    market = small()
    slow = solve(market, law="proportional-response", tol=1e-4)
    assert slow.status == Status.SETTLED
    np.testing.assert_allclose(slow.prices, solve(market).prices, rtol=2e-2)


def test_tatonnement_on_linear_demand_is_honest():
    answer = solve(small(), law="tatonnement", max_rounds=300)
    assert answer.status == Status.OUT_OF_ROUNDS
    assert not all(c.holds for c in answer.certificates)


def test_too_few_rounds_is_said():
    answer = solve(small(n=40), max_rounds=3)
    assert answer.status == Status.OUT_OF_ROUNDS


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law of motion"):
        solve(small(), law="walras")


@pytest.mark.parametrize(
    "utility", [LINEAR, pytest.param(QUASILINEAR, marks=pytest.mark.bench), CES(0.5), LEONTIEF], ids=str
)
def test_sparse_and_dense_agree(utility):
    draw = np.random.default_rng(5)
    valuations = draw.random((60, 40)) * (draw.random((60, 40)) < 0.08)
    valuations[np.arange(60), draw.integers(0, 40, 60)] = 1.0
    valuations[draw.integers(0, 60, 40), np.arange(40)] = 0.7
    budgets = draw.random(60) + 0.1
    dense = solve(Market(valuations, budgets, utility=utility), tol=1e-8)
    sparse = solve(Market(scipy.sparse.csr_array(valuations), budgets, utility=utility), tol=1e-8)
    assert scipy.sparse.issparse(sparse.allocation)
    np.testing.assert_allclose(sparse.prices, dense.prices, rtol=1e-6, atol=1e-9)


def test_a_poor_buyer_and_an_unwanted_good():
    market = small(n=8)
    valuations = np.column_stack([market.dense(), np.zeros(8)])
    budgets = market.budgets.copy()
    budgets[2] = 0.0
    answer = solve(Market(valuations, budgets))
    assert answer.status == Status.SETTLED
    assert answer.prices[-1] == 0
    assert not answer.allocation[2].any()
    assert not answer.allocation[:, -1].any()


def test_a_first_price_that_is_right_already_is_not_mistaken_for_no_direction():
    answer = solve(Market([[2.0, 1.0], [1.0, 2.0]]), tol=1e-10)
    assert answer.status == Status.SETTLED
    np.testing.assert_allclose(answer.prices, 1.0)
    np.testing.assert_allclose(answer.allocation, np.eye(2), atol=1e-9)


def test_units_do_not_matter():
    market = small(n=30)
    answer = solve(market, tol=1e-9)
    scaled = Market(
        market.dense() * np.logspace(-5, 5, 30)[:, None] * np.logspace(-3, 3, 5),
        market.budgets * 1e4,
        market.supply * np.logspace(3, -3, 5),
    )
    again = solve(scaled, tol=1e-9)
    np.testing.assert_allclose(again.prices * np.logspace(3, -3, 5) / 1e4, answer.prices, rtol=1e-6)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.bench), 8])
def test_devices_do_not_matter(devices):
    market = small(n=37)
    np.testing.assert_allclose(solve(market, mesh=mesh(devices)).prices, solve(market).prices, rtol=1e-9)


def test_blocks_do_not_matter():
    market = small(n=37)
    np.testing.assert_allclose(solve(market, block=5).prices, solve(market).prices, rtol=1e-9)


def test_the_solve_is_float64_and_leaves_the_setting_alone():
    before = jax.config.jax_enable_x64
    answer = solve(small(), tol=1e-12)
    assert jax.config.jax_enable_x64 == before
    assert answer.prices.dtype == np.float64
    # Out of reach in float32, whatever the dtype of the container.
    assert {c.name: c.value for c in answer.certificates}["gap"] < 1e-11


def test_a_second_market_of_the_same_shape_compiles_nothing(monkeypatch):
    traces = []
    respond = Quote.respond
    monkeypatch.setattr(Quote, "respond", lambda *args: traces.append(1) or respond(*args))
    solve(small(n=23, seed=1))
    traces.clear()
    solve(small(n=23, seed=2), tol=1e-4)
    # Laying out the agents looks at one agent's message without compiling; the loop itself is not traced again.
    assert len(traces) <= 2


@pytest.mark.parametrize("utility", [LINEAR, QUASILINEAR, CES(0.5), CES(-2.0), COBB_DOUGLAS, LEONTIEF], ids=str)
def test_certificates_reject_wrong_answers(utility):
    market = small(utility, scale=20.0)
    answer = solve(market, tol=1e-8)
    assert all(c.holds for c in answer.certificates)
    swapped = answer.allocation[::-1]
    assert not all(c.holds for c in certify(market, answer.prices, swapped, answer.money))
    assert not all(c.holds for c in certify(market, answer.prices[::-1], answer.allocation, answer.money))
    assert not all(c.holds for c in certify(market, answer.prices, answer.allocation * 0.999, answer.money))
    assert not all(c.holds for c in certify(market, answer.prices * np.nan, answer.allocation, answer.money))


def test_the_best_affordable_utility_is_not_beaten_by_chance():
    draw = np.random.default_rng(11)
    prices = draw.random(5) + 0.1
    for utility in (LINEAR, CES(0.5), CES(-2.0), COBB_DOUGLAS, LEONTIEF):
        market = small(utility)
        best = best_utilities(market, prices)
        shares = draw.dirichlet(np.ones(5), size=(400, market.n))
        bundles = shares * market.budgets[:, None] / prices
        tried = np.array([utility.of(market.dense(), bundle) for bundle in bundles])
        assert np.all(tried <= best * (1 + 1e-12))
        assert np.all(tried.max(axis=0) > 0.5 * best)


def test_the_cholesky_factor_of_a_matrix_just_short_of_definite():
    with jax.enable_x64(True):
        line = jnp.linspace(1.0, 2.0, 6)[:, None]
        matrix = jnp.minimum(1.0, (line @ line.T) / (line * line.T)) - 1e-14 * jnp.eye(6)
        factor = steady_cholesky(matrix)
        np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-10)
        assert np.all(np.isnan(steady_cholesky(-jnp.eye(3))[-1]))


def laws():
    quick = {"differentiable": False}
    yield "tatonnement", Tatonnement(0.5, 0.1), CES(0.5), {}
    yield "proportional response", ProportionalResponse(0.5), CES(0.5), {}
    yield "elastic demand", ElasticDemand(0.5), CES(0.5), quick
    yield "complements", None, LEONTIEF, quick
    yield pytest.param("central path", None, LINEAR, quick, marks=pytest.mark.bench)


@pytest.mark.parametrize(
    ("name", "system", "utility", "options"), list(laws()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_conformance(name, system, utility, options):
    normal = Normal.of(small(utility, n=23, m=7))
    with jax.enable_x64(True):
        law = {"proportional response": "proportional-response", "tatonnement": "tatonnement"}.get(name, "fast")
        found, state = first_state(normal, law)
        assert system is None or type(system) is type(found)
        state = jax.tree.map(jnp.asarray, state)
        # NaN where another agent was is caught; the rules themselves must not divide by it.
        check_system(found, state, key=jax.random.key(7), **options)


def test_spending_is_conserved_by_proportional_response():
    normal = Normal.of(small(CES(0.5), n=23))
    with jax.enable_x64(True):
        from catallax import run

        system, state = first_state(normal, "proportional-response")
        left = run(system, state, 50).state
        assert abs(float(left.signal.sum()) - 1) < 1e-12
        np.testing.assert_allclose(left.agents.bids.sum(axis=1), normal.budget, rtol=1e-12)


def test_the_central_path_keeps_goods_sold_and_slacks_positive():
    normal = Normal.of(small(n=23))
    with jax.enable_x64(True):
        from catallax import run

        system, state = first_state(normal, "fast")
        assert isinstance(system, Sequence)
        for _ in range(6):
            state = run(system, state, 1).state
            traders, price = state.agents, state.signal.price
            np.testing.assert_allclose(np.asarray(traders.bundle).sum(axis=0), 1.0, rtol=1e-9)
            slack = (
                price[None, :] - traders.value * (traders.rate + state.signal.price_rate * traders.rate_step)[:, None]
            )
            assert np.all(np.asarray(slack) > 0)
            assert np.all(np.asarray(traders.bundle) > 0)
        assert eqx.is_array(state.signal.gap)
