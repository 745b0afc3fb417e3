"""Pictures of a crowd: where it is, where it goes, how the answer was found, what an actual crowd does.

Each picture stands on a transparent ground in colours that can be read on a light and on a dark one, five
inches wide, so that its words keep their size on a phone. What is drawn is computed by functions of its own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..pictures import MAIN, SECOND, drawing
from ..study import Film

WIDTH = 5.0
"""Inches."""

FRAMES, SIDE, MARKS = 81, 96, 32
"""A film has at most so many frames, so many cells a side, and so many arrows a side."""

BARS = 200
"""A film of bars has at most so many; neighbouring states then share one."""

LINES = 8
"""With more states than this, the crowd over time is drawn as a map and not as lines."""

PANELS, PANEL_ARROWS = 4, 20
"""A picture of moments has so many panels; one of them has at most so many arrows a side, if two stand side by side."""

HELD = 0.8
"""The strongest colour stands for a density that this part of the crowd's time is spent at or below."""


SHADES = ("#3a7ca5", "#c8553d", "#6a994e", "#8c6bb1", "#b08900", "#4d908e", "#a8577e", "#577590")
"""Colours of lines, in their order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How a game's states lie on a grid.

    Args:
        shape: Rows and columns.
        walls: Cells that nobody enters, shape (rows, columns).
        ends: Cells that nobody leaves, such as exits, shape (rows, columns).
        periodic: Whether the grid closes on itself.
    """

    shape: tuple[int, int]
    walls: np.ndarray
    ends: np.ndarray
    periodic: bool = False

    def cells(self, density: np.ndarray) -> np.ndarray:
        """Return densities (..., S) as cells (..., rows, columns), NaN where a wall is."""
        return np.where(self.walls, np.nan, density.reshape(*density.shape[:-1], *self.shape))

    def ceiling(self, density: np.ndarray) -> float:
        """Return the density of the strongest colour; in an exit the crowd piles up, and it does not count."""
        return ceiling(np.where(self.ends, np.nan, self.cells(density)))


def spread_times(horizon: int, most: int) -> np.ndarray:
    """Return at most so many times from 0 to the horizon, evenly spread, both ends among them."""
    return np.unique(np.rint(np.linspace(0, horizon, min(most, horizon + 1))).astype(int))


def ceiling(amounts: np.ndarray, held: float = HELD) -> float:
    """Return the amount at or below which the given part of the whole lies; walls (NaN) do not count.

    A crowd that starts in one cell would otherwise leave all later colours pale.
    """
    sizes = np.sort(amounts[np.isfinite(amounts) & (amounts > 0)], axis=None)
    if not sizes.size:
        return 1.0
    below = np.cumsum(sizes)
    return float(sizes[min(sizes.size - 1, int(np.searchsorted(below, held * below[-1])))])


