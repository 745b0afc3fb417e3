"""The compiled loop of `compete`: the same rule, unit after unit, sample by sample, where XLA would move all samples.

A batch of samples in which few units are active costs what those do, not what all units would. Needs numba.
"""

import numpy as np
from numba import njit, prange

BLOCK = 16
"""So many units are asked together whether one of them wants to move."""
CHUNK = 64
"""Samples that a core takes at once."""


@njit(cache=True, fastmath=True, error_model="numpy")
def _settle(hears, n, between, which, price, falling, sweeps, still, activity):
    """Settle sample n; the rule is in `compete`."""
    # Unsigned: a signed index might count from the end, and asking so at every access stops vectorisation.
    units, block, zero = np.uint32(hears.shape[1]), np.uint32(BLOCK), np.float32(0.0)
    level = price
    for j in range(units):
        level = max(level, hears[n, j])
    ratio = (price / level) ** (np.float32(1.0) / np.float32(falling))
    for _ in range(sweeps):
        level = max(level * ratio, price)
        for first in range(np.uint32(0), units, block):
            last = min(units, first + block)
            eager = np.int32(0)
            for j in range(first, last):
                old, heard = activity[n, j], hears[n, j]
                eager += np.int32((heard + old > level) != (old > zero))
                eager += np.int32((old > zero) & (abs(heard) > still))
            if not eager:
                continue
            for unit in range(first, last):
                old = activity[n, unit]
                new = hears[n, unit] + old
                new = new if new > level else zero
                change = new - old
                if abs(change) <= still:
                    continue
                activity[n, unit] = new
                for j in range(units):
                    hears[n, j] -= change * between[which, unit, j]


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")
def compete(hears, between, price, falling, sweeps, still, activity):
    """Let units compete for each sample; the arguments of `compete.compete`, and where to write.

    Args:
        hears: Shape (samples, units): the drives; overwritten by what each unit hears at the end.
        between: Shape (samples, units, units), or (1, units, units) for all.
        price, falling, sweeps, still: See `compete.compete`; `still` as an amplitude.
        activity: Shape (samples, units): zeros; overwritten by the activity.
    """
    samples = hears.shape[0]
    for chunk in prange((samples + CHUNK - 1) // CHUNK):
        for n in range(chunk * CHUNK, min(samples, (chunk + 1) * CHUNK)):
            _settle(hears, n, between, n if between.shape[0] > 1 else 0, price, falling, sweeps, still, activity)
