"""Pictures: who owns how much."""

from typing import Any

import numpy as np


def lorenz(wealth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Lorenz curve: the poorest part of the agents, and the part of all money that it owns."""
    owned = np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(wealth, np.float64)))])
    return np.linspace(0, 1, len(owned)), owned / owned[-1]


def draw_histogram(wealth: np.ndarray, mean: float) -> Any:
    """Draw how many own how much, beside the exponential law, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, max(8 * mean, float(np.max(wealth))), 41)
    axes.hist(wealth, list(edges), density=True, color="#7aa6c2", label="agents")
    middle = edges[edges <= mean * np.log(max(2, len(wealth)))]
    axes.plot(middle, np.exp(-middle / mean) / mean, color="#b4443c", label="exponential law")
    axes.set(yscale="log", xlabel="wealth", ylabel="density")
    axes.legend(frameon=False)
    return figure


def draw_lorenz(wealth: np.ndarray) -> Any:
    """Draw the Lorenz curve, beside that of the exponential law."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    axes = figure.subplots()
    agents, owned = lorenz(wealth)
    part = np.linspace(0, 1, 201)
    axes.plot(agents, owned, color="#3a6f8f", label="agents")
    axes.plot(
        part,
        part + (1 - part) * np.log1p(-np.minimum(part, 1 - 1e-12)),
        "--",
        color="#b4443c",
        label="exponential law",
    )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set(xlabel="part of the agents, poorest first", ylabel="part of the money they own", aspect="equal")
    axes.legend(frameon=False)
    return figure
