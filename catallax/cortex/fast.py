"""The rest of competition, reached quickly on any device: the strongest of each sample settle among themselves.

The units of strongest drive settle their small problem; then all units check the conditions of optimality. Samples
that fail go round again, with those who should join; where that does not suffice, as when more units are active than
may join, all units take accelerated gradient steps together first, more of them in each round.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .problem import SparseCoding

BATCH = 1024
"""Samples that are computed at once."""

KEPT = 64
"""Units of a sample that settle among themselves."""

STEPS = 20
"""Steps by all units in the first round that has any; twice as many in each round that follows."""

ALONE = 2
"""Rounds without such steps."""

INNER = 100
"""Most steps of the strongest units in a round."""

POWER = 10
"""Steps of the power method for the strongest units' own rate."""

CACHED = 64
"""Samples whose small problems stay in a CPU's cache together."""

GRAM_UNITS = 8192
"""More units than this have no Gram matrix kept in memory."""


def largest_eigenvalue(dictionary: np.ndarray, iterations: int = 60, seed: int = 0) -> float:
    """Return the largest eigenvalue of the fields' Gram matrix, to a few per cent and rather above than below.

    Args:
        dictionary: Shape (units, inputs).
        iterations: Of the power method.
        seed: Of its start.
    """
    fields = np.asarray(dictionary)
    vector = np.random.default_rng(seed).normal(size=fields.shape[1]).astype(fields.dtype)
    for _ in range(iterations):
        vector = (fields @ vector) @ fields
        vector /= np.linalg.norm(vector)
    return 1.02 * float(np.linalg.norm(fields @ vector)) ** 2


def settle_fast(problem: SparseCoding, *, tol: float, max_rounds: int, start: Any = None) -> tuple[np.ndarray, int]:
    """Return the activity of least objective.

    Args:
        problem: The question; its stimuli's dtype is that of the arithmetic.
        tol: The largest violation of the conditions of optimality, per penalty.
        max_rounds: How often failing samples go round again.
        start: Activity to start from, shape (samples, units); none by default.

    Returns:
        The activity, shape (samples, units), and the number of rounds.

    Reference:
        Beck & Teboulle (2009), A fast iterative shrinkage-thresholding algorithm, eqs. 4.1-4.3; restarts:
        O'Donoghue & Candès (2015), eq. 12.
    """
    stimuli, dtype = problem.stimuli, problem.stimuli.dtype
    with jax.enable_x64(dtype == np.float64):
        fields = jnp.asarray(problem.dictionary, dtype)
        gram = _gram(fields) if problem.units <= GRAM_UNITS else None
        rate = jnp.asarray(1 / largest_eigenvalue(problem.dictionary), dtype)
        penalty = np.broadcast_to(np.asarray(problem.penalty, dtype), problem.samples)
        activity = np.zeros((problem.samples, problem.units), dtype) if start is None else np.array(start, dtype)
        batch = min(BATCH, max(CACHED, 1 << (problem.samples - 1).bit_length()))
        block = CACHED if jax.default_backend() == "cpu" else batch
        left, rounds = np.arange(problem.samples), 0
        while left.size and rounds < max_rounds:
            failed, steps = [], 0 if rounds < ALONE else STEPS << (rounds - ALONE)
            for first in range(0, left.size, batch):
                rows = left[first : first + batch]
                answer, missed = _round(
                    _filled(stimuli[rows], batch),
                    _filled(activity[rows], batch),
                    _filled(penalty[rows], batch),
                    fields,
                    gram,
                    rate,
                    jnp.asarray(tol, dtype),
                    jnp.int32(steps),
                    signed=problem.signed,
                    kept=min(KEPT, problem.units),
                    block=block,
                )
                activity[rows] = np.asarray(answer)[: rows.size]
                failed.append(rows[np.asarray(missed)[: rows.size] > tol])
            left, rounds = np.concatenate(failed), rounds + 1
    return activity, rounds


_gram = jax.jit(lambda fields: jnp.matmul(fields, fields.T, precision=lax.Precision.HIGHEST))


def _filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """Repeat the last row until the batch is full."""
    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)]) if len(rows) < batch else rows


