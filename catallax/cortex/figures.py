"""Pictures of neurons that compete: their receptive fields, what they explain, and how they compare.

Each picture stands on a transparent ground in colours that can be read on a light and on a dark one, five
inches wide, so that its words keep their size on a phone. What is drawn is computed by functions of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..pictures import MAIN, QUIET, SECOND, drawing

WIDTH = 5.0
"""Inches."""

FIELDS = 256
"""A mosaic shows at most so many fields."""

SHADES = (MAIN, SECOND, "#6a994e", "#8c6bb1", "#b08900", "#4d908e", "#a8577e", "#577590")
"""Colours of lines, in their order."""

MARKS = "osD^vPX*"
"""Marks of lines, so that they are told apart without colour."""


def mosaic(fields: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange square fields as tiles of one picture, each scaled to its own largest amount.

    Args:
        fields: Shape (units, side²).
        columns: Tiles a row; about as many as rows if left out.

    Returns:
        Amounts from −1 to 1, NaN between the tiles, shape (rows · (side + 1) − 1, columns · (side + 1) − 1).

    Raises:
        ValueError: if a field is no square.
    """
    units, inputs = fields.shape
    side = round(inputs**0.5)
    if side * side != inputs:
        raise ValueError(f"a field of {inputs} inputs is no square")
    columns = columns or int(np.ceil(units**0.5))
    rows = -(-units // columns)
    tiles = np.full((rows * columns, side + 1, side + 1), np.nan)
    tiles[:units, :-1, :-1] = (fields / np.maximum(np.abs(fields).max(axis=1, keepdims=True), 1e-30)).reshape(
        units, side, side
    )
    picture = tiles.reshape(rows, columns, side + 1, side + 1).swapaxes(1, 2)
    return picture.reshape(rows * (side + 1), columns * (side + 1))[:-1, :-1]


def draw_dictionary(fields: np.ndarray) -> Any:
    """Draw receptive fields, at most `FIELDS`, in their order: grey is nothing, white and black are + and −."""
    picture = mosaic(fields[:FIELDS])
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, WIDTH * picture.shape[0] / picture.shape[1]), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, interpolation="none")
    return figure


def draw_pictures(pictures: Mapping[str, np.ndarray], across: int = 2) -> Any:
    """Draw grey pictures of one size beside one another, under their names and on one scale.

    Args:
        pictures: Amounts by name, each of shape (rows, columns).
        across: How many stand side by side.
    """
    first = next(iter(pictures.values()))
    top = float(np.quantile(np.abs(first), 0.995)) or 1.0
    down = -(-len(pictures) // across)
    tall = WIDTH / across * first.shape[0] / first.shape[1] + 0.3
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, down * tall), layout="constrained")
        places = np.atleast_1d(figure.subplots(down, across)).ravel()
        for axes in places:
            axes.set_axis_off()
        for axes, (name, picture) in zip(places, pictures.items(), strict=False):
            axes.imshow(picture, cmap="gray", vmin=-top, vmax=top, interpolation="none")
            axes.set_title(name)
    return figure


def draw_lines(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str, y: str, *, log: bool = False, marks: bool = True
) -> Any:
    """Draw several curves, each with its own colour and mark, and a legend if they are more than one.

    Args:
        curves: Abscissae and ordinates by name.
        x: What the abscissa is.
        y: What the ordinate is.
        log: Whether the abscissa is logarithmic.
        marks: Whether points are marked.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        for number, (name, (places, values)) in enumerate(curves.items()):
            look = {"color": SHADES[number % len(SHADES)], "linewidth": 1.3, "label": name}
            axes.plot(places, values, marker=MARKS[number % len(MARKS)] if marks else "", markersize=4, **look)
        axes.set(xlabel=x, ylabel=y)
        if log:
            _plain_logarithms(axes)
        axes.grid()
        if len(curves) > 1:
            figure.legend(loc="outside upper center", ncols=min(3, len(curves)))
    return figure


def _plain_logarithms(axes: Any) -> None:
    """Make the abscissa logarithmic, with numbers written as numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_intervals(names: Sequence[str], panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Draw, for each of several measures, every method's mean and its interval; the first method stands out.

    Args:
        names: The methods.
        panels: Means and half widths of the intervals by measure, each of shape (methods,); NaN is left out.
    """
    place = np.arange(len(names))
    down = -(-len(panels) // 2)
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, down * (0.75 + 0.24 * len(names))), layout="constrained")
        grid = np.atleast_2d(figure.subplots(down, 2, sharey=True, squeeze=False))
        for axes in grid.ravel()[len(panels) :]:
            axes.set_axis_off()
        for axes, (measure, (means, widths)) in zip(grid.ravel(), panels.items(), strict=False):
            colours = [MAIN] + [QUIET] * (len(names) - 1)
            axes.hlines(place, means - widths, means + widths, color=colours, linewidth=2)
            axes.scatter(means, place, color=colours, s=18, zorder=3)
            axes.set_title(measure)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.grid()
            axes.xaxis.get_major_locator().set_params(nbins=4)
        grid[0, 0].set_yticks(place, list(names))
        grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def draw_rasters(pictures: Mapping[str, np.ndarray]) -> Any:
    """Draw which units are active over time, in the order in which they first are.

    Args:
        pictures: Activity by name, each of shape (frames, units); units that are never active are left out.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        places = np.atleast_1d(figure.subplots(1, len(pictures)))
        for axes, (name, activity) in zip(places, pictures.items(), strict=True):
            rows = raster(activity)
            top = float(np.abs(rows).max(initial=0.0)) or 1.0
            axes.imshow(rows, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", interpolation="none")
            axes.set_title(name)
            axes.set(xlabel="frame", yticks=[])
            axes.xaxis.get_major_locator().set_params(integer=True)
        places[0].set_ylabel("units, by first appearance")
    return figure


def raster(activity: np.ndarray) -> np.ndarray:
    """Return activity as units by frames, units in the order in which they first become active, silent ones left out.

    Args:
        activity: Shape (frames, units).
    """
    active = activity != 0
    order = np.argsort(np.argmax(active, axis=0), kind="stable")
    return activity[:, order[active.any(axis=0)[order]]].T
