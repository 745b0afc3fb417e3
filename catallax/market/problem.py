"""The market's question: who values what, with how much to spend, and how much there is of each good.

Everything here is NumPy and SciPy in float64; reading a problem never loads JAX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, overload

import numpy as np
from scipy import sparse

from ..errors import InputError
from .utility import (
    CES,
    COBB_DOUGLAS,
    LEONTIEF,
    LINEAR,
    QUASILINEAR,
    Utility,
    canonical,
    shape_of,
    utility_named,
)

__all__ = [
    "CES",
    "COBB_DOUGLAS",
    "LEONTIEF",
    "LINEAR",
    "QUASILINEAR",
    "DefaultNames",
    "Exchange",
    "Market",
    "Matrix",
    "Utility",
    "first_empty_row",
    "first_fault",
    "utility_named",
]

Matrix = np.ndarray | sparse.csr_array
_AMOUNT = "it must be finite and at least zero"


class DefaultNames(Sequence[str]):
    """The names "buyer 1", "buyer 2", ... made only when asked for, since there may be millions."""

    def __init__(self, noun: str, count: int):
        self._noun = noun
        self._numbers = range(1, count + 1)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(f"{self._noun} {number}" for number in self._numbers[index])
        return f"{self._noun} {self._numbers[index]}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DefaultNames):
            return (self._noun, self._numbers) == (other._noun, other._numbers)
        return isinstance(other, tuple) and len(other) == len(self) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))  # equal to the hash of the tuple that it equals

    def __repr__(self) -> str:
        return f"DefaultNames({self._noun!r}, {len(self)})"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Market:
    """A Fisher market: buyers with budgets, goods in fixed supply.

    Arrays that are already float64 (and, if sparse, canonical CSR) are kept without a copy, dense ones
    through a read-only view; do not change the originals afterwards.

    Args:
        valuations: (n, m), dense or any SciPy sparse; finite, at least zero; zero means "does not value".
        budgets: (n,), money, at least zero, not all zero; one each by default.
        supply: (m,), units of each good, above zero; one of each by default.
        utility: What the valuations mean; see `Utility`.
        buyers: n unique names; "buyer 1", ... by default.
        goods: m unique names; "good 1", ... by default. A good that nobody values is allowed.

    Raises:
        InputError: naming the buyer and the good, for anything that the lines above exclude, and for a buyer
            who values nothing.

    Reference:
        Eisenberg, Gale (1959), Consensus of subjective probabilities, doi:10.1214/aoms/1177706369.
    """

    valuations: Matrix
    budgets: np.ndarray
    supply: np.ndarray
    utility: Utility
    buyers: Sequence[str]
    goods: Sequence[str]

    def __init__(
        self,
        valuations: Any,
        budgets: Any = None,
        supply: Any = None,
        *,
        utility: Utility = LINEAR,
        buyers: Sequence[str] | None = None,
        goods: Sequence[str] | None = None,
    ):
        _settle_people(self, valuations, utility, buyers, goods)
        budgets = _vector(budgets, "budget", self.buyers)
        if not budgets.any():
            raise InputError("all budgets are zero, so nothing can be sold; give at least one buyer money")
        with np.errstate(over="ignore"):
            total = budgets.sum()
        if not isfinite(total):
            raise InputError("the budgets add up to more than a float64 can hold; use a larger unit")
        supply = _vector(supply, "supply", self.goods)
        _require_supply(supply, self.goods)
        object.__setattr__(self, "budgets", budgets)
        object.__setattr__(self, "supply", supply)

    @property
    def n(self) -> int:
        """The number of buyers."""
        return len(self.buyers)

    @property
    def m(self) -> int:
        """The number of goods."""
        return len(self.goods)

    @property
    def nnz(self) -> int:
        """The number of pairs (buyer, good) with a positive valuation."""
        return _count(self.valuations)

    def dense(self) -> np.ndarray:
        """The valuations as an (n, m) array."""
        return _dense(self.valuations)

    def sparse(self) -> sparse.csr_array:
        """The valuations as CSR, without stored zeros."""
        return sparse.csr_array(self.valuations)

    def __repr__(self) -> str:
        return f"Market({self.n} buyers, {self.m} goods, {self.nnz} valuations, {self.utility.name})"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Exchange:
    """An exchange (Arrow-Debreu) economy: each buyer's budget is what the own endowment sells for.

    Args:
        valuations: As in `Market`.
        endowments: (n, m), dense or any SciPy sparse; units of each good that each buyer brings, at least
            zero; somebody must bring each good. A buyer may bring nothing, and then buys nothing.
        utility: Not quasilinear, because the economy has no money of its own.
        buyers, goods: As in `Market`.

    Raises:
        InputError: naming the buyer and the good.

    Reference:
        Arrow, Debreu (1954), Existence of an equilibrium for a competitive economy, doi:10.2307/1907353.
    """

    valuations: Matrix
    endowments: Matrix
    utility: Utility
    buyers: Sequence[str]
    goods: Sequence[str]

    def __init__(
        self,
        valuations: Any,
        endowments: Any,
        *,
        utility: Utility = LINEAR,
        buyers: Sequence[str] | None = None,
        goods: Sequence[str] | None = None,
    ):
        if utility.money:
            raise InputError("an exchange economy has no money to keep; choose a utility other than quasilinear")
        _settle_people(self, valuations, utility, buyers, goods)
        checked = _matrix(endowments, "endowments")
        if checked.shape != self.valuations.shape:
            raise InputError(
                f"the endowments have shape {checked.shape}; give them the shape of the valuations, "
                f"{self.valuations.shape}"
            )
        _require_amounts(checked, "endowment", self.buyers, self.goods)
        object.__setattr__(self, "endowments", checked)
        _require_supply(self.supply, self.goods)

    @property
    def n(self) -> int:
        """The number of buyers."""
        return len(self.buyers)

    @property
    def m(self) -> int:
        """The number of goods."""
        return len(self.goods)

    @property
    def nnz(self) -> int:
        """The number of pairs (buyer, good) with a positive valuation."""
        return _count(self.valuations)

    @property
    def supply(self) -> np.ndarray:
        """Units of each good that the buyers bring together, shape (m,)."""
        with np.errstate(over="ignore"):
            return np.asarray(self.endowments.sum(axis=0), float)

    def dense(self) -> np.ndarray:
        """The valuations as an (n, m) array."""
        return _dense(self.valuations)

    def sparse(self) -> sparse.csr_array:
        """The valuations as CSR, without stored zeros."""
        return sparse.csr_array(self.valuations)

    def budgets_at(self, prices: np.ndarray) -> np.ndarray:
        """What each buyer's endowment sells for at these prices, shape (n,)."""
        return np.asarray(self.endowments @ prices, float)

    def market_at(self, prices: np.ndarray) -> Market:
        """The Fisher market in which incomes are held at what these prices give."""
        return Market(
            self.valuations,
            self.budgets_at(prices),
            self.supply,
            utility=self.utility,
            buyers=self.buyers,
            goods=self.goods,
        )

    def __repr__(self) -> str:
        return f"Exchange({self.n} buyers, {self.m} goods, {self.nnz} valuations, {self.utility.name})"


