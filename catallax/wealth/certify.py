"""An independent check: float64 NumPy, from the question and the answer alone."""

import math

import numpy as np

from ..certificate import Certificate
from .problem import Economy

SURPRISE = 1e-3
"""How often an honest run may miss the distance from the exponential law."""


def certify(economy: Economy, wealth: np.ndarray) -> list[Certificate]:
    """Check what a run of some dozens of rounds must show: no money lost, and the exponential law.

    Args:
        economy: Who started with what.
        wealth: What each agent owns, shape (agents,).
    """
    wealth = np.asarray(wealth, np.float64)
    money = economy.agents * economy.money
    lost = abs(math.fsum(wealth) - money) / money
    # Kolmogorov: P(√n D > x) ≈ 2 exp(−2x²).
    critical = math.sqrt(math.log(2 / SURPRISE) / 2 / economy.agents)
    return [
        Certificate("money lost", lost, 1e-5, "change of all money, relative"),
        Certificate("debt", float(np.maximum(0, -np.min(wealth))) / economy.money, 0.0, "the deepest debt"),
        Certificate(
            "distance from the exponential law",
            distance(wealth, economy.money),
            critical,
            "Kolmogorov-Smirnov; an honest run passes all but once in a thousand",
        ),
    ]


def distance(wealth: np.ndarray, mean: float) -> float:
    """Return the Kolmogorov-Smirnov distance of a sample from the exponential law with a given mean."""
    law = 1 - np.exp(-np.sort(wealth) / mean)
    steps = np.arange(len(law) + 1) / len(law)
    return float(max(np.max(steps[1:] - law), np.max(law - steps[:-1])))


def gini(wealth: np.ndarray) -> float:
    """Return Gini's coefficient: 0 if all own the same, 1/2 under the exponential law, 1 if one owns all."""
    ordered = np.sort(np.asarray(wealth, np.float64))
    n = len(ordered)
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float(ranks @ ordered / (n * np.sum(ordered)))
