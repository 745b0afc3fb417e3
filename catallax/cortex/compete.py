"""Competition among units for a sample: a few sweeps at a falling price, each unit in its turn.

A unit i with field φᵢ of norm 1 hears what is left of the sample without it, uᵢ = φᵢ·(x − Σ_{j≠i} aⱼφⱼ), and is active,
with amplitude uᵢ, if that exceeds the price p of being active:

    aᵢ ← uᵢ if uᵢ > p else 0

This is the local competition of Rozell et al. (2008) with their hard threshold, one neuron after another, so that at
one price no move can raise ½|x − aD|² + ½p²·(number active). Where it rests, active amplitudes are the least squares
refit on their support: nothing is left to correct. The price begins at the sample's largest drive and falls to p, as in
a Dutch auction: who explains most joins first, and silences who would have explained the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TABLE = 4096
"""Up to so many units all compete for each sample, and the overlaps of their fields are kept in one table."""

PROPOSED = 256
"""Of more units than that, so many compete for a sample: those of largest drive."""

FALLING = 4
"""Sweeps in which the price falls from a sample's largest drive, by equal shares; the last is at the price itself."""

SWEEPS = 6
"""Sweeps in all; those beyond `FALLING` correct amplitudes, and let a unit leave that others have made redundant."""

STILL = 0.1
"""A unit does not move by less than this share of the price."""


def rest(
    samples: Float[Array, "samples inputs"],
    fields: Float[Array, "units inputs"],
    price: Float[Array, ""],
    sweeps: int = SWEEPS,
) -> Float[Array, "samples units"]:
    """Let all units compete for each sample, as JAX on any device; `rest_on_cpu` does the same, compiled."""
    drive, falling = samples @ fields.T, min(FALLING, sweeps)
    if len(fields) <= TABLE:
        return compete(drive, overlaps(fields), price, falling, sweeps)
    proposed, heard, between = _strongest(drive, fields)
    rows = jnp.arange(len(samples))[:, None]
    return jnp.zeros_like(drive).at[rows, proposed].set(compete(heard, between, price, falling, sweeps))


def rest_on_cpu(
    samples: Any, fields: Any, price: Any, table: np.ndarray | None = None, sweeps: int = SWEEPS
) -> np.ndarray:
    """Let all units compete for each sample; see `rest`.

    Args:
        samples: Shape (samples, inputs), float32.
        fields: Shape (units, inputs), float32, rows of norm 1.
        price: Least amplitude at which a unit stays active.
        table: `overlaps(fields)`, where it is known already.
        sweeps: How often every unit has its turn, in the order of `fields`; the price falls in the first `FALLING`.

    Returns:
        Activity, at least 0, shape (samples, units), float32.
    """
    from . import _compete as loops  # numba takes a second to load

    def settled(heard: Array, between: Any) -> np.ndarray:
        hears, activity = np.array(heard), np.zeros(heard.shape, np.float32)
        cost, falling = np.float32(price), min(FALLING, sweeps)
        loops.compete(hears, np.asarray(between), cost, falling, sweeps, np.float32(STILL) * cost, activity)
        return activity

    drive = _drive(samples, fields)
    if len(fields) <= TABLE:
        return settled(drive, overlaps(fields) if table is None else table)
    proposed, heard, between = _strongest(drive, fields)
    activity = np.zeros(drive.shape, np.float32)
    np.put_along_axis(activity, np.asarray(proposed), settled(heard, between), axis=1)
    return activity


@jax.jit
def _drive(samples: Array, fields: Array) -> Array:
    return samples @ fields.T


@jax.jit
def overlaps(fields: Float[Array, "*some units inputs"]) -> Float[Array, "#some units units"]:
    """φᵢ·φⱼ for every pair of units: of one set of fields, or of each sample's own."""
    fields = fields[None] if fields.ndim == 2 else fields
    return fields @ fields.swapaxes(1, 2)


@jax.jit
def _strongest(drive: Array, fields: Array) -> tuple[Array, Array, Array]:
    """Who is driven most, in the order of the units; what these hear, and how their fields overlap."""
    proposed = jnp.sort(jax.lax.top_k(drive, PROPOSED)[1], axis=1)
    return proposed, jnp.take_along_axis(drive, proposed, axis=1), overlaps(fields[proposed])


def compete(
    drive: Float[Array, "samples units"],
    between: Float[Array, "#samples units units"],
    price: Float[Array, ""],
    falling: int = FALLING,
    sweeps: int = SWEEPS,
    still: float = STILL,
) -> Float[Array, "samples units"]:
    """Let units compete, from silence.

    Args:
        drive: φᵢ·x, what each hears of the whole sample.
        between: Overlaps of their fields; one table for all samples, or each its own.
        price: Least amplitude at which a unit stays active; above 0.
        falling: In so many sweeps the price falls from the sample's largest drive to `price`.
        sweeps: How often every unit has its turn, in the order given; at least `falling`.
        still: A unit does not move by less than this share of the price.

    Returns:
        Their activity, at least 0.
    """
    units = drive.shape[1]
    largest = jnp.maximum(jnp.max(drive, 1), price)
    ratio = (price / largest) ** (1 / falling)

    def turn(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        activity, hears = carry
        sweep, unit = place // units, place % units
        level = jnp.maximum(largest * ratio ** (sweep + 1), price)
        own = activity[:, unit]
        wanted = hears[:, unit] + own
        new = jnp.where(wanted > level, wanted, 0.0)
        new = jnp.where(jnp.abs(new - own) > still * price, new, own)
        hears = hears - (new - own)[:, None] * between[:, unit]
        return activity.at[:, unit].set(new), hears

    return jax.lax.fori_loop(0, sweeps * units, turn, (jnp.zeros_like(drive), drive))[0]
