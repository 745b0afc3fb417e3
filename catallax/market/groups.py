"""Groups of buyers, for asking what more income for some of them does to prices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from ..errors import InputError, did_you_mean
from ._table import regular_file
from ._text import _header, _name, _require_new, _require_width, _rows
from .problem import Market
from .tables import default_groups

MOST_GROUPS = 12
"""More groups than this are too many to read side by side."""

Groups = dict[str, np.ndarray]


def read_groups(path: Path, market: Market) -> Groups:
    """Read which group each buyer belongs to from a CSV with two columns, buyer and group.

    A buyer who is left out, or whose group is blank, belongs to none.

    Returns:
        The numbers of each group's buyers, ascending; groups in the order of the file.

    Raises:
        InputError: with file, line and column: a wrong number of columns, an unknown buyer, one named twice,
            more than `MOST_GROUPS` groups, no group at all.
    """
    file = str(path)
    rows = _rows(regular_file(file), file)
    first, header = _header(rows, file, "buyer")
    if len(header) != 2:
        raise InputError(
            f"{len(header)} columns; groups need two, the buyer's name and the group",
            file=file,
            line=first,
            column=min(len(header), 2) + 1,
        )
    place = {name: number for number, name in enumerate(market.buyers)}
    lines: dict[str, int] = {}
    members: dict[str, list[int]] = {}
    for line, fields in rows:
        _require_width(fields, 2, file, line)
        name = _name(fields[0], "buyer", file, line, 1)
        if name not in place:
            message = f"there is no buyer {name!r} in the valuations{did_you_mean(name, market.buyers)}"
            raise InputError(message, file=file, line=line, column=1)
        _require_new(name, lines, "buyer", file, line, 1)
        lines[name] = line
        if group := fields[1].strip():
            members.setdefault(group, []).append(place[name])
        if len(members) > MOST_GROUPS:
            message = f"more than {MOST_GROUPS} groups; put buyers into fewer"
            raise InputError(message, file=file, line=line, column=2)
    if not members:
        raise InputError("no buyer has a group; write one behind a buyer's name", file=file, line=first, column=2)
    return {group: np.array(sorted(numbers)) for group, numbers in members.items()}


def income_brackets(market: Market) -> Groups:
    """Return the income brackets of the embedded survey."""
    place = {name: number for number, name in enumerate(market.buyers)}
    return {group: np.array([place[name] for name in names]) for group, names in default_groups().items()}


def by_budget(market: Market) -> Groups:
    """Split the buyers with money at the quartiles of their budgets; equal budgets stay together.

    Returns:
        Up to four groups, from the poorest; a single one if all budgets are the same.
    """
    live = np.flatnonzero(market.budgets > 0)
    edges = np.unique(np.quantile(market.budgets[live], [0.25, 0.5, 0.75]))
    part = np.searchsorted(edges, market.budgets[live], side="left")
    found = [live[part == number] for number in np.unique(part)]
    names = [f"budget {_span(market.budgets[members])}" for members in found]
    if len(set(names)) < len(names):
        names = [f"quartile {number} of budgets" for number in range(1, len(names) + 1)]
    return dict(zip(names, found, strict=True))


def by_main_good(market: Market, spending: Any, most: int = 4) -> Groups:
    """Group buyers by the good that takes most of their money: the `most` commonest ones, and the others.

    Args:
        market: The question.
        spending: Money spent by each buyer on each good, (n, m), dense or CSR.
        most: How many groups to name after a good.
    """
    main = main_goods(spending)
    counts = np.bincount(main, minlength=market.m)
    named = np.argsort(-counts, kind="stable")[:most]
    groups = {f"mostly {market.goods[j]}": np.flatnonzero(main == j) for j in named if counts[j]}
    others = np.flatnonzero(~np.isin(main, named))
    return {**groups, "the others": others} if others.size else groups


def main_goods(spending: Any) -> np.ndarray:
    """Return the good on which each buyer spends most, shape (n,); 0 for one who spends nothing."""
    if not scipy.sparse.issparse(spending):
        return np.argmax(spending, axis=1)
    table = scipy.sparse.csr_array(spending)
    rows = np.repeat(np.arange(len(table.indptr) - 1), np.diff(table.indptr))
    order = np.lexsort((-np.asarray(table.data, float), rows))
    result = np.zeros(len(table.indptr) - 1, int)
    filled, first = np.unique(rows[order], return_index=True)
    result[filled] = table.indices[order][first]
    return result


def _span(budgets: Sequence[float] | np.ndarray) -> str:
    low, high = float(np.min(budgets)), float(np.max(budgets))
    return f"{low:,.4g}" if low == high else f"{low:,.4g} to {high:,.4g}"
