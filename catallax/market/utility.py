"""What valuations mean: one family of utilities, from perfect substitutes to perfect complements."""

from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import InputError, did_you_mean


@dataclass(frozen=True)
class Utility:
    """A utility from the family with constant elasticity of substitution (CES).

    A buyer with valuations v who holds x obtains

        u(x) = (sum_j v_j x_j**rho)**(1/rho)      rho < 1, not 0
        u(x) = sum_j v_j x_j                      rho = 1, linear; plus unspent money if `money`
        u(x) = prod_j x_j**(v_j / sum_k v_k)      rho = 0, Cobb-Douglas
        u(x) = min over v_j > 0 of x_j / v_j      rho = -inf, Leontief: v_j units of good j for each unit of u

    The elasticity of substitution is 1 / (1 - rho). Every member is homogeneous of degree one. Goods with
    v_j = 0 do not count. With rows of v that sum to one, rho -> 0 tends to Cobb-Douglas; with weights
    v**-rho, rho -> -inf tends to Leontief.

    Args:
        rho: At most 1; `-inf` is allowed.
        money: Whether unspent money is worth itself (quasilinear utility); only with `rho=1`.

    Raises:
        InputError: when rho exceeds 1 or is NaN, or when `money` comes with another rho.

    Reference:
        Arrow, Chenery, Minhas, Solow (1961), Capital-labor substitution and economic efficiency,
        doi:10.2307/1927286.
    """

    rho: float
    money: bool = False

    def __post_init__(self):
        if isnan(self.rho) or self.rho > 1:
            raise InputError(f"rho is {self.rho}; it must be at most 1 for utilities to be concave")
        if self.money and self.rho != 1:
            raise InputError(f"money with rho {self.rho} is not supported; quasilinear utility needs rho = 1")

    @property
    def name(self) -> str:
        """The name that `utility_named` takes: linear, quasilinear, ces, cobb-douglas or leontief."""
        if self.money:
            return "quasilinear"
        return {1.0: "linear", 0.0: "cobb-douglas", -np.inf: "leontief"}.get(self.rho, "ces")

    def of(self, valuations: Any, allocation: Any, money: Any = None) -> np.ndarray:
        """Utilities of all buyers, shape (n,).

        Args:
            valuations: (n, m), dense or sparse, zero where the buyer does not value the good.
            allocation: (n, m), dense or sparse, quantities of at least zero. A negative quantity of a valued
                good gives NaN wherever the formula has no real value.
            money: (n,) unspent money, counted by quasilinear utility alone; nothing by default.

        Raises:
            InputError: when the shapes differ.
        """
        dense = isinstance(valuations, np.ndarray) and isinstance(allocation, np.ndarray)
        if self.rho == 1 and dense and valuations.shape == allocation.shape and valuations.ndim == 2:
            worth = np.einsum("ij,ij->i", valuations, allocation)
            return worth + np.asarray(money, float) if self.money and money is not None else worth
        rows, v, x, n = _valued(valuations, allocation)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            if self.rho == 1:
                worth = _by_row(np.add, rows, v * x, n)
                return worth + np.asarray(money, float) if self.money and money is not None else worth
            if self.rho == -np.inf:
                return _by_row(np.minimum, rows, x / v, n)
            if self.rho == 0:
                weighted = _by_row(np.add, rows, v * np.log(x), n) / _by_row(np.add, rows, v, n)
                result = np.exp(weighted)
            else:
                result = np.exp(_log_sum_exp(rows, np.log(v) + self.rho * np.log(x), n) / self.rho)
        result[np.bincount(rows, minlength=n) == 0] = 0.0
        return result


LINEAR = Utility(1.0)
QUASILINEAR = Utility(1.0, money=True)
COBB_DOUGLAS = Utility(0.0)
LEONTIEF = Utility(-np.inf)


def CES(rho: float) -> Utility:
    """The utility with the given rho, finite, below 1 and not 0; the limits have names of their own.

    Raises:
        InputError: for any other rho, with the name to use instead.
    """
    if not (isfinite(rho) and rho < 1 and rho != 0):
        instead = {1.0: "; use linear", 0.0: "; use cobb-douglas", -np.inf: "; use leontief"}.get(rho, "")
        raise InputError(f"rho is {rho}, but CES utility needs a finite rho below 1 that is not 0{instead}")
    return Utility(float(rho))


