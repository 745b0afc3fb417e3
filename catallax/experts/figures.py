"""Pictures of experts and their market: learning, loads, prices, and whom each expert serves.

Each picture stands on a transparent ground in colours that can be read on a light and on a dark one, five
inches wide, so that its words keep their size on a phone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..pictures import MAIN, QUIET, SECOND, drawing

WIDTH = 5.0
"""Inches."""

SHADES = (MAIN, SECOND, "#6a994e", "#8c6bb1", "#b08900", "#4d908e", "#a8577e", "#577590")
"""Colours of lines, in their order."""

MARKS = "osD^vPX*"
"""Marks of lines, so that they are told apart without colour."""

LEAST = 1e-3
"""A violation below this is drawn as if it were this, since a logarithm has no zero."""


def draw_learning(
    losses: Mapping[str, tuple[np.ndarray, np.ndarray]],
    violations: Mapping[str, tuple[np.ndarray, np.ndarray]],
    allowed: float,
) -> Any:
    """Draw, over the steps of training and for each router, the loss and the largest violation of balance.

    Args:
        losses: Steps and losses in nats per byte, by router.
        violations: Steps and MaxVio, by router; a network without experts has none.
        allowed: The MaxVio that is promised of the market.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        for number, (name, (steps, loss)) in enumerate(losses.items()):
            look = _look(number, steps.size)
            upper.plot(steps, loss, label=name, **look)
            if name in violations:
                places, amounts = violations[name]
                lower.plot(places, np.maximum(amounts, LEAST), **look)
        lower.axhline(allowed, color=QUIET, linewidth=1, linestyle="--")
        upper.set_ylabel("loss, nats per byte")
        most = max((float(amounts.max(initial=1.0)) for _, amounts in violations.values()), default=1.0)
        lower.set(yscale="log", xlabel="steps", ylabel="MaxVio of a batch", ylim=(LEAST, 1.5 * most))
        for axes in (upper, lower):
            axes.grid()
        figure.legend(loc="outside upper center", ncols=min(4, len(losses)))
    return figure


def _look(number: int, points: int) -> dict[str, Any]:
    """Return how the line of so many points is drawn that is the so-manieth."""
    mark = MARKS[number % len(MARKS)] if points <= 60 else ""
    return {"color": SHADES[number % len(SHADES)], "linewidth": 1.3, "marker": mark, "markersize": 3.5}


def draw_loads(loads: Mapping[str, np.ndarray], steps: np.ndarray) -> Any:
    """Draw each expert's load over time, one panel for each router: white is the mean, blue more, red less.

    Args:
        loads: Load over mean load by router, each of shape (recorded steps, experts).
        steps: The recorded steps of the longest training.
    """
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 0.6 + 1.25 * len(loads)), layout="constrained")
        places = figure.subplots(len(loads), sharex=True, squeeze=False)[:, 0]
        for axes, (name, load) in zip(places, loads.items(), strict=True):
            picture = axes.imshow(
                load.T, cmap="RdBu", vmin=0, vmax=2, aspect="auto", interpolation="none",
                extent=(0, steps[: len(load)].max(initial=1), load.shape[1] - 0.5, -0.5),
            )  # fmt: skip
            axes.set(title=name, yticks=[], ylabel="experts")
        places[-1].set_xlabel("steps")
        figure.colorbar(picture, ax=list(places), label="load / mean load", shrink=0.8)
    return figure


def draw_prices(steps: np.ndarray, prices: np.ndarray) -> Any:
    """Draw all experts' prices over time, one panel for each layer, beside the layer's mean price.

    Args:
        steps: Shape (recorded steps,).
        prices: Shape (recorded steps, layers, experts).
    """
    layers = prices.shape[1]
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * layers), layout="constrained")
        places = figure.subplots(layers, sharex=True, squeeze=False)[:, 0]
        for layer, axes in enumerate(places):
            own = prices[:, layer] - prices[:, layer].mean(axis=1, keepdims=True)
            axes.plot(steps, own, color=MAIN, linewidth=0.8, alpha=0.7)
            axes.set(title=f"layer {layer + 1}", ylabel="price − mean")
            axes.grid()
        places[-1].set_xlabel("steps")
    return figure


def draw_served(shares: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> Any:
    """Draw who serves whom: for each kind of byte, how its tokens are spread over the experts.

    Args:
        shares: Under each panel's title the names of its rows and an array (rows, experts), rows summing to one.
    """
    rows = [len(names) for names, _ in shares.values()]
    with drawing() as Figure:
        figure = Figure(figsize=(WIDTH, 0.5 * len(rows) + 0.2 * sum(rows) + 0.4), layout="constrained")
        places = figure.subplots(len(rows), sharex=True, squeeze=False, height_ratios=rows)[:, 0]
        top = max((float(np.nanmax(share, initial=0.0)) for _, share in shares.values()), default=0.0) or 1.0
        for axes, (title, (names, share)) in zip(places, shares.items(), strict=True):
            picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="none")
            axes.set_title(title)
            axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
            axes.tick_params(axis="y", length=0)
        places[-1].set(xlabel="expert, by the kind that it serves most", xticks=[])
        figure.colorbar(picture, ax=list(places), label="share of the kind's tokens", shrink=0.8)
    return figure


def by_kind(shares: np.ndarray) -> np.ndarray:
    """Return an order of the experts in which those that serve the same kind most stand together.

    Args:
        shares: How each kind's tokens are spread over the experts, shape (kinds, experts).
    """
    most = np.argmax(np.nan_to_num(shares), axis=0)
    return np.lexsort((-np.nan_to_num(shares).max(axis=0), most))
