"""The question of sparse coding: which few receptive fields explain each stimulus, and how strongly.

Everything here is NumPy; reading a problem never loads JAX.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

BLOCK = 2**22
"""Entries that are looked at together, so that arrays larger than memory can be checked."""

UNIT = 1e-4
"""How far a field's norm may be from one, so that half-precision files pass."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SparseCoding:
    """Stimuli to be explained by the receptive fields of competing units.

    For each stimulus x the activity a makes ½|x − a D|² + λ|a|₁ least, with a ≥ 0 unless `signed`.

    Arrays that are float32 or float64 are kept without a copy, through a read-only view, other numbers become
    float32; do not change the originals afterwards.

    Args:
        stimuli: x, shape (samples, inputs); finite.
        dictionary: D, shape (units, inputs); each row is a receptive field of norm one (`unit_rows`).
        penalty: λ, the price of activity, in the unit of the stimuli: one number, or one per sample; above zero.
        signed: Whether a unit may be active with either sign.

    Raises:
        InputError: naming the sample and the input, or the unit, for anything that the lines above exclude.

    Reference:
        Olshausen & Field (1996), Emergence of simple-cell receptive field properties by learning a sparse code.
    """

    stimuli: np.ndarray
    dictionary: np.ndarray
    penalty: float | np.ndarray
    signed: bool

    def __init__(self, stimuli: Any, dictionary: Any, penalty: Any, signed: bool = True):
        stimuli = table(stimuli, "stimuli", "sample")
        dictionary = table(dictionary, "dictionary", "unit")
        if stimuli.shape[1] != dictionary.shape[1]:
            raise InputError(
                f"the stimuli have {stimuli.shape[1]} inputs and the receptive fields {dictionary.shape[1]}; "
                "give both the same number of columns"
            )
        norms = np.linalg.norm(dictionary, axis=1)
        off = np.abs(norms - 1) > UNIT
        if off.any():
            unit = int(off.argmax())
            raise InputError(
                f"the receptive field of unit {unit} has norm {norms[unit]:.6g}, not 1; "
                "pass the dictionary through unit_rows"
            )
        settled = {
            "stimuli": stimuli,
            "dictionary": dictionary,
            "penalty": _penalty(penalty, stimuli.shape[0]),
            "signed": bool(signed),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def samples(self) -> int:
        """The number of stimuli."""
        return self.stimuli.shape[0]

    @property
    def inputs(self) -> int:
        """The number of entries of a stimulus."""
        return self.stimuli.shape[1]

    @property
    def units(self) -> int:
        """The number of units."""
        return self.dictionary.shape[0]

    def __repr__(self) -> str:
        kind = "signed" if self.signed else "non-negative"
        return f"SparseCoding({self.samples} samples, {self.inputs} inputs, {self.units} units, {kind})"


def unit_rows(fields: Any) -> np.ndarray:
    """Scale each row to norm one.

    Args:
        fields: Shape (units, inputs); float32 and float64 keep their dtype, other numbers become float32.

    Raises:
        InputError: naming the unit, if a row is zero or not finite.
    """
    fields = table(fields, "dictionary", "unit")
    # The largest entry first, so that squares neither overflow nor vanish.
    most = np.max(np.abs(fields), axis=1, keepdims=True)
    if not most.all():
        unit = int((most[:, 0] == 0).argmax())
        raise InputError(f"the receptive field of unit {unit} is zero everywhere; drop the unit or draw it anew")
    scaled = fields / most
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def table(values: Any, what: str, noun: str) -> np.ndarray:
    """Return values as a read-only table of finite float32 or float64 numbers, one row per sample or unit.

    Args:
        values: Any two-dimensional array, memory-mapped ones too.
        what: What it is called in an error.
        noun: What a row is called in an error.

    Raises:
        InputError: naming row and input, if it is anything else.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise ValueError
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32)
    except (ValueError, TypeError):
        raise InputError(f"the {what} are not all real numbers; convert them to float first") from None
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"the {what} have shape {array.shape}; give at least one {noun} (rows) and one input (columns)"
        )
    step = max(1, BLOCK // array.shape[1])
    for first in range(0, array.shape[0], step):
        bad = ~np.isfinite(array[first : first + step])
        if bad.any():
            row, column = (int(place[0]) for place in np.nonzero(bad))
            value = array[first + row, column]
            raise InputError(f"{noun} {first + row} is {value} at input {column}; every number must be finite")
    view = array.view()
    view.flags.writeable = False
    return view


def _penalty(penalty: Any, samples: int) -> float | np.ndarray:
    try:
        values = np.asarray(penalty, float)
    except (ValueError, TypeError):
        raise InputError(f"the penalty is {penalty!r} and not a number") from None
    if values.shape not in ((), (samples,)):
        raise InputError(
            f"the penalties have shape {values.shape}; give one number, or one for each of {samples} samples"
        )
    if not np.all(np.isfinite(values) & (values > 0)):
        raise InputError("the penalty must be finite and above zero: at zero nothing keeps units from being active")
    return float(values) if values.ndim == 0 else values
