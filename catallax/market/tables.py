"""Readers of users' files: from tables to a `Market` or an `Exchange`.

A file holds one number for each buyer and good, in one of these formats, told apart by the file's suffix:

* `.csv`, wide: a header whose first field is free (it heads the buyers) and whose others name the goods; then
  one line for each buyer, the name first.
* `.csv`, long: one line for each buyer, good and value. A table is long when its first header means the buyer
  (buyer, user, agent, consumer; also userId, "user name") and its third the value (value, valuation, rating,
  utility, endowment, quantity, amount), with three columns in all. With more columns, the second header must
  mean the good (good, item, product, movie), and the columns after the third are ignored.
* `.npy`: a two-dimensional array; buyers and goods are called "buyer 1", "good 1" and so on.
* `.npz`: a matrix saved by `scipy.sparse.save_npz`; names likewise.
* `.parquet`: wide or long by the same rule (needs `pip install 'catallax[parquet]'`).

Blank cells and N/A, NA and #N/A (any case) mean "does not value", as zero does. Text is UTF-8, with or
without a byte order mark; fields are separated by commas and may be quoted; numbers are plain decimals such
as 12, 0.5 or 3e-2. Spaces around names and numbers do not count, nor do empty lines.
"""

import os
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from scipy import sparse

from ..errors import InputError, did_you_mean
from ._binary import read_npy, read_npz, read_parquet
from ._table import (
    BUDGET,
    ENDOWMENT,
    SUPPLY,
    VALUATION,
    Quantity,
    Table,
    available_memory,
    is_long,
    regular_file,
)
from ._text import read_by_name, read_table
from .problem import LINEAR, DefaultNames, Exchange, Market, Matrix, Utility, first_empty_row

__all__ = ["available_memory", "default_groups", "default_market", "is_long", "read_market"]

_READERS: dict[str, Callable[[Path, str, Quantity], Table]] = {
    ".csv": read_table,
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": read_parquet,
}

AnyPath = str | os.PathLike[str]


def read_market(
    path: AnyPath,
    *,
    budgets: AnyPath | None = None,
    supply: AnyPath | None = None,
    endowments: AnyPath | None = None,
    utility: Utility = LINEAR,
) -> Market | Exchange:
    """Read a problem from files.

    Args:
        path: The valuations, in any format of this module.
        budgets: A CSV with the columns buyer and budget, one line for each buyer; one each by default.
        supply: A CSV with the columns good and supply, one line for each good; one of each by default.
        endowments: A table like the valuations. It makes the problem an exchange economy. Names must occur in
            the valuations; a buyer or a pair that is left out brings nothing.
        utility: What the valuations mean.

    Returns:
        An `Exchange` with `endowments`, else a `Market`.

    Raises:
        InputError: one line with file, line and column, for anything that is not such a problem, or would not
            fit in memory.
        MissingExtra: for Parquet without pyarrow.
    """
    if endowments is not None and (budgets is not None or supply is not None):
        raise InputError("endowments already give budgets and supply; leave those out, or the endowments")
    table = _read(path, VALUATION)
    idle = first_empty_row(table.values)
    if idle is not None:
        name = _names(table.buyers, "buyer", table.shape[0])[idle]
        raise InputError(
            f"buyer {name!r} values nothing; give a positive valuation or leave the buyer out",
            file=table.file,
            line=table.line_of(idle),
            column=1,
        )
    try:
        if endowments is not None:
            brought = _aligned(_read(endowments, ENDOWMENT), table)
            return Exchange(table.values, brought, utility=utility, buyers=table.buyers, goods=table.goods)
        return Market(
            table.values,
            None if budgets is None else _budgets(budgets, table),
            None if supply is None else _supply(supply, table),
            utility=utility,
            buyers=table.buyers,
            goods=table.goods,
        )
    except InputError as fault:
        if fault.file is not None:
            raise
        raise InputError(fault.message, file=path if endowments is None else endowments) from None