_NAMED = {each.name: each for each in (LINEAR, QUASILINEAR, COBB_DOUGLAS, LEONTIEF)}


def utility_named(name: str, rho: float | None = None) -> Utility:
    """The utility of that name: linear, quasilinear, ces (which needs rho), cobb-douglas or leontief.

    Case is ignored, and `_` or a space will do for `-`.

    Raises:
        InputError: for an unknown name (with the nearest known one), a missing rho, or one that is excluded.
    """
    plain = name.strip().casefold().replace("_", "-").replace(" ", "-")
    if plain == "ces":
        if rho is None:
            raise InputError("ces utility needs rho, a number below 1 that is not 0, such as 0.5")
        return CES(rho)
    if plain not in _NAMED:
        known = ("ces", *_NAMED)
        hint = did_you_mean(plain, known) or f"; choose from {', '.join(known)}"
        raise InputError(f"there is no utility {name!r}{hint}")
    if rho is not None:
        raise InputError(f"{plain} utility takes no rho; leave it out, or choose ces")
    return _NAMED[plain]


def shape_of(values: Any) -> tuple[int, ...]:
    """The shape of anything array-like, dense or sparse."""
    return values.shape if sparse.issparse(values) else np.shape(values)


def canonical(matrix: sparse.csr_array) -> sparse.csr_array:
    """The same matrix with sorted columns, duplicates added up and no stored zeros; itself if so already."""
    if matrix.has_canonical_format and matrix.data.all():
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _valued(valuations: Any, allocation: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The pairs with a positive valuation, row by row: row, valuation, quantity; and the number of rows."""
    shape, held = shape_of(valuations), shape_of(allocation)
    if shape != held or len(shape) != 2:
        raise InputError(f"valuations have shape {shape} and the allocation {held}; both must be the same (n, m)")
    n = shape[0]
    if not sparse.issparse(valuations):
        v = np.asarray(valuations, float)
        x = allocation.toarray() if sparse.issparse(allocation) else np.asarray(allocation, float)
        rows, columns = np.nonzero(v)
        return rows, v[rows, columns], x[rows, columns], n
    v = canonical(sparse.csr_array(valuations, dtype=float))
    rows, columns = np.repeat(np.arange(n), np.diff(v.indptr)), v.indices
    if not sparse.issparse(allocation):
        return rows, v.data, np.asarray(allocation, float)[rows, columns], n
    x = sparse.csr_array(allocation, dtype=float)
    if np.array_equal(x.indptr, v.indptr) and np.array_equal(x.indices, v.indices):
        return rows, v.data, x.data, n
    return rows, v.data, _at(x, rows, columns), n


def _at(x: sparse.csr_array, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Entries of x at the given places, zero where nothing is stored."""
    x = canonical(x)
    n, width = shape_of(x)
    stored = np.repeat(np.arange(n), np.diff(x.indptr)) * width + x.indices
    wanted = rows * width + columns
    place = np.searchsorted(stored, wanted)
    found = place < stored.size
    found[found] = stored[place[found]] == wanted[found]
    result = np.zeros(rows.size)
    result[found] = x.data[place[found]]
    return result


def _by_row(reduce: np.ufunc, rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Reduce values over runs of equal, ascending rows; rows without values give zero."""
    counts = np.bincount(rows, minlength=n)
    result = np.zeros(n)
    if values.size:
        filled = counts > 0
        result[filled] = reduce.reduceat(values, (np.cumsum(counts) - counts)[filled])
    return result


def _log_sum_exp(rows: np.ndarray, exponents: np.ndarray, n: int) -> np.ndarray:
    # Shifted by the largest, so that neither large |rho| nor small quantities overflow; infinities stay.
    shift = _by_row(np.maximum, rows, exponents, n)
    shift[~np.isfinite(shift)] = 0.0
    return shift + np.log(_by_row(np.add, rows, np.exp(exponents - shift[rows]), n))
