"""Volume transmission: a modulator released at points, diffusing between the cells and taken up, read where one stands.

    ∂C/∂t = D*∇²C − u(C) + (1/α) Σ_k q_k δ(x − x_k),      u = k'C  or  V_max C/(K_m + C)

Terminals release, neurons read the concentration at their own place, and the law of motion is the equation above.
Lengths are in µm, times in s, concentrations in µM, and amounts in µM·µm³, of which one is 602.2 molecules.

Space is cut into finite volumes, and the diffusion of half a round is the exact exponential of that, one matrix per
axis: positive and conserving for rounds of any length, second order in the width of a cell. A round is uptake,
diffusion, release, diffusion, uptake, with the exact solution of each part: second order in the round's length
(Strang 1968). What is released counts as released in the middle of the round.

References:
    Nicholson & Phillips (1981), Ion diffusion modified by tortuosity and volume fraction, eq. 19;
    Cragg & Rice (2004), DAncing past the DAT at a DA synapse; Rice & Cragg (2008), Dopamine spillover after quantal
    release, for the equation and dopamine's numbers in the striatum.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.linalg import expm
from scipy.special import k0

from ..core.message import Sum
from ..core.run import run
from ..core.system import AbstractSystem, State

MOLECULES = 602.214
"""Molecules in one µM·µm³."""

NEWTON_STEPS = 5
"""Of the implicit solution of Michaelis-Menten uptake; they converge from above, squaring the error."""


@dataclasses.dataclass(frozen=True)
class Space:
    """Finite volumes along one or several axes, with walls that let nothing through.

    Args:
        centres: For every axis the cells' centres, in µm.
        weights: For every axis the size of each cell; a cell's volume is the product, in µm³ (in one and two
            dimensions of Cartesian space, a length and an area, as if the rest had size one).
        laplacians: For every axis the matrix L that approximates ∇² on cell averages, columns weighed to sum to zero.
    """

    centres: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]
    laplacians: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many cells along each axis."""
        return tuple(len(axis) for axis in self.centres)

    @property
    def volumes(self) -> np.ndarray:
        """Every cell's volume, of shape `shape`."""
        parts = np.ones(())
        for weight in self.weights:
            parts = parts[..., None] * weight
        return parts

    def site(self, *place: float) -> int:
        """Return the number of the cell that a point lies in, for one coordinate per axis."""
        nearest = [int(np.argmin(np.abs(axis - at))) for axis, at in zip(self.centres, place, strict=True)]
        return int(np.ravel_multi_index(nearest, self.shape))

    def distances(self, *place: float) -> np.ndarray:
        """Return the distance from a point to the centre of each cell, in µm, of shape `shape`."""
        grids = np.meshgrid(*self.centres, indexing="ij")
        return np.sqrt(sum((grid - at) ** 2 for grid, at in zip(grids, place, strict=True)))


def box(size: float | Sequence[float], cells: int | Sequence[int]) -> Space:
    """Return a line, a rectangle or a box around the origin.

    Args:
        size: Full width along each axis, µm.
        cells: How many cells along each axis; odd, so that the origin is the centre of one.

    Raises:
        ValueError: if a size is not positive, a number below 2, or their lengths differ.
    """
    sizes, counts = np.atleast_1d(np.asarray(size, float)), np.atleast_1d(np.asarray(cells, int))
    if sizes.shape != counts.shape or np.any(sizes <= 0) or np.any(counts < 2):
        raise ValueError(f"a box needs a positive size and at least 2 cells for each axis; got {size} and {cells}")
    edges = [np.linspace(-width / 2, width / 2, count + 1) for width, count in zip(sizes, counts, strict=True)]
    axes = [_axis(edge, np.ones_like(edge), np.diff(edge)) for edge in edges]
    return Space(*zip(*axes, strict=True))


