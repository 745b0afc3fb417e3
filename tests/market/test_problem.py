"""Problems refuse what they cannot mean, and utilities obey their laws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from catallax.errors import InputError
from catallax.market.problem import (
    CES,
    COBB_DOUGLAS,
    LEONTIEF,
    LINEAR,
    QUASILINEAR,
    DefaultNames,
    Exchange,
    Market,
    Utility,
    utility_named,
)

VALUES = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]])
EVERY = [LINEAR, QUASILINEAR, COBB_DOUGLAS, LEONTIEF, CES(0.5), CES(-1.0), CES(-30.0), CES(0.01)]


def changed(row, column, value):
    values = VALUES.copy()
    values[row, column] = value
    return values


# What a market is


def test_defaults():
    market = Market(VALUES)
    assert (market.n, market.m, market.nnz) == (2, 3, 4)
    assert market.budgets.tolist() == [1, 1]
    assert market.supply.tolist() == [1, 1, 1]
    assert market.utility is LINEAR
    assert market.buyers == ("buyer 1", "buyer 2")
    assert tuple(market.goods) == ("good 1", "good 2", "good 3")
    assert repr(market) == "Market(2 buyers, 3 goods, 4 valuations, linear)"


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, sparse.csr_array, sparse.coo_matrix, sparse.csc_array])
def test_dense_and_sparse_valuations_are_one_market(kind):
    market = Market(kind(VALUES), [1, 0], [1, 2, 3])
    assert market.dense().tolist() == VALUES.tolist()
    assert market.sparse().toarray().tolist() == VALUES.tolist()
    assert market.nnz == market.sparse().nnz == 4
    assert market.dense().dtype == np.float64 and market.budgets.dtype == np.float64


def test_sparse_valuations_are_canonical_and_the_users_stay_as_they_were():
    data, rows, columns = np.array([1.0, 2.0, 0.0, 5.0]), [0, 0, 0, 1], [1, 1, 0, 0]
    users = sparse.coo_array((data, (rows, columns)), shape=(2, 2))
    by_row = sparse.csr_array((data.copy(), [1, 1, 0, 0], [0, 3, 4]), shape=(2, 2))
    for each in (users, by_row):
        market = Market(each)
        assert market.sparse().data.tolist() == [3.0, 5.0]
        assert each.nnz == 4


def test_a_market_is_frozen_and_can_be_varied():
    market = Market(VALUES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        market.budgets = np.ones(2)  # type: ignore[misc]
    with pytest.raises(ValueError):
        market.valuations[0, 0] = 9.0  # type: ignore[index]
    richer = dataclasses.replace(market, budgets=[2.0, 1.0])
    assert richer.budgets.tolist() == [2, 1] and richer.buyers is market.buyers


def test_names_are_made_when_asked_for():
    market = Market(sparse.csr_array(np.ones((200_000, 1))))
    assert isinstance(market.buyers, DefaultNames)
    assert market.buyers[-1] == "buyer 200000"
    assert market.buyers[1:3] == ("buyer 2", "buyer 3")
    assert market.buyers == Market(np.ones((200_000, 1))).buyers
    names = DefaultNames("good", 2)
    assert hash(names) == hash(("good 1", "good 2")) and names != ("good 1",) and names != "good 1"
    with pytest.raises(IndexError):
        names[2]


def test_a_good_that_nobody_values_and_a_poor_buyer_are_allowed():
    assert Market(changed(1, 2, 0.0), [0, 1]).nnz == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(valuations=changed(1, 2, -1)), "valuation of buyer 'Bo' for good 'c' is -1.0"),
        (dict(valuations=changed(1, 0, np.nan)), "valuation of buyer 'Bo' for good 'a' is nan"),
        (dict(valuations=changed(0, 1, np.inf)), "valuation of buyer 'Al' for good 'b' is inf"),
        (
            dict(valuations=sparse.csr_array(changed(1, 2, -1))),
            "valuation of buyer 'Bo' for good 'c' is -1.0",
        ),
        (dict(valuations=[[1, 1, 1], [0, 0, 0]]), "buyer 'Bo' values nothing"),
        (dict(valuations=sparse.csr_array([[1, 1, 1], [0, 0, 0]])), "buyer 'Bo' values nothing"),
        (dict(valuations=np.ones(3)), "shape (3,)"),
        (dict(valuations=np.ones((0, 3))), "shape (0, 3)"),
        (dict(valuations=np.ones((2, 0))), "shape (2, 0)"),
        (dict(valuations=[["x", "y", "z"]] * 2), "not all real numbers"),
        (dict(valuations=VALUES + 0j), "not all real numbers"),
        (dict(valuations=sparse.csr_array(VALUES + 0j)), "not real numbers"),
        (dict(budgets=[1]), "budgets have shape (1,)"),
        (dict(budgets=[1, -1]), "budget of buyer 'Bo' is -1.0"),
        (dict(budgets=[np.nan, 1]), "budget of buyer 'Al' is nan"),
        (dict(budgets=[0, 0]), "all budgets are zero"),
        (dict(budgets=[1e308, 1e308]), "more than a float64"),
        (dict(supply=[1, 0, 1]), "supply of good 'b' is zero"),
        (dict(supply=[1, 1, -2]), "supply of good 'c' is -2.0"),
        (dict(supply=[1, 1]), "supply have shape (2,)"),
        (dict(buyers=("Al", "Al")), "two buyers are called 'Al'"),
        (dict(goods=("a", "b")), "2 names for 3 goods"),
        (dict(buyers=("Al", " ")), "name of buyer 2 is ' '"),
        (dict(buyers="Al"), "one string"),
    ],
)
def test_a_market_refuses(arguments, said):
    arguments = {"valuations": VALUES, "buyers": ("Al", "Bo"), "goods": ("a", "b", "c")} | arguments
    with np.errstate(all="ignore"), pytest.raises(InputError) as caught:
        Market(**arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_negative_entry_cannot_hide_behind_a_duplicate():
    entries = sparse.coo_array(([3.0, -1.0, 1.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2)).tocsr()
    unsummed = sparse.csr_array(([3.0, -1.0, 1.0], [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    assert Market(entries).nnz == 2  # SciPy itself has added them up
    with pytest.raises(InputError, match=r"'buyer 1' for good 'good 1' is -1\.0"):
        Market(unsummed)


def test_a_corrupt_sparse_matrix_is_refused():
    matrix = sparse.csr_array(VALUES)
    matrix.indices[0] = 77
    with pytest.raises(InputError, match="valid sparse matrix"):
        Market(matrix)


def test_exchange():
    economy = Exchange(VALUES, [[1, 0, 2], [0, 3, 0]])
    assert economy.supply.tolist() == [1, 3, 2]
    assert economy.budgets_at(np.array([1.0, 2.0, 3.0])).tolist() == [7, 6]
    market = economy.market_at(np.array([1.0, 2.0, 3.0]))
    assert market.budgets.tolist() == [7, 6] and market.supply.tolist() == [1, 3, 2]
    both_sparse = Exchange(sparse.csr_array(VALUES), sparse.csr_array([[1, 0, 2], [0, 3, 0]]))
    assert both_sparse.supply.tolist() == [1, 3, 2] and both_sparse.dense().tolist() == VALUES.tolist()
    assert both_sparse.nnz == both_sparse.sparse().nnz == 4
    assert repr(economy) == "Exchange(2 buyers, 3 goods, 4 valuations, linear)"


@pytest.mark.parametrize(
    ("endowments", "utility", "said"),
    [
        ([[1, 0, 0], [0, 1, 0]], LINEAR, "supply of good 'good 3' is zero"),
        ([[1, 0, 1], [0, -1, 0]], LINEAR, "endowment of buyer 'buyer 2' for good 'good 2' is -1.0"),
        ([[1, 1], [1, 1]], LINEAR, "shape of the valuations, (2, 3)"),
        (np.ones((2, 3)), QUASILINEAR, "no money"),
    ],
)
def test_an_exchange_refuses(endowments, utility, said):
    with pytest.raises(InputError) as caught:
        Exchange(VALUES, endowments, utility=utility)
    assert said in str(caught.value)


# Utilities


def test_utilities_by_hand():
    x = np.array([[4.0, 9.0, 7.0], [5.0, 0.25, 1.0]])
    by_hand = {
        LINEAR: [22, 4.75],
        QUASILINEAR: [22, 4.75],
        COBB_DOUGLAS: [4 ** (1 / 3) * 9 ** (2 / 3), 0.25 ** (3 / 7)],
        LEONTIEF: [4, 0.25 / 3],
        CES(0.5): [(2 + 6) ** 2, (1.5 + 4) ** 2],
        CES(-1.0): [1 / (1 / 4 + 2 / 9), 1 / (12 + 4)],
    }
    for utility, expected in by_hand.items():
        for v in (VALUES, sparse.csr_array(VALUES)):
            for held in (x, sparse.csr_array(x), sparse.csr_array(np.where(VALUES, x, 0))):
                np.testing.assert_allclose(utility.of(v, held), expected, rtol=1e-14)
    np.testing.assert_allclose(QUASILINEAR.of(VALUES, x, money=[1.0, 2.0]), [23, 6.75])
    np.testing.assert_allclose(LINEAR.of(VALUES, x, money=[1.0, 2.0]), [22, 4.75])


@pytest.mark.parametrize("utility", EVERY, ids=repr)
def test_nothing_is_worth_nothing(utility):
    nothing = np.zeros((2, 3))
    assert utility.of(VALUES, nothing).tolist() == [0, 0]
    assert utility.of(nothing, VALUES).tolist() == [0, 0]
    some = np.array([[1.0, 0.0, 9.0], [9.0, 1.0, 0.0]])  # each lacks a good that it values
    assert np.all((utility.of(VALUES, some) > 0) == (utility.rho > 0))


@pytest.mark.parametrize("utility", EVERY, ids=repr)
def test_a_negative_quantity_never_looks_good(utility):
    owing = utility.of(np.ones((1, 2)), np.array([[-2.0, 1.0]]))
    assert not owing[0] > 0


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 2\)"):
        LINEAR.of(VALUES, np.ones((2, 2)))


positive = st.floats(1e-3, 1e3)
matrices = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(
        arrays(float, shape, elements=st.one_of(st.just(0.0), positive)),
        arrays(float, shape, elements=positive),
    )
)
rhos = st.one_of(st.floats(0.05, 1.0), st.floats(-50.0, -0.05), st.just(-np.inf), st.just(0.0))


@given(matrices, rhos, st.floats(1e-3, 1e3))
def test_homogeneous_of_degree_one(pair, rho, scale):
    v, x = pair
    utility = Utility(rho)
    np.testing.assert_allclose(utility.of(v, scale * x), scale * utility.of(v, x), rtol=1e-11)


@given(matrices, rhos)
def test_sparse_and_dense_utilities_agree(pair, rho):
    v, x = pair
    dense = Utility(rho).of(v, x)
    np.testing.assert_allclose(Utility(rho).of(sparse.csr_array(v), sparse.csr_array(x)), dense, rtol=1e-13)


@given(matrices)
def test_limits_of_ces(pair):
    v, x = pair
    shares = v / np.maximum(v.sum(axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(Utility(1 - 1e-9).of(v, x), LINEAR.of(v, x), rtol=1e-6)
    for rho in (1e-7, -1e-7):
        np.testing.assert_allclose(Utility(rho).of(shares, x), COBB_DOUGLAS.of(v, x), rtol=1e-5)
    # (sum (x/v)**rho)**(1/rho) lies below min x/v by a factor of at most m**(1/rho). The weights v**-rho must
    # stay in range, so v is taken close to one.
    near = np.where(v > 0, 1 + v / 1e4, 0)
    rho = -3000.0
    weights = np.where(v > 0, np.maximum(near, 1e-300) ** -rho, 0)
    np.testing.assert_allclose(Utility(rho).of(weights, x), LEONTIEF.of(near, x), rtol=2e-3)


def test_extreme_quantities_do_not_overflow():
    x = np.array([[1e-200, 1e-190], [1e200, 1e190]])
    u = CES(-5.0).of(np.ones((2, 2)), x)
    np.testing.assert_allclose(u, [1e-200, 1e190], rtol=1e-9)
    u = CES(0.9).of(np.ones((2, 2)), x)
    assert np.isfinite(u).all() and (u > 0).all()


def test_utilities_by_name():
    for each in (LINEAR, QUASILINEAR, COBB_DOUGLAS, LEONTIEF):
        assert utility_named(each.name) == each
    assert utility_named("Cobb_Douglas") == COBB_DOUGLAS
    assert utility_named("ces", 0.5) == CES(0.5) and CES(0.5).name == "ces"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: utility_named("lineer"), "did you mean 'linear'?"),
        (lambda: utility_named("zzz"), "choose from ces, linear"),
        (lambda: utility_named("ces"), "needs rho"),
        (lambda: utility_named("linear", 0.5), "takes no rho"),
        (lambda: CES(1.0), "use linear"),
        (lambda: CES(0.0), "use cobb-douglas"),
        (lambda: CES(-np.inf), "use leontief"),
        (lambda: CES(float("nan")), "finite rho"),
        (lambda: Utility(1.5), "at most 1"),
        (lambda: Utility(np.nan), "at most 1"),
        (lambda: Utility(0.5, money=True), "rho = 1"),
    ],
)
def test_utilities_refuse(make, said):
    with pytest.raises(InputError) as caught:
        make()
    assert said in str(caught.value)
