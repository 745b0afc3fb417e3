"""A pytree of arrays as safetensors bytes, and back."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import InputError


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _array(name: str, leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    array = np.asarray(leaf, order="C")
    if array.dtype == object or array.dtype.kind in "USmM":
        raise TypeError(f"a checkpoint holds arrays and numbers; {name or 'the state'} is {leaf!r}")
    return array


def _leaves(state: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def pack(state: Any, metadata: dict[str, str]) -> bytes:
    """Write a pytree as safetensors: each array under its path in the tree.

    Raises:
        TypeError: if a leaf is neither an array nor a number.
    """
    return save({name: _array(name, leaf) for name, leaf in _leaves(state).items()}, metadata)


def unpack(path: Path, like: Any) -> Any:
    """Read a checkpoint into the structure of `like`, bit for bit.

    Raises:
        InputError: if names, shapes or dtypes are not those of `like`, or the file is not readable.
    """
    leaves = _leaves(like)
    try:
        with safe_open(str(path), framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"is not a whole checkpoint ({error})", file=path) from None
    if arrays.keys() != leaves.keys():
        odd = ", ".join(sorted(arrays.keys() ^ leaves.keys())) or "nothing"
        raise InputError(f"does not fit this run: {odd} in one but not the other", file=path)
    restored = [_restored(path, name, arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _restored(path: Path, name: str, array: np.ndarray, like: Any) -> Any:
    wanted = _array(name, like)
    if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
        raise InputError(
            f"does not fit this run: {name} is {array.dtype}{list(array.shape)}, "
            f"but {wanted.dtype}{list(wanted.shape)} is expected",
            file=path,
        )
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(like))
    if isinstance(like, jax.Array):
        with jax.enable_x64(True):  # whatever the setting is now, no bit may be lost
            return jax.numpy.asarray(array)
    return array if isinstance(like, np.ndarray) else type(like)(array.item())
