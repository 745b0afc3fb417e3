"""A memory that no single neuron holds: Hopfield's network, and its modern dense variants, on one public overlap.

Neuron i remembers its own bit ξ_i^μ = ±1 of every pattern μ and hears how well the network's state agrees with each,
m_μ = Σ_j ξ_j^μ s_j. It takes its own voice out and answers with the sign of

    h_i = Σ_μ ξ_i^μ f(m_μ − ξ_i^μ s_i).

With f(m) = m that is Hebb's rule without self-coupling, w_ij = Σ_μ ξ_i^μ ξ_j^μ, and no coupling is ever written down.
f sharper than that is the dense associative memory, which holds far more patterns than there are neurons.

References:
    Hopfield (1982), Neural networks and physical systems with emergent collective computational abilities, eq. 1-2;
    Krotov & Hopfield (2016), Dense associative memory for pattern recognition, eq. 3;
    Demircigil et al. (2017), On a model of associative memory with huge storage capacity, eq. 3;
    theory of the load: Amit, Gutfreund & Sompolinsky (1985), Storing infinite numbers of patterns, eq. 9-12.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.optimize import brentq
from scipy.special import erf

from ..core.message import Outer
from ..core.run import run
from ..core.system import AbstractSystem, State

Separation = Callable[[Float[Array, "cues patterns"]], Float[Array, "cues patterns"]]
"""How strongly a pattern speaks, given its overlaps: shape (cues, patterns) to the same."""


def hebb(overlap: Float[Array, "cues patterns"]) -> Float[Array, "cues patterns"]:
    """Return f(m) = m: Hebb's rule (Hopfield 1982)."""
    return overlap


def cubic(overlap: Float[Array, "cues patterns"]) -> Float[Array, "cues patterns"]:
    """Return f(m) = m³, up to a scale: the energy −Σ m⁴ of Krotov & Hopfield (2016), to leading order in 1/units."""
    return (overlap / jnp.max(jnp.abs(overlap), axis=-1, keepdims=True)) ** 3


def exponential(overlap: Float[Array, "cues patterns"]) -> Float[Array, "cues patterns"]:
    """Return f(m) = exp m, up to a scale: Demircigil et al. (2017), and attention (Ramsauer et al. 2021, eq. 3)."""
    return jax.nn.softmax(overlap, axis=-1)


class Neuron(eqx.Module):
    """One neuron: its bits of all patterns, and its present state for each cue; all ±1.

    Args:
        memory: ξ_i; constant.
        spin: s_i, one per cue that is recalled side by side.
    """

    memory: Float[Array, "*n patterns"]
    spin: Float[Array, "*n cues"]


class Recall(AbstractSystem):
    """Neurons align with their own field, each now and then; the signal is every pattern's overlap with the state.

    Args:
        separation: f: `hebb`, `cubic` or `exponential`.
        haste: The chance that a neuron looks in a round. At 1 all look at once, and may swing between two states.
    """

    separation: Separation = eqx.field(static=True, default=hebb)
    haste: float = eqx.field(static=True, default=0.5)

    def respond(self, agent, signal, key):
        others = signal - agent.spin[:, None] * agent.memory[None, :]
        field = self.separation(others) @ agent.memory
        looks = jax.random.bernoulli(key, self.haste, field.shape)
        # In a tie a neuron stays as it is.
        spin = jnp.where(looks & (field != 0), jnp.sign(field), agent.spin)
        return Neuron(agent.memory, spin), Outer(spin, agent.memory)

    def propagate(self, signal, total):
        del signal
        return total


def first_state(patterns: Float[Array, "patterns units"], cues: Float[Array, "cues units"]) -> State:
    """Return the state in which the neurons have been shown the cues, and the overlaps are known.

    Args:
        patterns: What is remembered, ±1.
        cues: Where recall starts, ±1.

    Raises:
        ValueError: if the two do not have the same units.
    """
    patterns, cues = jnp.asarray(patterns, float), jnp.asarray(cues, float)
    if patterns.ndim != 2 or cues.ndim != 2 or patterns.shape[1] != cues.shape[1]:
        raise ValueError(
            f"patterns and cues are (number, units), of the same units; got {patterns.shape}, {cues.shape}"
        )
    return State(Neuron(patterns.T, cues.T), cues @ patterns.T)


