"""What routing is like: its balance, its specialisation, its redundancy. Float64 NumPy.

A load is how many tokens each expert is asked to serve, shape (..., experts). Chosen experts have shape (tokens,
active), −1 where a token was dropped.
"""

import numpy as np


def max_violation(load: np.ndarray) -> np.ndarray:
    """Return MaxVio = (largest load − mean load) / mean load, over the last axis.

    0 for perfect balance, (number of experts − 1) if one expert serves all; NaN where nothing is asked for.

    Reference:
        Wang, Gao, Zhao, Sun & Dai (2024), arXiv 2408.15664, eq. 4.
    """
    load = np.asarray(load, np.float64)
    with np.errstate(invalid="ignore"):
        return load.max(axis=-1) / load.mean(axis=-1) - 1.0


def evenness(load: np.ndarray) -> np.ndarray:
    """Return the entropy of the experts' shares of the load over that of equal shares, over the last axis.

    1 for perfect balance, 0 if one expert serves all; NaN where nothing is asked for.
    """
    load = np.asarray(load, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = load / load.sum(axis=-1, keepdims=True)
        terms = np.where(share > 0, share * np.log(share), np.where(share == 0, 0.0, np.nan))
    return -terms.sum(axis=-1) / np.log(load.shape[-1])


def dead(load: np.ndarray, share: float = 0.01) -> np.ndarray:
    """Return how many experts have less than a share (default 1%) of the mean load, over the last axis."""
    load = np.asarray(load, np.float64)
    return np.sum(load < share * load.mean(axis=-1, keepdims=True), axis=-1)


def dropped(load: np.ndarray, capacity: float) -> np.ndarray:
    """Return the share of all places asked for that exceeds the experts' capacity, over the last axis."""
    load = np.asarray(load, np.float64)
    return np.maximum(load - capacity, 0.0).sum(axis=-1) / load.sum(axis=-1)


def table_of(chosen: np.ndarray, labels: np.ndarray, experts: int, kinds: int) -> np.ndarray:
    """Count how often each expert serves each kind of token: float64, shape (experts, kinds).

    Args:
        chosen: Experts of each token, shape (tokens, active); −1 where there is none.
        labels: The kind of each token, shape (tokens,), from 0 to `kinds` − 1.
        experts: Number of experts.
        kinds: Number of kinds.

    Raises:
        ValueError: if there is not one label per token.
    """
    chosen, labels = np.asarray(chosen), np.asarray(labels)
    if chosen.ndim != 2 or labels.shape != chosen.shape[:1]:
        raise ValueError(f"one label per token is needed: chosen has shape {chosen.shape}, labels {labels.shape}")
    pairs = (chosen.astype(np.int64) * kinds + labels[:, None].astype(np.int64))[chosen >= 0]
    return np.bincount(pairs, minlength=experts * kinds).reshape(experts, kinds).astype(np.float64)


def information(table: np.ndarray) -> float:
    """Return the mutual information, in bits, of rows and columns of a table of counts.

    Of all pairs (token, expert that serves it) one is drawn: how much does the expert tell about the token's kind?
    The plug-in estimate is above zero even where there is nothing to tell; its first-order bias, (rows − 1)(columns
    − 1) / (2 n ln 2) for n independent pairs over rows and columns in use, is taken off. So the result is about 0,
    and can be slightly negative, for experts that ignore the kind. Tokens of one context are not independent: what
    is left of the bias is larger than the correction supposes, alike for all routers.

    Args:
        table: Counts, shape (experts, kinds).

    Reference:
        Miller (1955), Note on the bias of information estimates; Panzeri & Treves (1996), eq. 2.
    """
    table = np.asarray(table, np.float64)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    total = table.sum()
    if not total:
        return 0.0
    joint = table / total
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    bits = np.sum(joint[some] * np.log2(joint[some] / apart[some]))
    return float(bits - (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * total * np.log(2)))


def redundancy(outputs: np.ndarray) -> float:
    """Return the mean |cosine| of two different experts' outputs on the same tokens.

    All pairs of experts and all tokens count alike; 0: what experts say never overlaps; 1: all say the same up to
    sign. Independent outputs of width d have sqrt(2 / (π d)) on average, for large d. Where an expert says nothing
    (an output of zeros) its pairs are left out; NaN if no pair is left.

    Args:
        outputs: What every expert answers to every token, shape (experts, tokens, width).
    """
    outputs = np.asarray(outputs, np.float64)
    norms = np.linalg.norm(outputs, axis=-1, keepdims=True)
    units = np.divide(outputs, norms, out=np.zeros_like(outputs), where=norms > 0)
    total = pairs = 0.0
    for first in range(len(units) - 1):
        total += np.abs(np.einsum("td,etd->et", units[first], units[first + 1 :])).sum()
        pairs += np.sum((norms[first] > 0) & (norms[first + 1 :] > 0))
    return float(total / pairs) if pairs else float("nan")
