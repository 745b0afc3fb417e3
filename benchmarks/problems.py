"""Fisher markets made from a seed, in plain NumPy and SciPy, shared by the benchmarks and the tests."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse


class Problem(NamedTuple):
    """A Fisher market with linear utilities as plain arrays.

    Args:
        valuations: At least zero, shape (n, m); an array or `scipy.sparse.csr_array`.
        budgets: Money, positive, shape (n,).
        supply: Units of each good, positive, shape (m,).
    """

    valuations: Any
    budgets: np.ndarray
    supply: np.ndarray


def dense(buyers: int, goods: int, *, seed: int = 0) -> Problem:
    """Valuations and budgets uniform on (0, 1), one unit of each good."""
    rng = np.random.default_rng(seed)
    return Problem(rng.random((buyers, goods)), rng.random(buyers), np.ones(goods))


def sprinkled(buyers: int, goods: int, density: float, *, seed: int = 0) -> Problem:
    """Each valuation non-zero with probability `density`, then uniform; budgets uniform; supply n/4.

    With 10,000 buyers, 400 goods and density 0.2 this is the random instance of PDHCG's public experiments.

    Reference:
        Liu, Huang, Li, Ge & Ye (2025), PDHCG, arXiv:2506.06258.
    """
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((buyers, goods)) < density, rng.random((buyers, goods)), 0.0)
    values = scipy.sparse.csr_array(_everyone_trades(values, rng))
    return Problem(values, rng.random(buyers), np.full(goods, buyers / 4))


def listed(buyers: int, goods: int, valued: int, *, seed: int = 0) -> Problem:
    """Each buyer lists `valued` different goods, all lists equally likely, worth U(0, 1); supply n/m.

    Made directly in CSR and without an array of size n·m, so that a million buyers fit. Budgets are uniform.
    """
    rng = np.random.default_rng(seed)
    lists = _distinct(buyers, goods, valued, rng)
    # Uniform on (0, 1]: an entry of exactly zero would leave the list.
    values = 1 - rng.random(buyers * valued)
    starts = np.arange(buyers + 1) * valued
    table = scipy.sparse.csr_array((values, lists.ravel(), starts), shape=(buyers, goods))
    return Problem(table, rng.random(buyers), np.full(goods, buyers / goods))


def _distinct(rows: int, goods: int, valued: int, rng: np.random.Generator) -> np.ndarray:
    """Return sorted rows of different goods: drawn freely, and drawn again where two are the same."""
    lists = np.empty((rows, valued), np.int32)
    todo = np.arange(rows)
    while todo.size:
        drawn = np.sort(rng.integers(goods, size=(todo.size, valued), dtype=np.int32), axis=1)
        lists[todo] = drawn
        todo = todo[(np.diff(drawn, axis=1) == 0).any(axis=1)]
    return lists


def _everyone_trades(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each buyer without a wish, and each good without a buyer, one valuation of 1."""
    values = values.astype(float)
    for buyer in np.flatnonzero(values.max(axis=1) == 0):
        values[buyer, rng.integers(values.shape[1])] = 1.0
    for good in np.flatnonzero(values.max(axis=0) == 0):
        values[rng.integers(values.shape[0]), good] = 1.0
    return values


Awkward = tuple[str, Any, np.ndarray, np.ndarray]


def awkward(seed: int = 0) -> Iterator[Awkward]:
    """Yield (name, valuations, budgets, supply) of small markets that break careless methods.

    Ties, wide scales, few wishes and corners; of one shape where the shape is not the point, so that a test compiles
    it once. Each is made from (seed, its own number), so that adding one at
    the end changes no other.
    """
    makers = (*_TIES, *_SCALES, *_SPARSE, *_CORNERS)
    for number, make in enumerate(makers):
        rng = np.random.default_rng((seed, number))
        values, budgets, supply = make(rng)
        if not scipy.sparse.issparse(values):
            values = _everyone_trades(np.asarray(values), rng)
        name = make.__name__.strip("_").replace("_", " ")
        budgets = np.ones(values.shape[0]) if budgets is None else budgets
        supply = np.ones(values.shape[1]) if supply is None else supply
        yield name, values, budgets, supply