def blocks(cells: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Add up squares of cells until there are at most so many a side.

    Args:
        cells: Amounts, shape (frames, rows, columns), NaN for a wall.
        most: The longest side.

    Returns:
        The sums, NaN where a square is all wall, and the squares' side.
    """
    side = max(1, -(-max(cells.shape[1:]) // most))
    if side == 1:
        return cells, 1
    pad = [(0, -size % side) for size in cells.shape[1:]]
    cells = np.pad(cells, [(0, 0), *pad], constant_values=np.nan)
    frames, rows, columns = cells.shape
    parts = cells.reshape(frames, rows // side, side, columns // side, side)
    return np.where(np.all(np.isnan(parts), axis=(2, 4)), np.nan, np.nansum(parts, axis=(2, 4))), side


def block_arrows(arrows: np.ndarray, walls: np.ndarray, most: int) -> np.ndarray:
    """Return the mean arrow of each square of free cells, at most so many squares a side.

    Args:
        arrows: Down and right, shape (frames, rows, columns, 2).
        walls: Shape (rows, columns).
        most: The longest side.
    """
    free = np.broadcast_to(np.where(walls, np.nan, 1.0), arrows.shape[:3])
    count, _ = blocks(free, most)
    sums = [blocks(np.where(walls, np.nan, arrows[..., axis]), most)[0] for axis in (0, 1)]
    return np.nan_to_num(np.stack(sums, axis=-1) / count[..., None])


def grid_film(plan: Plan, flow: np.ndarray, times: np.ndarray, arrows: np.ndarray | None) -> Film:
    """Return the film of a crowd on a grid.

    Args:
        plan: The grid.
        flow: Densities at the times, shape (frames, S).
        times: Those times; the last is the horizon.
        arrows: Where players go, shape (frames, rows, columns, 2), or None.
    """
    cells, side = blocks(plan.cells(flow), SIDE)
    unit = "part of the crowd in a cell" if side == 1 else f"part of the crowd in a square of {side} × {side} cells"
    thin = None if arrows is None else block_arrows(arrows, plan.walls, MARKS)
    top = min(plan.ceiling(flow) * side**2, float(np.nanmax(cells)) or 1.0)
    return Film(np.maximum(cells, 0), _labels(times), unit, top, arrows=thin)


def bar_film(flow: np.ndarray, times: np.ndarray, names: Sequence[str]) -> Film:
    """Return the film of a crowd on states in a row, whose names are given."""
    side = max(1, -(-flow.shape[1] // BARS))
    bars = np.add.reduceat(flow, np.arange(0, flow.shape[1], side), axis=1)
    unit = "part of the crowd in a state" if side == 1 else f"part of the crowd in {side} neighbouring states"
    top = float(bars.max()) or 1.0
    return Film(np.maximum(bars, 0)[:, None, :], _labels(times), unit, top, bars=True, names=names[::side])


def _labels(times: np.ndarray) -> list[str]:
    return [f"time {time} of {times[-1]}" for time in times]


def _ramp() -> Any:
    """Return colours from nothing to dark blue, and grey for a wall."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("ramp", ["#3a7ca500", "#3a7ca5ff", "#12334aff"])
    return ramp.with_extremes(bad="#9aa0a6bf")


def draw_moments(
    plan: Plan, flow: np.ndarray, titles: Sequence[str], top: float, arrows: np.ndarray | None = None
) -> Any:
    """Draw a crowd on a grid at a few moments, with the ways that players go.

    Args:
        plan: The grid.
        flow: Densities at the moments, shape (moments, S).
        titles: What stands above each.
        top: The density of the strongest colour.
        arrows: Down and right, shape (moments, rows, columns, 2).
    """
    from matplotlib.colors import PowerNorm

    cells, (rows, columns) = plan.cells(flow), plan.shape
    across = 2 if columns <= 2 * rows and len(titles) > 1 else 1
    down = -(-len(titles) // across)
    arrows = None if arrows is None else block_arrows(arrows, plan.walls, 2 * PANEL_ARROWS // across)
    each = WIDTH / across
    norm = PowerNorm(0.5, vmin=0, vmax=top, clip=True)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, down * (each * rows / columns + 0.15) + 0.8), layout="constrained")
        grid = np.atleast_1d(figure.subplots(down, across)).ravel()
        image = None
        for place, axes in enumerate(grid):
            axes.set_axis_off()
            if place < len(titles):
                image = axes.imshow(cells[place], cmap=_ramp(), norm=norm, interpolation="nearest")
                axes.set_title(titles[place])
                if arrows is not None:
                    _quiver(axes, arrows[place], plan.shape)
        bar = figure.colorbar(image, ax=list(grid), location="bottom", shrink=0.8, aspect=40, pad=0.03, extend="max")
        bar.set_label("part of the crowd in a cell")
        bar.set_ticks([0, top / 4, top], labels=["0", f"{top / 4:.2g}", f"{top:.2g}"])
        bar.outline.set_visible(False)
    return figure


def _quiver(axes: Any, arrows: np.ndarray, shape: tuple[int, ...]) -> None:
    rows, columns = arrows.shape[:2]
    down, across = shape[0] / rows, shape[1] / columns
    y, x = np.meshgrid((np.arange(rows) + 0.5) * down - 0.5, (np.arange(columns) + 0.5) * across - 0.5, indexing="ij")
    seen = np.hypot(arrows[..., 0], arrows[..., 1]) > 0.05
    axes.quiver(
        x[seen],
        y[seen],
        arrows[seen][:, 1] * across,
        arrows[seen][:, 0] * down,
        angles="xy",
        scale_units="xy",
        scale=1.15,
        pivot="mid",
        color=SECOND,
        width=0.08 / columns,
        headwidth=4.5,
        headlength=4.5,
        headaxislength=4,
    )


def draw_flow(flow: np.ndarray, names: Sequence[str]) -> Any:
    """Draw the crowd over time: a line for each state if they are few, else a map of times and states.

    Args:
        flow: Densities, shape (T + 1, S).
        names: The states' names.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        if flow.shape[1] <= LINES:
            for state, name in enumerate(names):
                axes.plot(flow[:, state], color=SHADES[state], marker="o" if len(flow) < 40 else "", ms=3, label=name)
            axes.set(xlabel="time", ylabel="part of the crowd", ylim=(0, None))
            axes.grid()
            figure.legend(loc="outside upper center", ncols=min(4, len(names)))
        else:
            shown = flow[spread_times(len(flow) - 1, 400)]
            side = max(1, -(-flow.shape[1] // 400))
            table = np.add.reduceat(shown, np.arange(0, flow.shape[1], side), axis=1)
            extent = (-0.5, len(flow) - 0.5, -0.5, flow.shape[1] - 0.5)
            look = {"cmap": _ramp(), "vmin": 0, "vmax": ceiling(table, 0.99), "interpolation": "nearest"}
            image = axes.imshow(table.T, aspect="auto", origin="lower", extent=extent, **look)
            axes.set(xlabel="time", ylabel="state")
            bar = figure.colorbar(image, ax=axes, location="top", shrink=0.7, aspect=40, pad=0.02, extend="max")
            bar.set_label("part of the crowd" + (f" in {side} states" if side > 1 else ""))
            bar.outline.set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_rest(parts: np.ndarray) -> Any:
    """Draw a crowd at rest on states in a row: the kinds' parts of the density, (kinds, S), one on the other.

    With more kinds than colours only the sum is drawn.
    """
    parts = parts if len(parts) <= len(SHADES) else parts.sum(axis=0, keepdims=True)
    edges, tops = np.arange(parts.shape[1] + 1) - 0.5, np.cumsum(parts, axis=0)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        for kind, (top, part) in enumerate(zip(tops, parts, strict=True)):
            axes.stairs(top, edges, baseline=top - part, fill=True, color=SHADES[kind], label=f"kind {kind}")
        axes.set(xlabel="state", ylabel="part of the crowd", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        if len(parts) > 1:
            figure.legend(loc="outside upper center", ncols=min(4, len(parts)))
    return figure


def draw_convergence(rounds: np.ndarray, distances: np.ndarray, tol: float) -> Any:
    """Draw the exploitability, per reward range, after each round on logarithmic scales, and the tolerance."""
    seen = np.isfinite(distances) & (distances > 0) & (rounds > 0)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        marker = "o" if np.count_nonzero(seen) <= 60 else ""
        axes.plot(rounds[seen], distances[seen], color=MAIN, marker=marker, markersize=3, linewidth=1.4)
        axes.axhline(tol, color=SECOND, linewidth=1, linestyle="--")
        axes.annotate(
            f"tolerance {tol:g}",
            (0, tol),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            color=SECOND,
        )
        axes.set(xscale="log", yscale="log", xlabel="round", ylabel="exploitability / reward range")
        axes.grid()
    return figure


def draw_law(sizes: np.ndarray, values: np.ndarray, errors: np.ndarray, fit: np.ndarray, label: str) -> Any:
    """Draw how far actual crowds are from the mean field, by their size, and the fitted power.

    Args:
        sizes: Numbers of players.
        values: The distance for each.
        errors: Its standard error.
        fit: The fitted power's value for each.
        label: What the distance is.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.errorbar(sizes, values, 2 * errors, fmt="o", color=MAIN, markersize=4, linewidth=1, label="actual crowds")
        axes.plot(sizes, fit, color=SECOND, linewidth=1, linestyle="--", label="fitted power")
        axes.set(xscale="log", yscale="log", xlabel="players", ylabel=label)
        axes.grid()
        figure.legend(loc="outside upper center", ncols=2)
    return figure