def _settle_people(
    problem: Market | Exchange,
    valuations: Any,
    utility: Utility,
    buyers: Sequence[str] | None,
    goods: Sequence[str] | None,
) -> None:
    """Put in place what both problems have, checked."""
    values = _matrix(valuations, "valuations")
    n, m = shape_of(values)
    buyers = _names(buyers, n, "buyer")
    goods = _names(goods, m, "good")
    _require_amounts(values, "valuation", buyers, goods)
    idle = first_empty_row(values)
    if idle is not None:
        raise InputError(f"buyer {buyers[idle]!r} values nothing; give a positive valuation or drop the buyer")
    settled = {"valuations": values, "utility": utility, "buyers": buyers, "goods": goods}
    for name, value in settled.items():
        object.__setattr__(problem, name, value)


def _matrix(values: Any, what: str) -> Matrix:
    """As float64, two-dimensional and not empty; CSR without duplicates or stored zeros if sparse."""
    shape = shape_of(values)
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{what} have shape {shape}; give at least one buyer (rows) and one good (columns)")
    if not sparse.issparse(values):
        return _as_floats(values, what)
    if np.dtype(values.dtype).kind not in "biuf":
        raise InputError(f"{what} hold {values.dtype} and not real numbers; convert them to float first")
    result = sparse.csr_array(values, dtype=np.float64)
    try:
        result.check_format(full_check=True)
    except ValueError as fault:
        raise InputError(f"{what} are not a valid sparse matrix: {fault}") from None
    if first_fault(result) is not None:
        return result  # the caller names it; adding up duplicates first could hide a negative entry
    return canonical(result)