def _integer_valuations(rng):
    return rng.integers(0, 6, (300, 60)), None, None


def _small_integers(rng):
    return rng.integers(0, 4, (30, 30)), None, None


def _binary(rng):
    return rng.integers(0, 2, (300, 60)), None, None


def _duplicated_buyers(rng):
    return np.repeat(rng.random((75, 60)), 4, axis=0), None, None


def _duplicated_integer_buyers(rng):
    return np.repeat(rng.integers(1, 6, (30, 60)), 10, axis=0), None, None


def _duplicated_goods(rng):
    return np.repeat(rng.random((300, 20)), 3, axis=1), rng.random(300), None


def _identical_buyers(rng):
    del rng
    return np.ones((300, 60)), None, None


def _budgets_over_twelve_decades(rng):
    return rng.random((300, 60)), 10 ** rng.uniform(-6, 6, 300), None


def _integers_and_wild_budgets(rng):
    return rng.integers(0, 6, (300, 60)), 10 ** rng.uniform(-6, 6, 300), None


def _pareto_budgets(rng):
    return rng.random((300, 60)) ** 3, rng.pareto(1.0, 300) + 1e-3, None


def _lognormal_valuations(rng):
    return np.exp(3 * rng.normal(size=(300, 60))), rng.random(300), None


def _scaled_rows(rng):
    return rng.random((300, 60)) * 10 ** rng.uniform(-6, 6, (300, 1)), rng.random(300), None


def _scaled_columns(rng):
    return rng.random((300, 60)) * 10 ** rng.uniform(-6, 6, (1, 60)), rng.random(300), None


def _supplies_over_eight_decades(rng):
    return rng.random((300, 60)), rng.random(300), 10 ** rng.uniform(-4, 4, 60)


def _badly_scaled_minimum(rng):
    del rng
    powers = 2.0 ** -np.arange(30)
    return np.minimum.outer(powers, powers), powers, None


def _one_percent_of_goods(rng):
    return _thin(rng, 1000, 200), rng.random(1000), None


def _one_percent_more_goods(rng):
    return _thin(rng, 300, 600), rng.random(300), None


def _one_percent_csr(rng):
    values = _everyone_trades(_thin(rng, 800, 300), rng)
    return scipy.sparse.csr_array(values), 10 ** rng.uniform(-3, 3, 800), 10 ** rng.uniform(-2, 2, 300)


def _one_wish_each(rng):
    values = np.zeros((300, 60))
    values[np.arange(300), rng.integers(60, size=300)] = 1.0
    return values, rng.random(300), None


def _two_islands(rng):
    values = np.zeros((300, 60))
    values[:180, :20], values[180:, 20:] = rng.random((180, 20)), rng.random((120, 40))
    return values, rng.random(300), None


def _more_goods_than_buyers(rng):
    return rng.random((50, 400)), rng.random(50), None


def _one_buyer(rng):
    return rng.random((1, 5)), None, None


def _one_good(rng):
    return rng.random((5, 1)), rng.random(5), None


def _one_and_one(rng):
    return rng.random((1, 1)), np.array([3.0]), np.array([7.0])


def _ring(rng):
    del rng
    return np.eye(30) + 0.5 * np.roll(np.eye(30), 1, axis=1), None, None


def _thin(rng, buyers, goods):
    return rng.random((buyers, goods)) * (rng.random((buyers, goods)) < 0.01)


_TIES = (
    _integer_valuations,
    _small_integers,
    _binary,
    _duplicated_buyers,
    _duplicated_integer_buyers,
    _duplicated_goods,
    _identical_buyers,
)
_SCALES = (
    _budgets_over_twelve_decades,
    _integers_and_wild_budgets,
    _pareto_budgets,
    _lognormal_valuations,
    _scaled_rows,
    _scaled_columns,
    _supplies_over_eight_decades,
    _badly_scaled_minimum,
)
_SPARSE = (
    _one_percent_of_goods,
    _one_percent_more_goods,
    _one_percent_csr,
    _one_wish_each,
    _two_islands,
)
_CORNERS = (_more_goods_than_buyers, _one_buyer, _one_good, _one_and_one, _ring)
