"""Loops compiled by numba as operations of XLA on the CPU, called at the price of a function call.

For rules of which every step is short and needs the one before it: XLA spends a microsecond or so on each step of a
loop, whatever is in it. An operation is a numba `cfunc` of one whole number, the address of the call frame, and it
begins with `if is_query(frame): return 0`. In it `pointer` and `extent` find the operands and results. Nothing is
called back from compiled programs, so that they can be cached.

The layout of call frames is that of XLA's foreign function interface (openxla, `xla/ffi/api/c_api.h`), version 0, on
machines of 64 bits.
"""

# pyright: reportCallIssue=false
# An intrinsic is written with numba's typing context as its first parameter and called without.

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

VERSION = 0, 1
"""The version of the interface that is asked for, major and minor: what is read here has been there since."""

METADATA = 1
"""The kind of extension by which XLA asks, when an operation is registered, for its version."""

_WORD, _HALF = ir.IntType(64), ir.IntType(32)


def register(name: str, operation: Any) -> None:
    """Make a compiled operation known to XLA, for `jax.ffi.ffi_call`.

    Args:
        name: What to call it.
        operation: A numba `cfunc` with the signature `SIGNATURE`.
    """
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.c_void_p(operation.address)), platform="cpu")


SIGNATURE = types.intp(types.intp)
"""What an operation takes and returns: the address of its call frame, and 0."""


@functools.cache
def named(make: Callable[[Any], Any], dtype: str) -> str:
    """Return by which name XLA knows an operation in single or double precision; compile it if it is new.

    Args:
        make: Returns the operation for a NumPy type; its module's and its own name become the operation's.
        dtype: "float32" or "float64".
    """
    name = f"{make.__module__}.{make.__name__}.{dtype}"
    compiled = cfunc(SIGNATURE, cache=True, error_model="numpy", fastmath={"contract"})
    register(name, compiled(make({"float32": np.float32, "float64": np.float64}[dtype])))
    return name


@intrinsic
def _word(typing: Any, address: Any):
    """Read eight bytes."""
    del typing, address

    def build(context: Any, builder: Any, signature: Any, words: Any):
        del context, signature
        return builder.load(builder.inttoptr(words[0], _WORD.as_pointer()))

    return types.intp(types.intp), build


@intrinsic
def _half(typing: Any, address: Any):
    """Read four bytes."""
    del typing, address

    def build(context: Any, builder: Any, signature: Any, words: Any):
        del context, signature
        return builder.sext(builder.load(builder.inttoptr(words[0], _HALF.as_pointer())), _WORD)

    return types.intp(types.intp), build


@intrinsic
def _write_half(typing: Any, address: Any, number: Any):
    """Write four bytes."""
    del typing, address, number

    def build(context: Any, builder: Any, signature: Any, words: Any):
        del signature
        half = builder.trunc(words[1], _HALF)
        builder.store(half, builder.inttoptr(words[0], _HALF.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), build


@intrinsic
def numbers(typing: Any, address: Any, like: Any):
    """Turn what `pointer` returns into a pointer to numbers of the type of the second argument, for `numba.carray`."""
    del typing, address
    kind = types.CPointer(like)

    def build(context: Any, builder: Any, signature: Any, words: Any):
        del signature
        return builder.inttoptr(words[0], context.get_value_type(kind))

    return kind(types.intp, like), build


@intrinsic
def power_of_two(typing: Any, exponent: Any, like: Any):
    """Return 2 to a whole power, an int32, in the floating type of the second argument; only if it is a normal one."""
    del typing
    bits, ahead, most = (_WORD, 52, 1023) if like == types.float64 else (_HALF, 23, 127)

    def build(context: Any, builder: Any, signature: Any, words: Any):
        number = builder.add(words[0], ir.Constant(_HALF, most))
        shifted = builder.shl(builder.zext(number, bits) if bits is _WORD else number, ir.Constant(bits, ahead))
        return builder.bitcast(shifted, context.get_value_type(signature.return_type))

    return like(types.int32, like), build


@intrinsic
def trailing_zeros(typing: Any, word: Any):
    """Return the number of the lowest bit that is set; some number if none is."""
    del typing

    def build(context: Any, builder: Any, signature: Any, words: Any):
        del context, signature
        return builder.cttz(words[0], ir.Constant(ir.IntType(1), 1))

    return word(word), build


def _chosen(comparison: str):
    """Return an intrinsic that returns the first of two numbers if it compares so, else the second.

    Store it elsewhere than where the second is loaded from: over itself LLVM makes a masked store of it, which takes
    some processors ten times as long.
    """

    @intrinsic
    def choose(typing: Any, first: Any, second: Any):
        del typing

        def build(context: Any, builder: Any, signature: Any, pair: Any):
            del context, signature
            return builder.select(builder.fcmp_ordered(comparison, *pair), *pair)

        return (first(first, second), build) if first == second else None

    return choose


greater, lesser = _chosen(">"), _chosen("<")
"""The greater and the lesser of two floating numbers of one type; the second where one of them is none."""


@njit(cache=True)
def is_query(frame):
    """Answer XLA's question for the version, if this is what the call is for, and say so."""
    extension = _word(frame + 8)
    if extension == 0 or _half(extension + 8) != METADATA:
        return False
    answer = _word(extension + 24)
    _write_half(answer + 24, VERSION[0])
    _write_half(answer + 28, VERSION[1])
    _write_half(answer + 32, 0)  # no traits
    return True


# Inlined before anything is typed: numba would compile them anew for each number that they are called with.
@njit(inline="always")
def _operand(frame, number):
    return _word(_word(frame + 72) + 8 * number)


@njit(inline="always")
def _result(frame, number):
    return _word(_word(frame + 112) + 8 * number)


@njit(inline="always")
def pointer(frame, number, result=False):
    """Return the address of the data of an operand, or of a result."""
    return _word((_result(frame, number) if result else _operand(frame, number)) + 24)


@njit(inline="always")
def extent(frame, number, axis, result=False):
    """Return the length of an axis of an operand, or of a result."""
    return _word(_word((_result(frame, number) if result else _operand(frame, number)) + 40) + 8 * axis)