def default_market() -> Market:
    """The market that ships with the package: people's ratings of 40 national cuisines.

    Buyers are respondents of FiveThirtyEight's Food World Cup survey (2014, CC BY 4.0), called by their
    number; goods are cuisines; valuations are ratings from 1 to 5, none where the cuisine is unfamiliar;
    budgets are the midpoints of household income brackets in thousands of dollars a year.
    `data/ATTRIBUTION.md` states every choice made.
    """
    data = files("catallax.market") / "data"
    with (
        as_file(data / "food-world-cup.csv") as ratings,
        as_file(data / "food-world-cup-budgets.csv") as budgets,
    ):
        market = read_market(ratings, budgets=budgets)
    assert isinstance(market, Market)
    return market


def default_groups() -> dict[str, tuple[str, ...]]:
    """The buyers of `default_market` by household income, from the poorest bracket up, then "not stated"."""
    text = (files("catallax.market") / "data" / "food-world-cup-groups.csv").read_text(encoding="utf-8")
    groups: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        buyer, group = line.split(",", 1)
        groups.setdefault(group.strip('"'), []).append(buyer)
    return {group: tuple(groups[group]) for group in sorted(groups, key=_income)}


def _income(group: str) -> tuple[int, bool]:
    """Order brackets by their figure, "under" before the bracket that begins there, and "not stated" last."""
    digits = "".join(letter for letter in group.split(" to ")[0] if letter.isdigit())
    return (int(digits), not group.startswith("under")) if digits else (10**9, True)


def _read(path: AnyPath, quantity: Quantity) -> Table:
    file = os.fspath(path)
    reader = _READERS.get(Path(file).suffix.lower())
    found = regular_file(file)
    if reader is None:
        suffix = Path(file).suffix
        known = ", ".join(_READERS)
        raise InputError(f"the format {suffix!r} is not one of {known}; convert the table to one of them", file=file)
    return reader(found, file, quantity)


def _names(names: Sequence[str] | None, noun: str, count: int) -> Sequence[str]:
    return DefaultNames(noun, count) if names is None else names


def _budgets(path: AnyPath, table: Table) -> np.ndarray:
    file, buyers = os.fspath(path), _names(table.buyers, "buyer", table.shape[0])
    result, lines = read_by_name(file, buyers, "buyer", BUDGET)
    if not result.any():
        first = min(lines.values())
        raise InputError("all budgets are zero; give at least one buyer money", file=file, line=first, column=2)
    return result


def _supply(path: AnyPath, table: Table) -> np.ndarray:
    file, goods = os.fspath(path), _names(table.goods, "good", table.shape[1])
    result, lines = read_by_name(file, goods, "good", SUPPLY)
    for name, amount in zip(goods, result, strict=True):
        if amount == 0:
            line = lines[name]
            message = f"the supply of good {name!r} is zero; give a positive supply or drop the good"
            raise InputError(message, file=file, line=line, column=2)
    return result


def _aligned(endowments: Table, table: Table) -> Matrix:
    """The endowments in the order of the valuations' buyers and goods."""
    places = []
    for axis, noun in enumerate(("buyer", "good")):
        known = _names(table.buyers if axis == 0 else table.goods, noun, table.shape[axis])
        given = endowments.buyers if axis == 0 else endowments.goods
        given = _names(given, noun, endowments.shape[axis])
        place = {name: position for position, name in enumerate(known)}
        for position, name in enumerate(given):
            if name not in place:
                line, column = (endowments.line_of(position), 1) if axis == 0 else endowments.place_of(position)
                message = f"there is no {noun} {name!r} in the valuations{did_you_mean(name, known)}"
                raise InputError(message, file=endowments.file, line=line, column=column)
        places.append(np.array([place[name] for name in given]))
    entries = sparse.coo_array(endowments.values)
    rows, columns = entries.coords
    moved = sparse.csr_array((entries.data, (places[0][rows], places[1][columns])), shape=table.shape)
    return moved if isinstance(table.values, sparse.csr_array) else moved.toarray()
