"""Asynchronous competition, compiled for the CPU: the rest of `Competition` with soft thresholds, neuron after neuron.

XLA is the wrong tool where one neuron must see what the one before it did. Here a block of samples gives every neuron
its drive; then, sample by sample, only neurons above the threshold compete, among themselves; once they rest, what they
do inhibits all others, and whoever is now above the threshold joins. When nobody is, the sample is at rest: the drives
of the silent are below the threshold, those of the active at it, which is the lasso's optimality condition.
"""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

ENTRIES = 1 << 22
"""Drives held at once: 16 MB of them."""
TABLE = 8192
"""Units up to which the inhibition of all by all may be tabled: 256 MB."""
WORTH = 1 << 15
"""Entries of that table that a sample justifies, about what it would otherwise compute for itself."""
FLOOR = 4 * float(np.finfo(np.float32).eps)
"""Of the largest stimulus: drives in single precision are no better known."""
ROOM = 128
"""Competitors of a sample beyond as many as there are inputs: at rest, no more than those are needed."""


def encode(
    stimuli: Any,
    dictionary: Any,
    penalty: float,
    *,
    signed: bool = True,
    tol: float = 1e-5,
    max_rounds: int = 100,
    start: Any = None,
) -> csr_array:
    """Return the activities at which the neurons rest: the lasso's minimum, sample by sample, in single precision.

    Minimises ½|x − aD|² + penalty · |a|₁. Samples are spread over the cores.

    Args:
        stimuli: Shape (samples, inputs).
        dictionary: Shape (units, inputs), rows of unit norm: the receptive fields.
        penalty: The threshold.
        signed: Whether activities may be negative.
        tol: By what share of the penalty a drive may miss its condition. The relative gap of the objective is far
            smaller (2e-2 gives about 1e-6). What single precision cannot resolve is not asked for: about 5e-7 of
            the largest stimulus.
        max_rounds: How often at most the competitors of a sample are joined by others.
        start: Activities to start from, dense or sparse, shape (samples, units).

    Returns:
        Shape (samples, units), float32, units in order. Whoever needs to know whether `max_rounds` sufficed certifies.

    Raises:
        ValueError: If shapes do not fit, a row is not of unit norm, or a stimulus is not finite.
    """
    from . import _compiled as loops  # numba takes a second to load

    stimuli, dictionary = np.ascontiguousarray(stimuli, np.float32), np.ascontiguousarray(dictionary, np.float32)
    largest = _check(stimuli, dictionary, penalty)
    (samples, inputs), units = stimuli.shape, len(dictionary)
    start = csr_array((samples, units), dtype=np.float32) if start is None else csr_array(start, dtype=np.float32)
    if start.shape != (samples, units):
        raise ValueError(f"start has shape {start.shape}, not {(samples, units)}")
    tabled = units <= TABLE and units * units <= WORTH * samples
    columns = np.zeros((-(-inputs // loops.DEPTH) * loops.DEPTH, units), np.float32)
    columns[:inputs] = dictionary.T
    table = np.empty((units, units) if tabled else (0, 0), np.float32)
    law = np.float32(penalty), bool(signed), np.float32(max(tol, FLOOR * largest / penalty))
    size = max(64, ENTRIES // units)
    most = -(-min(units, inputs + ROOM) // loops.LANES) * loops.LANES
    memory = np.empty((min(size, samples), most), np.int32), np.empty((min(size, samples), most), np.float32)
    answers = [
        _settled(loops, stimuli[at : at + size], columns, table, dictionary, law, max_rounds, start, at, memory)
        for at in range(0, samples, size)
    ]
    indices, data, counts = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return csr_array((data, indices, np.concatenate([[0], np.cumsum(counts)])), shape=(samples, units))


def _settled(
    loops: Any,
    stimuli: np.ndarray,
    columns: np.ndarray,
    table: np.ndarray,
    dictionary: np.ndarray,
    law: tuple[np.float32, bool, np.float32],
    rounds: int,
    start: csr_array,
    at: int,
    memory: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a block's active neurons, how active they are, and how many of them are each sample's.

    Samples that are not at rest yet are seen again, with their true drives. The first block writes the table.
    """
    samples, most = len(stimuli), memory[0].shape[1]
    units, values = memory[0][:samples], memory[1][:samples]
    bounds, pending, rests = start.indptr[at : at + samples + 1], np.arange(samples), np.zeros(samples, np.bool_)
    counts = np.minimum(np.diff(bounds).astype(np.int64), most)
    if start.nnz:
        slots = np.arange(most) < counts[:, None]
        places = (bounds[:-1, None] + np.arange(most))[slots]
        units[slots], values[slots] = start.indices[places], start.data[places]
    fresh = at == 0
    while rounds and len(pending):
        remaining = stimuli[pending]
        if counts.any():
            indices, data, those = _packed(loops, units, values, counts, pending)
            ends = np.concatenate([[0], np.cumsum(those)])
            remaining -= csr_array((data, indices, ends), shape=(len(pending), len(dictionary))) @ dictionary
        loops.settle(remaining, columns, table, fresh, dictionary, *law, rounds, pending, units, values, counts, rests)
        pending, rounds, fresh = pending[~rests[pending]], rounds - 1, False
    return _packed(loops, units, values, counts, np.arange(samples))


def _packed(
    loops: Any, units: np.ndarray, values: np.ndarray, counts: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indices, data = np.empty(counts[chosen].sum(), np.int32), np.empty(counts[chosen].sum(), np.float32)
    loops.pack(units, values, counts, chosen, indices, data)
    return indices, data, counts[chosen]


def _check(stimuli: np.ndarray, dictionary: np.ndarray, penalty: float) -> float:
    """Return the largest norm of a stimulus."""
    if stimuli.ndim != 2 or dictionary.ndim != 2 or stimuli.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"stimuli (samples, inputs) and dictionary (units, inputs) do not fit: {stimuli.shape}, {dictionary.shape}"
        )
    if not len(stimuli) or not len(dictionary):
        raise ValueError("there must be at least one sample and one unit")
    if not (penalty > 0 and np.isfinite(penalty)):
        raise ValueError(f"penalty must be positive and finite, not {penalty!r}")
    norms = np.linalg.norm(dictionary, axis=1)
    worst = int(np.argmax(np.where(np.isfinite(norms), abs(norms - 1), np.inf)))
    if not abs(norms[worst] - 1) <= 1e-3:
        raise ValueError(f"row {worst} of the dictionary has norm {norms[worst]:.4g}, not 1")
    largest = float(np.sqrt(np.max(np.einsum("ni,ni->n", stimuli, stimuli))))
    if not np.isfinite(largest):
        raise ValueError("stimuli must be finite")
    return largest
