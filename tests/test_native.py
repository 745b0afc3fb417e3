"""Loops compiled by numba are operations of XLA: in a program, in its loops, and for many inputs at once."""

import jax
import jax.numpy as jnp
import numpy as np
from numba import carray, cfunc

from catallax.native import SIGNATURE, extent, is_query, numbers, pointer, power_of_two, register


@cfunc(SIGNATURE)
def shared_out(frame):
    """Write each row's part of a whole, and how many rows there are as a power of two."""
    if is_query(frame):
        return 0
    rows, columns = extent(frame, 0, 0), extent(frame, 0, 1)
    given = carray(numbers(pointer(frame, 0), np.float32(0)), (rows, columns))
    parts = carray(numbers(pointer(frame, 0, True), np.float32(0)), (rows, columns))
    power = carray(numbers(pointer(frame, 1, True), np.float64(0)), (extent(frame, 1, 0, True),))
    total = given.sum()
    for row in range(rows):
        for column in range(columns):
            parts[row, column] = given[row, column] / total
    power[0] = power_of_two(np.int32(-rows), np.float64(0))
    return 0


register("catallax.tests.shared_out", shared_out)


def share_out(given: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = jax.ShapeDtypeStruct(given.shape, given.dtype), jax.ShapeDtypeStruct((1,), jnp.float64)
    return tuple(jax.ffi.ffi_call("catallax.tests.shared_out", found, vmap_method="sequential")(given))


def test_operands_and_results_of_several_shapes_and_types():
    with jax.enable_x64(True):
        given = np.arange(6, dtype=np.float32).reshape(2, 3)
        parts, power = jax.jit(share_out)(given)
        np.testing.assert_allclose(parts, given / 15, rtol=1e-6)
        assert parts.dtype == np.float32 and power == 0.25


def test_in_a_loop_and_for_many_inputs_at_once():
    with jax.enable_x64(True):
        given = np.random.default_rng(1).random((4, 2, 3)).astype(np.float32)
        again = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: 2 * share_out(x)[0], x))
        np.testing.assert_allclose(again(given[0]), 2 * given[0] / given[0].sum(), rtol=1e-6)
        parts, powers = jax.vmap(share_out)(given)
        np.testing.assert_allclose(parts, given / given.sum(axis=(1, 2), keepdims=True), rtol=1e-6)
        assert powers.shape == (4, 1)
