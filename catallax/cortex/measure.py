"""What a code is like: its error, its redundancy, its specialisation, its stability. Float64 NumPy and SciPy.

Everywhere below an activity is an array of shape (samples, units), dense or a SciPy sparse array; a unit is active on
a sample if its activity there is not zero. Dictionaries have shape (units, inputs), one receptive field per row.
"""

from typing import Any

import numpy as np
from scipy.sparse import csr_array


def unexplained(stimuli: np.ndarray, activity: Any, dictionary: np.ndarray, offset: Any = 0.0) -> float:
    """Return the share of the stimuli's variance that a code leaves unexplained: Σ|x − aD − b|² / Σ|x − x̄|².

    Args:
        stimuli: Shape (samples, inputs).
        activity: Shape (samples, units).
        dictionary: Shape (units, inputs).
        offset: What is added to every reconstruction, b, shape (inputs,) or a number.

    Returns:
        0 for an exact code, 1 for one that says no more than the mean; above 1 for a worse one.
    """
    stimuli = np.asarray(stimuli, np.float64)
    left = stimuli - csr_array(activity).astype(np.float64) @ np.asarray(dictionary, np.float64) - offset
    return float(np.sum(left**2) / np.sum((stimuli - stimuli.mean(axis=0)) ** 2))


def redundancy(activity: Any, dictionary: np.ndarray) -> float:
    """Return the mean |cosine| of the receptive fields of two units that are active on the same sample.

    All pairs of two different units, over all samples, count alike. 0: active units never overlap; 1: all say the
    same. NaN if no two units are ever active together.
    """
    active, cosines = _active(activity), np.abs(_cosines(dictionary))
    count = active.sum(axis=1)
    pairs = float(np.sum(count * (count - 1)))
    overlap = float(active.multiply(active @ cosines).sum() - count.sum())
    return overlap / pairs if pairs else float("nan")


def distinct_share(activity: Any, dictionary: np.ndarray) -> float:
    """Return the effective number of active units over their number, averaged over samples with any.

    The effective number of k active units is the participation ratio of their fields' Gram matrix G, of trace k and
    eigenvalues λ: (Σλ)² / Σλ² = k² / Σ_ij G_ij². It is k for orthogonal fields and 1 for k copies of one field.
    """
    active, squares = _active(activity), _cosines(dictionary) ** 2
    count = active.sum(axis=1)
    some = count > 0
    spread = np.asarray(active.multiply(active @ squares).sum(axis=1)).ravel()
    return float(np.mean(count[some] / spread[some])) if some.any() else float("nan")


def effective_units(activity: Any) -> float:
    """Return how many units share the work: exp of the entropy of the units' shares in all activations.

    The number of units if all are active equally often, 1 if one unit does everything, 0 if none is ever active.
    """
    uses = _active(activity).sum(axis=0)
    share = uses[uses > 0] / max(uses.sum(), 1.0)
    return float(np.exp(-np.sum(share * np.log(share)))) if share.size else 0.0


def specialisation(activity: Any, labels: np.ndarray) -> float:
    """Return the mutual information, in bits, of which unit is active and the sample's class.

    Of all pairs (sample, unit active on it) one is drawn: how much does the unit tell about the sample's class? The
    plug-in estimate is above zero even where there is nothing to tell; its first-order bias is taken off, so that the
    result is 0 on average, and can be slightly negative, for units that ignore the class.

    Args:
        activity: Shape (samples, units).
        labels: The class of each sample, shape (samples,); any values that can be sorted.

    Raises:
        ValueError: if there is not one label per sample.

    Reference:
        Miller (1955), Note on the bias of information estimates; Panzeri & Treves (1996), eq. 2.
    """
    active = _active(activity)
    labels = np.asarray(labels)
    samples = activity.shape[0]
    if labels.shape != (samples,):
        raise ValueError(f"specialisation needs one label per sample: {samples}, not shape {labels.shape}")
    kinds, kind = np.unique(labels, return_inverse=True)
    counts = np.asarray(active.T @ np.eye(kinds.size)[kind])
    counts = counts[counts.sum(axis=1) > 0]
    total = counts.sum()
    if not total:
        return 0.0
    seen = counts.sum(axis=0) > 0
    joint = counts[:, seen] / total
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(joint > 0, joint * np.log2(joint / apart), 0.0).sum()
    bias = (joint.shape[0] - 1) * (joint.shape[1] - 1) / (2 * total * np.log(2))
    return float(bits - bias)


def turnover(activity: np.ndarray) -> float:
    """Return the share of the active set that is replaced from one frame of a moving input to the next.

    The active set holds units with their signs, so that a unit that changes sign leaves and enters. Over all steps,
    what leaves and what enters over the size of both sets: Σ|S_t △ S_t+1| / Σ(|S_t| + |S_t+1|).

    Args:
        activity: Shape (frames, units), or (frames, sites, units) for several streams side by side.

    Returns:
        0 for a set that stays, 1 for one that is entirely replaced at each step; NaN if nothing is ever active.

    Reference:
        After Rozell, Johnson, Baraniuk & Olshausen (2008), section 5: the switching of coefficients between the
        states −, 0 and + from one frame to the next.
    """
    states = np.sign(np.asarray(activity)).astype(np.int8)
    before, after = states[:-1], states[1:]
    moved = np.count_nonzero((before > 0) != (after > 0)) + np.count_nonzero((before < 0) != (after < 0))
    size = np.count_nonzero(before) + np.count_nonzero(after)
    return moved / size if size else float("nan")


def _active(activity: Any) -> csr_array:
    codes = csr_array(activity)
    codes.eliminate_zeros()
    return csr_array((np.ones(codes.nnz), codes.indices, codes.indptr), shape=activity.shape)


def _cosines(dictionary: np.ndarray) -> np.ndarray:
    """Return the cosines of all pairs of fields; a field of zeros overlaps with itself alone."""
    fields = np.asarray(dictionary, np.float64)
    norms = np.linalg.norm(fields, axis=1, keepdims=True)
    fields = fields / np.where(norms > 0, norms, 1.0)
    cosines = fields @ fields.T
    np.fill_diagonal(cosines, 1.0)
    return cosines
