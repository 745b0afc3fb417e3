"""Activations from a user's file: one row per sample, mapped into memory, read batch by batch.

NumPy's `.npy` and `.safetensors` are read; neither can run code. The array that comes back is the file itself, so
that one larger than memory is as good as a small one: what is indexed is read, and no more.
"""

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import InputError, did_you_mean

FLOATS = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
"""The number formats that are read, under the names that safetensors gives them."""

BATCH_BYTES = 1 << 26
"""Bytes that are looked at together when a file is checked."""


def read_activations(path: str | PathLike[str], *, tensor: str | None = None, units: int | None = None) -> np.ndarray:
    """Open a file of activations as a matrix (samples, inputs), and check all of it once.

    Args:
        path: A `.npy` file, or a `.safetensors` file.
        tensor: Which tensor of a safetensors file; needed if it holds several matrices.
        units: How many units are to be trained; refused if there are fewer samples.

    Returns:
        A read-only map of the file: float16, bfloat16, float32 or float64.

    Raises:
        InputError: if the file is unreadable, truncated, not a matrix of floats, constant, holds NaN or infinity, or
            has fewer samples than `units`; naming the file, and the sample (row) and input (column) from 1.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".safetensors"):
        raise InputError(f"activations are read from .npy and .safetensors files, not {path.suffix!r}", file=path)
    try:
        data = _from_numpy(path, tensor) if path.suffix == ".npy" else _from_safetensors(path, tensor)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from None
    check_activations(data, units=units, file=path)
    return data


def _from_numpy(path: Path, tensor: str | None) -> np.ndarray:
    if tensor is not None:
        raise InputError(f"is a single array; there is no tensor {tensor!r} to choose", file=path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"is not a whole .npy file of numbers ({error}); write it again with numpy.save", file=path
        ) from None


def _from_safetensors(path: Path, tensor: str | None) -> np.ndarray:
    try:
        with safe_open(str(path), framework="numpy"):  # refuses a header that does not fit the file
            pass
    except SafetensorError as error:
        raise InputError(f"is not a whole .safetensors file ({error}); write it again", file=path) from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    name = _chosen(path, header, tensor)
    kind, shape, (first, _) = (header[name][part] for part in ("dtype", "shape", "data_offsets"))
    if kind not in FLOATS:
        raise InputError(f"tensor {name!r} holds {kind}; activations are one of {', '.join(FLOATS)}", file=path)
    if math.prod(shape) == 0:
        return np.zeros(shape, FLOATS[kind])
    return np.memmap(path, FLOATS[kind], "r", 8 + size + first, tuple(shape))


def _chosen(path: Path, header: dict[str, Any], tensor: str | None) -> str:
    """Return the tensor that is meant: the one named, or the only matrix there is."""
    listed = ", ".join(f"{name} {entry['shape']}" for name, entry in sorted(header.items())[:8]) or "none"
    if tensor is not None:
        if tensor not in header:
            raise InputError(f"has no tensor {tensor!r}{did_you_mean(tensor, header)}; it holds {listed}", file=path)
        return tensor
    matrices = [name for name, entry in header.items() if len(entry["shape"]) == 2]
    if len(matrices) != 1:
        raise InputError(f"holds {len(matrices)} matrices; name the tensor to use: {listed}", file=path)
    return matrices[0]


def check_activations(data: Any, *, units: int | None = None, file: str | PathLike[str] | None = None) -> None:
    """Refuse data that no autoencoder can be trained on; the rows are read once, in batches.

    Raises:
        InputError: as `read_activations`.
    """
    if data.ndim != 2 or 0 in data.shape:
        raise InputError(f"has the shape {data.shape}; activations are a matrix (samples, inputs)", file=file)
    if data.dtype not in map(np.dtype, FLOATS.values()):
        raise InputError(f"holds {data.dtype}; activations are float16, bfloat16, float32 or float64", file=file)
    if units is not None and len(data) < units:
        raise InputError(
            f"has {len(data)} samples, fewer than the {units} units; give more or ask for fewer", file=file
        )
    rows = max(1, BATCH_BYTES // (data.shape[1] * data.dtype.itemsize))
    varies = False
    for first in range(0, len(data), rows):
        some = np.asarray(data[first : first + rows])
        with np.errstate(over="ignore"):
            finite = np.isfinite(some.astype(np.float32))  # what is learnt from is float32
        if not finite.all():
            sample, column = np.argwhere(~finite)[0]
            raise InputError(
                f"is {some[sample, column]} in sample {first + sample + 1}, input {column + 1}; leave such samples out",
                file=file,
            )
        varies = varies or bool((some != data[0]).any())
    if not varies:
        raise InputError("is constant: every sample is the same, so there is nothing to learn", file=file)
