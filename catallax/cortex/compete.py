"""Competition among the units that an encoder proposes: a few sweeps, each unit in its turn.

A unit i with field φᵢ of norm 1 that is proposed for a sample hears what is left of the sample without it,
uᵢ = φᵢ·(x − Σ_{j≠i} aⱼφⱼ), and is active, with amplitude uᵢ, if that exceeds the price p of being active:

    aᵢ ← uᵢ if uᵢ > p else 0

This is the local competition of Rozell et al. (2008) with their hard threshold, one neuron after another, so that no
step can raise ½|x − aD|² + ½p²·(number active). Where it rests, active amplitudes are the least squares refit on
their support: nothing is left to correct. Units that are not proposed for a sample stay silent.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TABLE = 4096
"""Up to so many units the overlaps of all pairs of fields are kept in one table."""

SWEEPS = 4
"""Sweeps of competition that an autoencoder makes for a sample."""


def candidates(units: int, active: int) -> int:
    """How many units the encoder proposes for a sample: 4·active up to 128, and at least 32 and 2·active."""
    return min(units, max(32, min(4 * active, 128), 2 * active))


def overlaps(
    fields: Float[Array, "units inputs"], proposed: Int[Array, "samples proposed"]
) -> Float[Array, "samples proposed proposed"]:
    """φᵢ·φⱼ for every pair of units proposed for the same sample."""
    if len(fields) <= TABLE:
        return (fields @ fields.T)[proposed[:, :, None], proposed[:, None, :]]
    own = fields[proposed]
    return own @ own.swapaxes(1, 2)


def compete(
    drive: Float[Array, "samples proposed"],
    between: Float[Array, "samples proposed proposed"],
    start: Float[Array, "samples proposed"],
    price: Float[Array, ""],
    sweeps: int = SWEEPS,
) -> Float[Array, "samples proposed"]:
    """Let proposed units compete.

    Args:
        drive: φᵢ·x, what each hears of the whole sample.
        between: Overlaps of their fields.
        start: Activity to begin with.
        price: Least amplitude at which a unit stays active.
        sweeps: How often every unit has its turn, in the order given.

    Returns:
        Their activity, at least 0.
    """
    hears = drive - jnp.einsum("sij,sj->si", between, start)

    def turn(place: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        activity, hears = carry
        unit = place % drive.shape[1]
        own = activity[:, unit]
        wanted = hears[:, unit] + own
        new = jnp.where(wanted > price, wanted, 0.0)
        hears = hears - (new - own)[:, None] * between[:, unit]
        return activity.at[:, unit].set(new), hears

    return jax.lax.fori_loop(0, sweeps * drive.shape[1], turn, (start, hears))[0]