def _as_floats(values: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise ValueError
        view = array.astype(np.float64, order="C", copy=False).view()
    except (ValueError, TypeError):
        raise InputError(f"{what} are not all real numbers; convert them to float first") from None
    view.flags.writeable = False
    return view


def _vector(values: Any, what: str, names: Sequence[str]) -> np.ndarray:
    plural = what if what == "supply" else f"{what}s"
    result = _as_floats(np.ones(len(names)) if values is None else values, f"the {plural}")
    noun = "buyer" if what == "budget" else "good"
    if result.shape != (len(names),):
        raise InputError(f"the {plural} have shape {result.shape}; give one per {noun}, shape ({len(names)},)")
    bad = ~(np.isfinite(result) & (result >= 0))
    if bad.any():
        i = int(bad.argmax())
        raise InputError(f"the {what} of {noun} {names[i]!r} is {result[i]}; {_AMOUNT}")
    return result


def _require_supply(supply: np.ndarray, goods: Sequence[str]) -> None:
    if not supply.all():
        j = int((supply == 0).argmax())
        raise InputError(f"the supply of good {goods[j]!r} is zero; give a positive supply or drop the good")
    if not np.isfinite(supply).all():
        j = int((~np.isfinite(supply)).argmax())
        raise InputError(f"the supply of good {goods[j]!r} is not finite; give it in a larger unit")


def _require_amounts(values: Matrix, what: str, buyers: Sequence[str], goods: Sequence[str]) -> None:
    fault = first_fault(values)
    if fault is not None:
        i, j, value = fault
        raise InputError(f"the {what} of buyer {buyers[i]!r} for good {goods[j]!r} is {value}; {_AMOUNT}")


def first_fault(values: Matrix) -> tuple[int, int, float] | None:
    """Row, column and value of the first entry that is negative or not finite, row by row; or None."""
    flat = values.data if isinstance(values, sparse.csr_array) else values.ravel()
    with np.errstate(invalid="ignore"):
        bad = ~((flat >= 0) & (flat < np.inf))
    if not bad.any():
        return None
    at = int(bad.argmax())
    if isinstance(values, sparse.csr_array):
        row = int(np.searchsorted(values.indptr, at, side="right")) - 1
        return row, int(values.indices[at]), float(flat[at])
    return at // values.shape[1], at % values.shape[1], float(flat[at])


def first_empty_row(values: Matrix) -> int | None:
    """The first row without a positive entry, or None; takes checked values without stored zeros."""
    counts = np.diff(values.indptr) if isinstance(values, sparse.csr_array) else values.any(axis=1)
    return None if np.all(counts) else int((np.asarray(counts) == 0).argmax())


def _names(names: Sequence[str] | None, count: int, noun: str) -> Sequence[str]:
    if names is None:
        return DefaultNames(noun, count)
    if isinstance(names, DefaultNames) and len(names) == count:
        return names
    if isinstance(names, str):
        raise InputError(f"the {noun}s' names are one string, {names!r}; give a sequence of {count} names")
    result = tuple(names)
    if len(result) != count:
        raise InputError(f"there are {len(result)} names for {count} {noun}s; give one name each")
    seen: set[str] = set()
    for position, name in enumerate(result, 1):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"the name of {noun} {position} is {name!r}; give a string that is not blank")
        if name in seen:
            raise InputError(f"two {noun}s are called {name!r}; give each {noun} a name of its own")
        seen.add(name)
    return result


def _count(values: Matrix) -> int:
    return int(values.nnz if isinstance(values, sparse.csr_array) else np.count_nonzero(values))


def _dense(values: Matrix) -> np.ndarray:
    return values.toarray() if isinstance(values, sparse.csr_array) else values
