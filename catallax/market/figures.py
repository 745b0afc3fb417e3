"""Pictures of a market: prices, how they were found, who gets what.

Each picture stands on a transparent ground in colours that can be read on a light and on a dark one, five
inches wide, so that its words keep their size on a phone. What is drawn is computed by functions of its own.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse

from ..pictures import MAIN, QUIET, SECOND, drawing

WIDTH = 5.0
"""Inches."""

BARS = 30
"""How many goods a picture of prices shows."""

ROWS = 200
"""How many lines an allocation map has at most; more buyers share lines."""

COLUMNS = 40
"""How many goods an allocation map shows; the others share a column."""


def short(name: str, most: int = 24) -> str:
    """Cut a long name, and keep Matplotlib from reading formulas in it."""
    name = name if len(name) <= most else name[: most - 1] + "…"
    return name.replace("$", r"\$")


def dearest(prices: np.ndarray, most: int) -> np.ndarray:
    """Return the numbers of the dearest goods, the dearest first; ties in the goods' order."""
    return np.argsort(-prices, kind="stable")[:most]


def draw_prices(goods: Sequence[str], prices: np.ndarray) -> Any:
    """Draw the prices of the dearest goods as bars."""
    order = dearest(prices, BARS)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 0.7 + 0.21 * order.size), layout="constrained")
        axes = figure.subplots()
        axes.barh(np.arange(order.size), prices[order], color=MAIN, height=0.68)
        axes.set_yticks(np.arange(order.size), [short(goods[int(j)]) for j in order])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xlabel="price of one unit", ylim=(order.size - 0.4, -0.6))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
    return figure


def draw_convergence(rounds: np.ndarray, distances: np.ndarray, tol: float, unit: str = "round") -> Any:
    """Draw the distance from equilibrium after each round, on a logarithmic scale, and the tolerance."""
    seen = np.isfinite(distances) & (distances > 0)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        marker = "o" if rounds.size <= 60 else ""
        axes.plot(rounds[seen], distances[seen], color=MAIN, marker=marker, markersize=3.5, linewidth=1.4)
        axes.axhline(tol, color=SECOND, linewidth=1, linestyle="--")
        axes.annotate(
            f"tolerance {tol:g}",
            (0, tol),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            color=SECOND,
        )
        axes.set(yscale="log", xlabel=unit, ylabel="distance from equilibrium")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid()
    return figure


def allocation_map(
    shares: Any, main: np.ndarray, prices: np.ndarray, groups: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """Arrange who spends what on which good as a picture.

    Buyers stand in the order of their groups, and within one in the order of the good that takes most of
    their money. If they are more than `ROWS`, neighbours of one group share a line, which shows their mean.
    Buyers of no group come last.

    Args:
        shares: The part of each buyer's budget spent on each good, (n, m), dense or CSR.
        main: The good that takes most of each buyer's money, shape (n,).
        prices: Shape (m,); goods stand in their order.
        groups: The numbers of the buyers in each group.

    Returns:
        The picture, shape (lines, columns); the goods of its columns, of which the last stands for all that
        are left if there are more than `COLUMNS`; and each group's name with the line on which it ends.
    """
    order = dearest(prices, prices.size)
    rank = np.empty(order.size, int)
    rank[order] = np.arange(order.size)
    n = main.size
    member = np.full(n, len(groups))
    for number, members in enumerate(groups.values()):
        member[members] = number
    column = np.minimum(rank, COLUMNS if order.size > COLUMNS else order.size)
    width = int(column.max()) + 1
    collect = scipy.sparse.csr_array((np.ones(order.size), (np.arange(order.size), column)))
    table = scipy.sparse.csr_array(scipy.sparse.csr_array(shares) @ collect)
    lines, ends = [], []
    for number, name in enumerate([*groups, ""]):
        inside = np.flatnonzero(member == number)
        if inside.size:
            inside = inside[np.argsort(rank[main[inside]], kind="stable")]
            size = inside.size if n <= ROWS else min(inside.size, max(1, round(ROWS * inside.size / n)))
            line = np.arange(inside.size) * size // inside.size
            mean = scipy.sparse.csr_array((1 / np.bincount(line)[line], (line, inside)), shape=(size, n))
            spread = scipy.sparse.csr_array(mean @ table)
            lines.append(spread.toarray().reshape(size, width))
            ends.append((name, (ends[-1][1] if ends else 0) + size))
    return np.concatenate(lines), order[: min(width, COLUMNS)], ends


def draw_allocation(picture: np.ndarray, goods: Sequence[str], ends: Sequence[tuple[str, int]]) -> Any:
    """Draw an allocation map: goods down, buyers across, dark where much of the budget goes.

    Args:
        picture: From `allocation_map`, as `ends` is.
        goods: The columns' names.
        ends: Each group's name and the line on which it ends.
    """
    starts = [0, *(end for _, end in ends)]
    middles = [(low + high - 1) / 2 for low, high in pairwise(starts)]
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 2.0 + 0.19 * len(goods)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(picture.T, aspect="auto", interpolation="nearest", cmap=_ramp(), vmin=0, vmax=1)
        axes.set_yticks(np.arange(len(goods)), [short(name) for name in goods])
        for end in starts[1:-1]:
            axes.axvline(end - 0.5, color=QUIET, linewidth=0.7)
        _slanted(axes, middles, [name for name, _ in ends])
        _scale(figure, axes, image, "part of the budget spent on the good")
    return figure


def _ramp() -> Any:
    """Return colours from nothing to dark blue, for parts from 0 to 1."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", ["#3a7ca500", "#3a7ca5ff", "#12334aff"])


def _slanted(axes: Any, places: Sequence[float] | np.ndarray, names: Sequence[str]) -> None:
    """Write the groups' names below a picture."""
    axes.set_xticks(places, [short(name) for name in names], rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _scale(figure: Any, axes: Any, image: Any, label: str) -> None:
    """Put the scale of the colours above a picture."""
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def draw_two_prices(goods: Sequence[str], competitive: np.ndarray, strategic: np.ndarray) -> Any:
    """Draw price-taking and strategic prices of the dearest goods, one line each."""
    order = dearest(competitive, BARS)
    place = np.arange(order.size)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 1.0 + 0.21 * order.size), layout="constrained")
        axes = figure.subplots()
        axes.hlines(place, competitive[order], strategic[order], color=QUIET, linewidth=1)
        axes.plot(competitive[order], place, "o", color=MAIN, markersize=4.5, label="price-taking")
        axes.plot(strategic[order], place, "D", color=SECOND, markersize=4, label="strategic", fillstyle="none")
        axes.set_yticks(place, [short(goods[int(j)]) for j in order])
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="price of one unit", ylim=(order.size - 0.4, -0.6))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def draw_statics(goods: Sequence[str], prices: np.ndarray, moves: Mapping[str, np.ndarray]) -> Any:
    """Draw by how many per cent prices move for one per cent more income of each group."""
    order = dearest(prices, BARS)
    table = np.column_stack([row[order] for row in moves.values()])
    most = float(np.max(np.abs(table), initial=0.0)) or 1.0
    rises = bool(np.all(table > -1e-3 * most))
    colours = {"cmap": _ramp(), "vmin": 0} if rises else {"cmap": "RdBu_r", "vmin": -most}
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 2.0 + 0.2 * order.size), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(table, aspect="auto", interpolation="nearest", vmax=most, **colours)
        axes.set_yticks(np.arange(order.size), [short(goods[int(j)]) for j in order])
        _slanted(axes, np.arange(len(moves)), list(moves))
        _scale(figure, axes, image, "per cent, for one per cent more income")
    return figure
