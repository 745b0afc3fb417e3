"""Measures of welfare, by hand and against allocations that are wasteful or unjust on purpose."""

import numpy as np
import pytest
import scipy.sparse

from catallax import InputError
from catallax.market.problem import CES, COBB_DOUGLAS, LEONTIEF, LINEAR, QUASILINEAR, Market
from catallax.market.welfare import (
    envy,
    nash_welfare,
    pareto_slack,
    relative_utilities,
    replicas,
    utilitarian_welfare,
)

HALVES = np.full((2, 2), 0.5)
OPPOSED = Market([[3.0, 1.0], [1.0, 3.0]])
"""Halves give everybody half of everything; each is worth three quarters to the one who prefers it."""


def test_relative_utilities_by_hand():
    assert np.allclose(relative_utilities(OPPOSED, HALVES), 0.5)
    assert np.allclose(relative_utilities(OPPOSED, np.eye(2)), 0.75)
    # Of a Leontief buyer's goods the scarcest counts: with all supply it has min(2/1, 3/2) = 1.5 units.
    market = Market([[1.0, 2.0]], supply=[2.0, 3.0], utility=LEONTIEF)
    assert np.allclose(relative_utilities(market, [[1.0, 1.0]]), (1 / 2) / 1.5)


def test_welfare_by_hand():
    market = Market([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, 3.0, 0.0])
    held = np.array([[0.25, 0.0], [0.0, 0.5], [0.75, 0.5]])
    assert nash_welfare(market, held) == pytest.approx(0.25**0.25 * 0.5**0.75)
    assert utilitarian_welfare(market, held) == pytest.approx((0.25 + 0.5 + 1.25 / 2) / 3)
    assert nash_welfare(market, np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == 0


@pytest.mark.parametrize("utility", [LINEAR, COBB_DOUGLAS, LEONTIEF, CES(0.5), CES(-1.0)])
def test_welfare_does_not_depend_on_the_scale_of_valuations(utility):
    rng = np.random.default_rng(1)
    values, held = rng.random((5, 3)), rng.dirichlet(np.ones(5), 3).T
    one = Market(values, utility=utility)
    other = Market(values * np.logspace(-3, 3, 5)[:, None], utility=utility)
    assert nash_welfare(one, held) == pytest.approx(nash_welfare(other, held), rel=1e-12)
    assert utilitarian_welfare(one, held) == pytest.approx(utilitarian_welfare(other, held), rel=1e-12)


def test_sparse_and_dense_agree():
    rng = np.random.default_rng(2)
    values = rng.random((6, 5)) * (rng.random((6, 5)) < 0.6) + np.eye(6, 5) + (np.arange(6) == 5)[:, None]
    held = rng.dirichlet(np.ones(6), 5).T * (values > 0)
    dense, sparse = Market(values), Market(scipy.sparse.csr_array(values))
    kept = scipy.sparse.csr_array(held)
    for measure in (nash_welfare, utilitarian_welfare, pareto_slack, envy):
        assert measure(sparse, kept) == pytest.approx(measure(dense, held), rel=1e-9), measure.__name__


def test_pareto_slack_by_hand():
    # From halves, each can have its own good whole: from 1/2 to 3/4 for both.
    assert pareto_slack(OPPOSED, HALVES) == pytest.approx(0.25, abs=1e-9)
    assert pareto_slack(OPPOSED, np.eye(2)) == pytest.approx(0, abs=1e-9)
    # All for one is efficient, however unjust; throwing a tenth away is not.
    assert pareto_slack(OPPOSED, np.array([[1.0, 1.0], [0.0, 0.0]])) == pytest.approx(0, abs=1e-9)
    assert pareto_slack(OPPOSED, 0.9 * np.eye(2)) == pytest.approx(0.075, abs=1e-9)
    # What lies with somebody without money is slack as well.
    market = Market([[3.0, 1.0], [1.0, 3.0]], [1.0, 0.0])
    assert pareto_slack(market, np.eye(2)) == pytest.approx((1 - 0.75) / 2, abs=1e-9)


def test_pareto_slack_of_complements_by_hand():
    # One unit of each good to make one unit of utility; three of the first good are too many.
    market = Market(np.ones((2, 2)), supply=[3.0, 2.0], utility=LEONTIEF)
    assert pareto_slack(market, np.array([[2.0, 1.0], [1.0, 1.0]])) == pytest.approx(0, abs=1e-9)
    # With goods unmatched the first buyer has 1/2 a unit and the second 1, of 2 together.
    assert pareto_slack(market, np.array([[0.5, 1.0], [2.5, 1.0]])) == pytest.approx(0.125, abs=1e-9)


def test_pareto_slack_refuses_what_it_cannot_answer():
    with pytest.raises(InputError, match="linear program"):
        pareto_slack(Market([[1.0]], utility=COBB_DOUGLAS), np.ones((1, 1)))
    with pytest.raises(InputError, match="linear program"):
        pareto_slack(Market([[1.0]], utility=QUASILINEAR), np.ones((1, 1)))
    with pytest.raises(RuntimeError, match="not solved"):
        pareto_slack(OPPOSED, np.full((2, 2), 2.0))  # more than there is


def test_envy_by_hand():
    assert envy(OPPOSED, np.eye(2)) == 0
    assert envy(OPPOSED, np.eye(2)[::-1]) == pytest.approx(2)  # 3 from the other's bundle, 1 from the own
    assert envy(OPPOSED, np.array([[1.0, 1.0], [0.0, 0.0]])) == np.inf
    # Three times the money may buy three times the bundle without envy, and no more.
    market = Market(np.ones((2, 1)), [3.0, 1.0])
    assert envy(market, np.array([[0.75], [0.25]])) == pytest.approx(0, abs=1e-15)
    assert envy(market, np.array([[0.9], [0.1]])) == pytest.approx(2)
    # Without money one neither envies nor is envied.
    assert envy(Market(np.ones((2, 1)), [0.0, 1.0]), np.array([[0.5], [0.5]])) == 0


def test_envy_refuses_what_it_cannot_answer():
    with pytest.raises(InputError, match="keep money"):
        envy(Market([[1.0]], utility=QUASILINEAR), np.ones((1, 1)))
    with pytest.raises(InputError, match="too many"):
        envy(Market(np.ones((8000, 1))), np.ones((8000, 1)))


def test_replicas_copy_everything():
    market = Market([[1.0, 2.0]], [3.0], [4.0, 5.0], buyers=["Ada"], goods=["x", "y"])
    twice = replicas(market, 2)
    assert np.array_equal(twice.dense(), [[1, 2], [1, 2]])
    assert np.array_equal(twice.budgets, [3, 3]) and np.array_equal(twice.supply, [8, 10])
    assert tuple(twice.buyers) == ("Ada (1)", "Ada (2)") and tuple(twice.goods) == ("x", "y")
    assert tuple(replicas(market, 1).buyers) == ("Ada",)
