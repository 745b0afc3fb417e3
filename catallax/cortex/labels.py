"""Classes that a user knows of samples, and how far units specialise in them."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..study import Section
from .measure import specialisation

PURE = 0.9
"""A unit counts as one of a single class if that class has at least this part of the samples it is active on."""


def read_labels(path: str | PathLike[str], samples: int, held_out: slice) -> np.ndarray:
    """Read the class of each sample, one per line, UTF-8.

    Args:
        path: The file.
        samples: How many lines it must have.
        held_out: Which samples units are measured on.

    Returns:
        The classes of the samples held out, strings without white space around them.

    Raises:
        InputError: if the file is no text, a line is empty, the number of lines is another, or all that is held out
            is of one class.
        FileNotFoundError: if there is no such file.
    """
    try:
        labels = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"is no text in UTF-8 (byte {error.start + 1}); labels are one line each", file=path) from None
    if "" in labels:
        raise InputError("this line is empty; give every sample a class", file=path, line=labels.index("") + 1)
    if len(labels) != samples:
        raise InputError(f"has {len(labels):,} lines, but there are {samples:,} samples; give one to each", file=path)
    held = labels[held_out]
    if len(set(held)) == 1:
        raise InputError(
            f"all samples that are held out, from line {held_out.start + 1} on, are of class {held[0]!r}; put the "
            "samples in another order",
            file=path,
        )
    return np.array(held)


def preferred(activity: np.ndarray, labels: np.ndarray) -> tuple[list[str | None], list[float | None]]:
    """Return for each unit the class that it is active on most often, and that class's part of its samples.

    Args:
        activity: Shape (samples, units).
        labels: The class of each sample.

    Returns:
        Both None for units that are never active.
    """
    kinds, kind = np.unique(labels, return_inverse=True)
    counts = (activity != 0).T @ np.eye(kinds.size)[kind]
    live = counts.any(axis=1).tolist()
    best, share = (
        kinds[counts.argmax(axis=1)].tolist(),
        (counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)).tolist(),
    )
    return (
        [name if some else None for name, some in zip(best, live, strict=True)],
        [part if some else None for part, some in zip(share, live, strict=True)],
    )


def class_section(activities: Mapping[str, np.ndarray], labels: np.ndarray) -> Section:
    """Return the report's section on how far units specialise in classes.

    Args:
        activities: By kind of autoencoder, shape (samples, units).
        labels: The class of each sample.
    """
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    entropy = float(-np.sum(shares * np.log2(shares)))
    bits = {kind: specialisation(activity, labels) for kind, activity in activities.items()}
    parts = {kind: [one for one in preferred(of, labels)[1] if one is not None] for kind, of in activities.items()}
    most = max(bits, key=lambda kind: bits[kind])
    text = (
        f"The samples held out are of {shares.size:,} classes, which differ by {entropy:.2f} bits. Of a sample and a "
        "unit active on it, drawn together, how much does the unit tell about the class? Units of "
        f"{most} tell most, {bits[most]:.2f} bits."
    )
    table = {
        "kind": list(activities),
        "specialisation, bits": list(bits.values()),
        "part of the classes' entropy": [one / entropy for one in bits.values()],
        f"units {PURE:.0%} in one class": [sum(part >= PURE for part in of) for of in parts.values()],
        "live units": [len(of) for of in parts.values()],
    }
    note = (
        "Mutual information of which unit is active and the sample's class, its bias taken off (Miller 1955). Kinds "
        "can be compared at equal numbers of active units only; a rare unit is easily in one class by chance."
    )
    return Section("What units tell about classes", text, table, note=note, file="answer/units.csv")