def recall(
    patterns: Float[Array, "patterns units"],
    cues: Float[Array, "cues units"],
    *,
    separation: Separation = hebb,
    rounds: int = 60,
    key: Key[Array, ""],
) -> Float[Array, "cues units"]:
    """Return the states that the cues lead to, ±1.

    Args:
        patterns, cues: As for `first_state`; a neuron whose bits are all 0 is dead, and nobody hears it.
        separation: f: `hebb`, `cubic` or `exponential`.
        rounds: How many; a neuron looks in every other one.
        key: Which neurons look when.
    """
    return run(Recall(separation), first_state(patterns, cues), rounds, key=key).state.agents.spin.T


def recall_table(
    units: int = 1000,
    loads: Sequence[float] = (0.05, 0.1, 0.13, 0.15, 0.2),
    *,
    noise: Sequence[float] = (0.0,),
    removed: Sequence[float] = (0.0,),
    separation: Separation = hebb,
    cues: int = 20,
    rounds: int = 60,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Recall random patterns against load, against noise in the cue and after a share of the units is gone.

    Args:
        units: How many neurons learned the patterns.
        loads: Patterns per neuron that learned them.
        noise: Shares of a cue's bits that are flipped before recall starts.
        removed: Shares of the neurons that die after learning, at random; those that are left know what they knew.
        separation: f: `hebb`, `cubic` or `exponential`.
        cues: How many of the patterns are recalled, side by side.
        rounds: As for `recall`.
        seed: Of patterns, flips, deaths and order.

    Returns:
        A table, one row per combination: columns load, noise, removed, overlap (mean over cues of the agreement
        (1/n)|Σ ξ_i s_i| with the pattern asked for, among the n that are left), recalled (share of the cues with an
        overlap above 0.95) and expected (`expected_overlap`, for Hebb's rule; NaN for others and beyond capacity).
    """
    rows, counts = [], [max(1, round(load * units)) for load in loads]
    for load, count in zip(loads, counts, strict=True):
        draw = np.random.default_rng(seed)
        patterns = draw.choice([-1.0, 1.0], (count, units))
        # Patterns that nobody has are of zeros, so that one program recalls at every load.
        blank = np.zeros((max(counts) - count, units))
        shown = patterns[:cues]
        for flipped in noise:
            cue = np.where(draw.random(shown.shape) < flipped, -shown, shown)
            for gone in removed:
                left = draw.permutation(units)[round(gone * units) :]
                alive = np.isin(np.arange(units), left)
                end = recall(
                    jnp.asarray(np.concatenate([patterns, blank]) * alive, float),
                    jnp.asarray(cue * alive, float),
                    separation=separation,
                    rounds=rounds,
                    key=jax.random.key(seed),
                )
                overlap = np.mean((np.asarray(end) * shown)[:, left], axis=1)
                expected = expected_overlap(len(patterns) / len(left)) if separation is hebb else math.nan
                rows.append((load, flipped, gone, overlap.mean(), np.mean(overlap > 0.95), expected))
    names = ("load", "noise", "removed", "overlap", "recalled", "expected")
    return {
        name: [float(value) for value in column] for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def expected_overlap(load: float) -> float:
    """Return the overlap at which a recalled pattern rests under Hebb's rule, in the limit of many units.

    At no temperature m = erf(m/√(2αr)), C = √(2/(παr)) exp(−m²/(2αr)), r = 1/(1 − C)², with α patterns per unit.
    With y = m/√(2αr) that is one equation: erf y = y (√(2α) + (2/√π) exp(−y²)), of which the largest root counts.

    Returns:
        m in (0, 1], or NaN beyond the capacity of 0.138.
    """
    if load == 0:
        return 1.0

    def balance(y: float | np.ndarray) -> np.ndarray:
        return erf(y) - y * (math.sqrt(2 * load) + 2 / math.sqrt(math.pi) * np.exp(-(np.asarray(y) ** 2)))

    # Beyond 1/√(2α) the balance is negative; the last change of sign below it is the pattern's state.
    grid = np.linspace(1e-3, 1 / math.sqrt(2 * load), 4000)
    above = np.flatnonzero(balance(grid) > 0)
    if not above.size:
        return math.nan
    return float(erf(brentq(balance, grid[above[-1]], grid[min(above[-1] + 1, grid.size - 1)] + 1e-9)))
