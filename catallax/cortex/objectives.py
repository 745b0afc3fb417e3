"""What autoencoders without competition are trained for: their reading of a sample, its error, what activity costs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BANDWIDTH = 0.5
"""Width of the window in which a JumpReLU threshold feels its activity, in units of an input's spread."""

NESTED = (4, 3, 2, 1, 0)
"""The prefixes of a Matryoshka autoencoder: units/2⁴, …, units/2⁰."""


def top(drive: Float[Array, "samples units"], count: int) -> Float[Array, "samples units"]:
    """Keep each sample's `count` largest drives, as far as they are positive."""
    values, places = jax.lax.top_k(drive, count)
    rows = jnp.arange(drive.shape[0])[:, None]
    return jnp.zeros_like(drive).at[rows, places].set(jax.nn.relu(values))


def common_price(drive: Float[Array, "samples units"], active: int) -> Float[Array, ""]:
    """The price at which a batch's demand, the drives above it, meets `active` per sample; at least 0."""
    supply = active * drive.shape[0]

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        short = jnp.sum(drive > middle) > supply
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    drive = jax.lax.stop_gradient(drive)
    return jax.lax.fori_loop(0, 24, halve, (jnp.zeros(()), jnp.max(drive)))[1]


@jax.custom_vjp
def _jump(drive: Array, threshold: Array) -> Array:
    """drive where it exceeds the threshold, else 0; the derivative of eq. 11 of Rajamanoharan et al. 2024."""
    return jnp.where(drive > threshold, drive, 0.0)


def _jump_forward(drive: Array, threshold: Array):
    return _jump(drive, threshold), (drive, threshold)


def _jump_back(kept: tuple[Array, Array], change: Array):
    drive, threshold = kept
    near = jnp.abs(drive - threshold) < BANDWIDTH / 2
    return jnp.where(drive > threshold, change, 0.0), jnp.sum(
        jnp.where(near, -threshold / BANDWIDTH * change, 0.0), axis=0, keepdims=True
    )


_jump.defvjp(_jump_forward, _jump_back)


@jax.custom_vjp
def _counted(drive: Array, threshold: Array) -> Array:
    """1 where the drive exceeds the threshold; only the threshold feels it (ibid. eq. 12)."""
    return (drive > threshold).astype(drive.dtype)


def _counted_forward(drive: Array, threshold: Array):
    return _counted(drive, threshold), (drive, threshold)


def _counted_back(kept: tuple[Array, Array], change: Array):
    drive, threshold = kept
    near = jnp.abs(drive - threshold) < BANDWIDTH / 2
    return jnp.zeros_like(drive), jnp.sum(jnp.where(near, -change / BANDWIDTH, 0.0), axis=0, keepdims=True)


_counted.defvjp(_counted_forward, _counted_back)


def loss(model: Any, samples: Array, price: Array) -> tuple[Array, tuple[Array, Array]]:
    """Mean squared error per input, and what activity costs; with the activity and the residual."""
    drive = model.drive(samples)
    cost = jnp.zeros(())
    if model.kind == "topk":
        activity = top(drive, model.active)
    elif model.kind == "relu":
        activity = jax.nn.relu(drive)
        cost = price * jnp.mean(jnp.sum(activity, 1)) / model.active
    elif model.kind == "jumprelu":
        threshold = model.threshold[None]
        activity = _jump(jax.nn.relu(drive), threshold)
        cost = price * jnp.mean(jnp.sum(_counted(drive, threshold), 1)) / model.active
    else:
        activity = jnp.where(drive > common_price(drive, model.active), drive, 0.0)
    if model.kind == "matryoshka":
        return _nested(model, samples, activity)
    residual = samples - activity @ model.W_dec - model.b_dec[None]
    return jnp.mean(residual**2) + cost, (activity, residual)


def _nested(model: Any, samples: Array, activity: Array) -> tuple[Array, tuple[Array, Array]]:
    """Mean over the prefixes 1/16, 1/8, 1/4, 1/2, 1 of the units of the error that each leaves alone."""
    units = activity.shape[1]
    ends = [max(1, units >> shift) for shift in NESTED]
    residual, first, error = samples - model.b_dec[None], 0, jnp.zeros(())
    for end in ends:
        residual = residual - activity[:, first:end] @ model.W_dec[first:end]
        error, first = error + jnp.mean(residual**2) / len(ends), end
    return error, (activity, residual)
