"""Samples whose features are known, to see whether an autoencoder finds them, and the two figures that say so.

After the generator of SynthSAEBench (Chanin et al. 2026), scaled down. Feature f has a direction d_f of norm 1 and is
active in a share p_f of the samples; x = Σ_f a_f d_f + bias. The shares fall with the rank f as Zipf's law with
exponent 1/2. Which features are active together is correlated, through a few common causes; some features form trees,
whose children are active only where the parent is, and at most one child at a time. Amplitudes fall with the rank
and spread as folded normals. There are more features than inputs, so that they overlap.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, vstack
from scipy.stats import norm


@dataclasses.dataclass(frozen=True)
class Known:
    """Samples and what they are made of.

    Args:
        samples: The samples (samples, inputs), float32: activity @ directions + bias.
        activity: True amplitudes (samples, features), at least 0.
        directions: Rows of norm 1 (features, inputs).
        bias: What every sample contains (inputs,).
    """

    samples: np.ndarray
    activity: csr_array
    directions: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True)
class Features:
    """A world of features, drawn from its seed.

    Args:
        features: How many features.
        inputs: Dimension of the samples.
        most, least: Share of samples in which the first and the last feature would be active on their own.
        trees: How many trees; their roots are the first features.
        branching: Children of each feature of a tree that has children.
        depth: Generations below a root.
        amplitudes: Mean amplitude of the first and the last feature.
        spread: Standard deviation of an amplitude about its mean.
        causes: Number of common causes.
        correlation: Share of the variance of what makes a feature active that common causes explain.
        bias: Norm of what every sample contains.
        seed: Of the world; samples have their own.
    """

    features: int = 1024
    inputs: int = 128
    most: float = 0.4
    least: float = 5e-4
    trees: int = 24
    branching: int = 4
    depth: int = 2
    amplitudes: tuple[float, float] = (5.0, 4.0)
    spread: float = 0.5
    causes: int = 25
    correlation: float = 0.25
    bias: float = 0.5
    seed: int = 0

    def shares(self) -> np.ndarray:
        """Share of samples in which each feature would be active if it had no parent (features,)."""
        rank = 1.0 / np.sqrt(np.arange(1, self.features + 1))
        return self.least + (self.most - self.least) * (rank - rank[-1]) / (rank[0] - rank[-1])

    def parents(self) -> np.ndarray:
        """Each feature's parent, −1 for none; generations follow one another in rank (features,).

        Raises:
            ValueError: if the trees need more features than there are.
        """
        generations = [self.trees * self.branching**level for level in range(self.depth + 1)]
        if sum(generations) > self.features:
            raise ValueError(f"the trees need {sum(generations)} features; there are {self.features}")
        parents = np.full(self.features, -1)
        first = 0
        for before, size in itertools.pairwise(generations):
            parents[first + before : first + before + size] = first + np.arange(size) // self.branching
            first += before
        return parents

    def directions(self) -> np.ndarray:
        """Random directions (features, inputs), rows of norm 1, float32."""
        drawn = np.random.default_rng([self.seed, 0]).normal(size=(self.features, self.inputs))
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)

    def draw(self, count: int, seed: int = 0) -> Known:
        """Draw `count` samples; the same seed gives the same samples."""
        world, chance = np.random.default_rng([self.seed, 1]), np.random.default_rng([self.seed, 2, seed])
        loads = world.normal(size=(self.causes, self.features))
        loads *= np.sqrt(self.correlation) / np.linalg.norm(loads, axis=0)
        bias = world.normal(size=self.inputs)
        bias = (self.bias * bias / np.linalg.norm(bias)).astype(np.float32)
        mean = np.linspace(*self.amplitudes, self.features, dtype=np.float32)
        directions, parents, bound = self.directions(), self.parents(), norm.isf(self.shares())
        parts = []
        for size in np.diff([*range(0, count, 4096), count]):
            common = chance.normal(size=(size, self.causes)) @ loads
            urge = common + np.sqrt(1 - self.correlation) * chance.normal(size=common.shape)
            awake = _in_families(urge > bound, urge, parents)
            amplitude = np.abs(mean + self.spread * chance.normal(size=awake.shape).astype(np.float32))
            parts.append(csr_array(np.where(awake, amplitude, np.float32(0))))
        activity = csr_array(vstack(parts))
        return Known(activity @ directions + bias, activity, directions, bias)


def _in_families(awake: np.ndarray, urge: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Silence children without their parent, and of awake siblings all but the one with the greatest urge."""
    awake = awake.copy()
    families = np.unique(parents[parents >= 0])
    for parent in families:  # generations follow one another, so a parent is decided before its children
        children = np.flatnonzero(parents == parent)
        wanting = np.where(awake[:, children], urge[:, children], -np.inf)
        first = wanting == wanting.max(1, keepdims=True)
        awake[:, children] &= first & awake[:, [parent]]
    return awake


def matched(fields: Any, directions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair units with features, one to one, so that the sum of |cos| of field and direction is greatest.

    Returns:
        Units, features, and |cos| of each pair; as many as the fewer of the two.
    """
    fields, directions = (np.asarray(rows, np.float64) for rows in (fields, directions))
    lengths = [np.maximum(np.linalg.norm(rows, axis=1), 1e-30) for rows in (fields, directions)]
    cosine = np.abs(fields @ directions.T) / lengths[0][:, None] / lengths[1]
    units, features = linear_sum_assignment(cosine, maximize=True)
    return units, features, cosine[units, features]


def mcc(fields: Any, directions: Any) -> float:
    """Mean correlation coefficient: mean |cos| of matched pairs, 1 if every feature is some unit's field."""
    return float(matched(fields, directions)[2].mean())


def f1(activity: Any, truth: Any, units: np.ndarray, features: np.ndarray) -> np.ndarray:
    """F1 of "the unit is active" as a detector of "the feature is active", for each matched pair.

    2·both/(unit active + feature active), counted over the samples; 0 where neither is ever active.

    Args:
        activity: Units' activity (samples, units), array or sparse.
        truth: Features' activity (samples, features), array or sparse.
        units, features: The pairs, as `matched` gives them.
    """
    said, true = (csr_array(part) for part in (activity, truth))
    said, true = csr_array(said[:, units] > 0, dtype=float), csr_array(true[:, features] > 0, dtype=float)
    both = said.multiply(true).sum(0)
    return 2 * both / np.maximum(said.sum(0) + true.sum(0), 1.0)
