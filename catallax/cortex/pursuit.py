"""Codes without competition: units that answer their drive alone, and units that a central loop picks one by one.

Activity is at least zero everywhere, so that a method that knows no negative activity can be compared. Float64 NumPy.
Shapes: stimuli (samples, inputs), dictionary (units, inputs) with rows of unit norm, activity (samples, units).
"""

import numpy as np
from scipy.optimize import nnls

TOGETHER = 512
"""So many samples are worked on at once."""


def at_rate(margin: np.ndarray, active: float) -> np.ndarray:
    """Return which units are active if a threshold common to all leaves `active` per sample on average.

    Args:
        margin: What is held against the threshold, shape (samples, units).
        active: Units per sample; a margin of −∞ is never above the threshold.
    """
    return margin > threshold_at(margin, active)


def threshold_at(margin: np.ndarray, active: float) -> float:
    """Return the least threshold that at most `active` units per sample exceed on average."""
    count = min(round(active * len(margin)), margin.size - 1)
    return float(np.partition(margin, margin.size - 1 - count, axis=None)[margin.size - 1 - count])


def driven(stimuli: np.ndarray, dictionary: np.ndarray, active: float) -> np.ndarray:
    """Return what units do that read the stimulus, through their own fields, and not what remains of it.

    The rest of local competition with its lateral inhibition cut: a = max(Dx − θ, 0), with θ for `active` on average.
    """
    drive = np.asarray(stimuli, np.float64) @ np.asarray(dictionary, np.float64).T
    return np.maximum(drive - max(threshold_at(drive, active), 0.0), 0.0)


def matching_pursuit(stimuli: np.ndarray, dictionary: np.ndarray, least: float) -> np.ndarray:
    """Pick, again and again, the one unit that explains most of the residual, and give it what it explains.

    Each pick takes more than `least`² off the residual's squared norm, so that there is a last one.

    Args:
        stimuli: Shape (samples, inputs).
        dictionary: Shape (units, inputs).
        least: A sample is finished when no unit's drive exceeds this; above 0.

    Reference:
        Mallat & Zhang (1993), Matching pursuits with time-frequency dictionaries, eqs. 12-14.
    """
    drive, gram = _seen(stimuli, dictionary)
    activity = np.zeros_like(drive)
    busy = np.arange(len(drive))
    while busy.size:
        best = np.argmax(drive[busy], axis=1)
        more = drive[busy, best] > least
        busy, best = busy[more], best[more]
        gain = drive[busy, best]
        activity[busy, best] += gain
        drive[busy] -= gain[:, None] * gram[best]
    return activity


def orthogonal_pursuit(stimuli: np.ndarray, dictionary: np.ndarray, least: float) -> np.ndarray:
    """Matching pursuit in which, after each pick, all amplitudes are fitted anew (`refit`); see `matching_pursuit`.

    Reference:
        Pati, Rezaiifar & Krishnaprasad (1993); with activity at least zero: Bruckstein, Elad & Zibulevsky (2008).
    """
    first, gram = _seen(stimuli, dictionary)
    activity = np.zeros_like(first)
    busy = np.arange(len(first))
    while busy.size:
        drive = first[busy] - activity[busy] @ gram
        best = np.argmax(drive, axis=1)
        more = drive[np.arange(busy.size), best] > least
        busy, best = busy[more], best[more]
        # Any positive amount marks the unit as picked.
        activity[busy, best] = 1.0
        activity[busy] = _refitted(activity[busy], first[busy], gram)
    return activity


def refit(stimuli: np.ndarray, activity: np.ndarray, dictionary: np.ndarray) -> np.ndarray:
    """Return the amplitudes that explain the stimuli best with the same units active, none of another sign.

    Least squares on each sample's active units; a unit whose amplitude would change its sign falls silent. Units with
    equal fields share alike.

    Args:
        stimuli: Shape (samples, inputs).
        activity: Which units are active, and with which sign, shape (samples, units).
        dictionary: Shape (units, inputs).
    """
    return _refitted(np.asarray(activity, np.float64), *_seen(stimuli, dictionary))


def _seen(stimuli: np.ndarray, dictionary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each unit's drive, (samples, units), and the overlaps of the fields, (units, units)."""
    fields = np.asarray(dictionary, np.float64)
    return np.asarray(stimuli, np.float64) @ fields.T, fields @ fields.T


def _refitted(activity: np.ndarray, drive: np.ndarray, gram: np.ndarray) -> np.ndarray:
    most = int(np.count_nonzero(activity, axis=1).max(initial=0))
    fitted = np.zeros_like(activity)
    for first in range(0, len(activity) if most else 0, TOGETHER):
        some = slice(first, first + TOGETHER)
        units = np.argsort(activity[some] == 0, axis=1, kind="stable")[:, :most]
        sign = np.sign(np.take_along_axis(activity[some], units, axis=1))
        own = sign[:, :, None] * sign[:, None, :] * gram[units[:, :, None], units[:, None, :]]
        # Places that are not in use have a Gram of one and no drive; the ridge decides between equal fields.
        own[:, np.arange(most), np.arange(most)] += np.where(sign == 0, 1.0, 1e-10)
        wish = sign * np.take_along_axis(drive[some], units, axis=1)
        amount = np.linalg.solve(own, wish[:, :, None])[:, :, 0]
        for row in np.flatnonzero((amount < 0).any(axis=1)):
            root = np.linalg.cholesky(own[row])
            amount[row] = nnls(root.T, np.linalg.solve(root, wish[row]))[0]
        np.put_along_axis(fitted[some], units, sign * amount, axis=1)
    return fitted