@functools.partial(jax.jit, static_argnames=("signed", "kept", "block"))
def _round(
    stimuli: Float[Array, "batch inputs"],
    activity: Float[Array, "batch units"],
    penalty: Float[Array, " batch"],
    fields: Float[Array, "units inputs"],
    gram: Float[Array, "units units"] | None,
    rate: Float[Array, ""],
    tol: Float[Array, ""],
    steps: Int[Array, ""],
    *,
    signed: bool,
    kept: int,
    block: int,
) -> tuple[Array, Array]:
    """Return better activity, and the largest violation of optimality of each sample per penalty."""

    def drive(a: Array) -> Array:
        return _times(stimuli - _times(a, fields), fields.T)

    def missed(a: Array, driven: Array) -> Array:
        return jnp.max(jnp.abs(shrink(a + driven, penalty, signed) - a), axis=1) / penalty

    activity = descend(drive, activity, penalty, rate, tol, steps, signed)
    driven = drive(activity)
    # The strongest by what the next threshold sees: active units, and silent ones that should be.
    reach = activity + driven
    _, who = lax.top_k(jnp.abs(reach) if signed else reach, kept)
    few = jnp.take_along_axis(activity, who, axis=1)

    def settle_block(part: tuple) -> Array:
        who, few, driven, penalty = part
        if gram is None:
            own = fields[who]
            small = jnp.einsum("bki,bli->bkl", own, own, precision=lax.Precision.HIGHEST)
        else:
            small = gram[who[:, :, None], who[:, None, :]]
        target = driven + _apply(small, few)
        own_rate = jnp.maximum(rate, 1 / _largest(small))
        return descend(lambda a: target - _apply(small, a), few, penalty, own_rate, tol / 2, INNER, signed)

    parts = who, few, jnp.take_along_axis(driven, who, axis=1), penalty
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, block, *leaf.shape[1:]), parts)
    few = lax.map(settle_block, split).reshape(who.shape)
    settled = jnp.put_along_axis(jnp.zeros_like(activity), who, few, axis=1, inplace=False)
    # With more active units than were kept, the small problem is not the sample's.
    before, after = missed(activity, driven), missed(settled, drive(settled))
    better = after < before
    return jnp.where(better[:, None], settled, activity), jnp.where(better, after, before)


def descend(
    drive: Callable[[Array], Array],
    activity: Float[Array, "batch units"],
    penalty: Float[Array, " batch"],
    rate: Float[Array, "..."],
    tol: Float[Array, ""],
    steps: Any,
    signed: bool,
) -> Float[Array, "batch units"]:
    """Take accelerated steps towards the rest of competition, each sample restarted where momentum misleads it.

    Args:
        drive: What activity leaves unexplained, as each unit sees it: φ·r.
        activity: Where to start.
        penalty: λ of each sample.
        rate: The step, at most one over the largest eigenvalue of the Gram matrix; one, or one per sample.
        tol: The largest violation of the conditions of optimality at which to stop, per penalty.
        steps: How many at most.
        signed: Whether activity may be negative.
    """
    column = jnp.broadcast_to(rate, penalty.shape)[:, None]
    price = penalty * column[:, 0]

    def step(carry: tuple) -> tuple:
        old, ahead, inertia, _, count = carry
        new = shrink(ahead + column * drive(ahead), price, signed)
        speed = jnp.max(jnp.abs(new - ahead) / price[:, None])
        misled = jnp.sum((ahead - new) * (new - old), axis=1) > 0
        grown = (1 + jnp.sqrt(1 + 4 * inertia**2)) / 2
        push = jnp.where(misled, 0.0, (inertia - 1) / grown)
        return new, new + push[:, None] * (new - old), jnp.where(misled, 1.0, grown), speed, count + 1

    far = jnp.asarray(jnp.inf, activity.dtype)
    carry = activity, activity, jnp.ones_like(penalty), far, jnp.int32(0)
    return lax.while_loop(lambda carry: (carry[3] > tol) & (carry[4] < steps), step, carry)[0]


def shrink(x: Float[Array, "batch units"], price: Float[Array, " batch"], signed: bool) -> Float[Array, "batch units"]:
    """Take the price off every size; what is smaller becomes zero, and so does what is negative unless signed."""
    column = price[:, None]
    return x - jnp.clip(x, -column, column) if signed else jnp.maximum(x - column, 0.0)


def _times(left: Array, right: Array) -> Array:
    # Lower precision on tensor cores would not meet the certificate.
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _largest(small: Float[Array, "batch kept kept"]) -> Float[Array, " batch"]:
    """Return about the largest eigenvalue of each small Gram matrix; a restart forgives what is missing."""
    vector = jax.random.normal(jax.random.key(0), small.shape[:2], small.dtype)
    norm = jnp.ones_like(vector[:, 0])
    for _ in range(POWER):
        vector = _apply(small, vector)
        norm = jnp.sqrt(jnp.sum(vector**2, axis=1))
        vector = vector / norm[:, None]
    return 1.1 * norm


def _apply(small: Float[Array, "batch kept kept"], a: Float[Array, "batch kept"]) -> Float[Array, "batch kept"]:
    return jnp.einsum("bkl,bl->bk", small, a, precision=lax.Precision.HIGHEST)