def radial(radius: float, cells: int) -> Space:
    """Return a ball in three dimensions in which all depends on the distance from the middle alone: shells.

    Raises:
        ValueError: if the radius is not positive, or cells below 2.
    """
    if radius <= 0 or cells < 2:
        raise ValueError(f"a ball needs a positive radius and at least 2 shells; got {radius} and {cells}")
    edge = np.linspace(0, radius, cells + 1)
    return Space(*zip(_axis(edge, 4 * np.pi * edge**2, np.diff(4 / 3 * np.pi * edge**3)), strict=True))


def _axis(edge: np.ndarray, area: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres, weights and the Laplacian of cells between edges, with the area of every edge."""
    centre = (edge[1:] + edge[:-1]) / 2
    flow = area[1:-1] / np.diff(centre)
    rates = np.diag(flow, 1) + np.diag(flow, -1)
    return centre, weight, (rates - np.diag(rates.sum(axis=1))) / weight[:, None]


class LinearUptake(eqx.Module):
    """Uptake in proportion to the concentration, u = k'C.

    Args:
        rate: k', 1/s.
    """

    rate: float | Float[Array, ""]

    def left(self, concentration: Array, seconds: float | Array) -> Array:
        """Return what is left after some time without diffusion: C exp(−k't)."""
        return concentration * jnp.exp(-jnp.asarray(self.rate * seconds, concentration.dtype))


class MichaelisMenten(eqx.Module):
    """Uptake by transporters that saturate, u = V_max C/(K_m + C).

    Args:
        most: V_max, µM/s.
        half: K_m, µM: the concentration at which they work at half that speed.
    """

    most: float | Float[Array, ""]
    half: float | Float[Array, ""]

    def left(self, concentration: Array, seconds: float | Array) -> Array:
        """Return what is left after some time without diffusion.

        The solution of c + log c = c₀ + log c₀ − V_max t/K_m with c = C/K_m, which is Lambert's W
        (Schnell & Mendoza 1997, eq. 12), by Newton's method for log c.
        """
        half = jnp.asarray(self.half, concentration.dtype)
        first = jnp.log(jnp.maximum(concentration / half, jnp.finfo(concentration.dtype).tiny))
        goal = jnp.exp(first) + first - jnp.asarray(self.most * seconds, concentration.dtype) / half
        log = first
        for _ in range(NEWTON_STEPS):
            log = log - (jnp.exp(log) + log - goal) / (jnp.exp(log) + 1)
        return jnp.where(concentration > 0, half * jnp.exp(log), 0.0)


class Terminal(eqx.Module):
    """A point of release.

    Args:
        site: The number of its cell.
        rate: What it releases, µM·µm³ per s.
    """

    site: Int[Array, "*n"]
    rate: Float[Array, "*n"]


class Plastic(eqx.Module):
    """A neuron that learns by three factors: its input, its own activity, and the modulator where it stands.

    Args:
        site: The number of its cell.
        field: Its weights.
        trace: What it would learn: the eligibility trace of input times activity.
    """

    site: Int[Array, "*n"]
    field: Float[Array, "*n inputs"]
    trace: Float[Array, "*n inputs"]


class Tissue(eqx.Module):
    """The signal: the concentration in every cell, and the input that all neurons share.

    Args:
        concentration: C, µM.
        stimulus: What the neurons see.
    """

    concentration: Float[Array, "..."]
    stimulus: Float[Array, " inputs"]


class Medium(AbstractSystem):
    """Terminals release into the medium; neurons learn where the modulator is; the concentration diffuses.

    Agents are `Terminal`s, or `Populations(terminals=…, neurons=…)` of them and `Plastic` neurons. A neuron answers
    the stimulus with a = φ·x, keeps its eligibility e ← e + (seconds/memory)(a (x − a φ) − e), Oja's form of Hebb's
    rule, and moves its field by gain·C·e: without modulator it learns nothing, whatever it sees.

    Args:
        kernels: For every axis the diffusion of half a round (see `medium`).
        volume: Every cell's volume, µm³.
        uptake: `LinearUptake` or `MichaelisMenten`.
        fraction: α, the part of the volume that is free to diffuse in.
        seconds: The length of a round.
        gain: How fast fields learn, per µM and s.
        memory: How long a trace lasts, s.

    References:
        Oja (1982), A simplified neuron model as a principal component analyzer, eq. 3; three factors: Frémaux &
        Gerstner (2016), Neuromodulated spike-timing-dependent plasticity, and theory of three-factor rules, eq. 3.
    """

    kernels: tuple[Float[Array, "cells cells"], ...]
    volume: Float[Array, "..."]
    uptake: LinearUptake | MichaelisMenten
    fraction: float | Float[Array, ""]
    seconds: float | Float[Array, ""]
    gain: float | Float[Array, ""] = 1.0
    memory: float | Float[Array, ""] = 0.1

    def respond(self, agent, signal, key):
        del key
        dtype = signal.concentration.dtype
        seconds = jnp.asarray(self.seconds, dtype)
        if isinstance(agent, Terminal):
            nothing = jnp.zeros(signal.concentration.size, dtype)
            return agent, Sum(nothing.at[agent.site].add(agent.rate * seconds))
        here = signal.concentration.ravel()[agent.site]
        activity = agent.field @ signal.stimulus
        wanted = activity * (signal.stimulus - activity * agent.field)
        trace = agent.trace + seconds / jnp.asarray(self.memory, dtype) * (wanted - agent.trace)
        field = agent.field + jnp.asarray(self.gain, dtype) * seconds * here * trace
        # A neuron releases nothing, but an agent has to say so.
        return Plastic(agent.site, field, trace), Sum(jnp.zeros((), dtype))

    def propagate(self, signal, total):
        released = total["terminals"] if isinstance(total, dict) else total
        now = self._half(self.uptake.left(signal.concentration, self.seconds / 2))
        now = now + released.reshape(now.shape) / (jnp.asarray(self.fraction, now.dtype) * self.volume)
        now = self.uptake.left(self._half(now), self.seconds / 2)
        return Tissue(now, signal.stimulus)

    def _half(self, concentration: Array) -> Array:
        """Let half a round of diffusion pass, axis by axis."""
        for axis, kernel in enumerate(self.kernels):
            concentration = jnp.moveaxis(jnp.tensordot(kernel, concentration, (1, axis)), 0, axis)
        return concentration


def medium(
    space: Space,
    uptake: LinearUptake | MichaelisMenten,
    *,
    seconds: float,
    diffusion: float = 322.0,
    fraction: float = 0.21,
    gain: float = 1.0,
    memory: float = 0.1,
) -> Medium:
    """Return the system for a space; by default dopamine diffuses in it, in the striatum.

    Args:
        space: `box` or `radial`.
        uptake: `LinearUptake(k')` or `MichaelisMenten(V_max, K_m)`; of dopamine in the striatum 4.1 µM/s and 0.21 µM.
        seconds: The length of a round.
        diffusion: D*, µm²/s, between cells.
        fraction: α.
        gain, memory: As for `Medium`.

    Raises:
        ValueError: if seconds, diffusion or fraction are not positive, or the fraction is above 1.
    """
    if seconds <= 0 or diffusion <= 0 or not 0 < fraction <= 1:
        raise ValueError(
            f"seconds and diffusion must be positive and the fraction in (0, 1]; got {seconds}, {diffusion}, {fraction}"
        )
    # Rounding can leave entries below zero, where the exponential has none.
    kernels = [np.maximum(expm(diffusion * seconds / 2 * one), 0.0) for one in space.laplacians]
    numbers = [jnp.asarray(one, float) for one in (space.volumes, fraction, seconds, gain, memory)]
    volume, *rest = numbers
    return Medium(tuple(jnp.asarray(one, float) for one in kernels), volume, uptake, *rest)


def calm(space: Space, stimulus: Any = (0.0,)) -> Tissue:
    """Return the signal without any modulator."""
    return Tissue(jnp.zeros(space.shape), jnp.asarray(stimulus, float))


def burst(space: Space, site: int, amount: float, fraction: float = 0.21) -> Float[Array, "..."]:
    """Return the concentration right after an amount (µM·µm³) was released into one cell."""
    free = fraction * space.volumes
    place = np.unravel_index(site, space.shape)
    return jnp.zeros(space.shape).at[place].set(amount / free[place])


def burst_concentration(
    distance: Any,
    time: Any,
    amount: float,
    *,
    diffusion: float = 322.0,
    fraction: float = 0.21,
    rate: float = 0.0,
    dimensions: int = 3,
) -> np.ndarray:
    """Return the concentration after a release at a point, with linear uptake: float64.

    Q/(α (4πD*t)^{d/2}) exp(−r²/(4D*t) − k't).

    Args:
        distance: r, µm.
        time: t > 0, s.
        amount: Q, µM·µm³ (in d dimensions µM·µm^d).
        diffusion, fraction, rate: D*, α and k'.
        dimensions: d.

    Reference:
        Nicholson & Phillips (1981), eq. A1, with uptake.
    """
    distance, time = np.asarray(distance, float), np.asarray(time, float)
    spread = 4 * diffusion * time
    return amount / fraction * (np.pi * spread) ** (-dimensions / 2) * np.exp(-(distance**2) / spread - rate * time)


def steady_concentration(
    distance: Any, source: float, *, rate: float, diffusion: float = 322.0, fraction: float = 0.21, dimensions: int = 3
) -> np.ndarray:
    """Return the concentration around a point that has long released q per second, with linear uptake: float64.

    With λ = √(D*/k'): q/(4πD*αr) exp(−r/λ) in three dimensions, q/(2πD*α) K₀(r/λ) in two, and qλ/(2D*α) exp(−r/λ)
    in one.

    Args:
        distance: r > 0, µm.
        source: q, µM·µm³/s (in d dimensions µM·µm^d/s).
        rate: k' > 0.
        diffusion, fraction: D* and α.
        dimensions: 1, 2 or 3.
    """
    distance, reach = np.asarray(distance, float), np.sqrt(diffusion / rate)
    if dimensions == 3:
        shape = np.exp(-distance / reach) / (4 * np.pi * distance)
    else:
        shape = k0(distance / reach) / (2 * np.pi) if dimensions == 2 else reach / 2 * np.exp(-distance / reach)
    return source / (diffusion * fraction) * shape


def _concentration(state: State) -> Array:
    return state.signal.concentration


def peak_table(
    distances: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0),
    *,
    uptake: LinearUptake | MichaelisMenten | None = None,
    molecules: float = 3000.0,
    diffusion: float = 322.0,
    fraction: float = 0.21,
) -> dict[str, list[float]]:
    """Return the highest concentration that one vesicle brings about at some distances, with and without uptake.

    Without uptake the peak is reached after r²/(6D*), and is Q/(α (2πe r²/3)^{3/2}). With it, each distance has shells
    of a twentieth of it, to four times its size, and eighty rounds up to three times the peak's time.

    Args:
        distances: µm.
        uptake: By default that of dopamine in the striatum, MichaelisMenten(4.1, 0.21).
        molecules: What a vesicle holds.
        diffusion, fraction: D* and α.

    Returns:
        Columns distance (µm), free (µM, closed form), taken_up (µM, computed) and kept, their ratio.
    """
    uptake = MichaelisMenten(4.1, 0.21) if uptake is None else uptake
    amount = molecules / MOLECULES
    rows = []
    for distance in distances:
        arrival = distance**2 / (6 * diffusion)
        space = radial(4 * distance, 80)
        system = medium(space, uptake, seconds=3 * arrival / 80, diffusion=diffusion, fraction=fraction)
        first = State(
            Terminal(jnp.zeros(1, jnp.int32), jnp.zeros(1)),
            Tissue(burst(space, 0, amount, fraction), jnp.zeros(1)),
        )
        seen = run(system, first, 80, record=_concentration).record
        there = [np.interp(distance, space.centres[0], np.asarray(one)) for one in seen]
        free = float(burst_concentration(distance, arrival, amount, diffusion=diffusion, fraction=fraction))
        rows.append((float(distance), free, float(max(there)), float(max(there)) / free))
    columns = zip(*rows, strict=True)
    return {name: list(column) for name, column in zip(("distance", "free", "taken_up", "kept"), columns, strict=True)}
