"""Codes in memory as floats, inside compiled loops.

Half floats come as the integers of their bits: int16 is a float16, uint16 a bfloat16.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

__all__ = ["number", "pointer"]


@intrinsic
def pointer(context, address, like):
    """Pointer to the elements, of the dtype of `like`, that lie at an address."""

    def make(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), make


@intrinsic
def _of_half(context, bits):
    def make(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), make


@intrinsic
def _of_bfloat16(context, bits):
    def make(context, builder, signature, arguments):
        word = ir.IntType(32)
        wide = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(bits), make


def number(code: Any) -> Any:
    """The float that a code is before its scale."""
    raise NotImplementedError("for compiled code alone")


@overload(number, inline="always")
def _(code):
    if code == types.int16:
        return lambda code: _of_half(code)
    if code == types.uint16:
        return lambda code: _of_bfloat16(code)
    if code == types.int8:
        return lambda code: np.float32(code)
    return lambda code: code
