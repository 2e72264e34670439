"""Check the constants of an ONNX file: complete in it, of a known type, and as many numbers as their shape says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.onnx.messages import Message
from edgefuse.bundle.refusal import RefusedError

MAX_RANK = 16
MAX_ELEMENTS = 2**31
MAX_LIST = 64
"""Of numbers in a constant that says sizes, axes or counts."""

_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S, _STRINGS = 4, 5, 7, 10, 11, 6

# Number of a type in onnx.proto: bits of one element, and the field that holds them where they are not raw.
_TYPES: Mapping[int, tuple[int, int]] = MappingProxyType(
    {
        1: (32, _FLOATS),
        2: (8, _INT32S),
        3: (8, _INT32S),
        4: (16, _INT32S),
        5: (16, _INT32S),
        6: (32, _INT32S),
        7: (64, _INT64S),
        9: (8, _INT32S),
        10: (16, _INT32S),
        11: (64, _DOUBLES),
        12: (32, _UINT64S),
        13: (64, _UINT64S),
        16: (16, _INT32S),
        17: (8, _INT32S),
        18: (8, _INT32S),
        19: (8, _INT32S),
        20: (8, _INT32S),
        21: (4, _INT32S),
        22: (4, _INT32S),
    }
)
_WIDTHS = {_FLOATS: 4, _DOUBLES: 8}


Array: TypeAlias = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Constant:
    """A constant: its shape, and its values where it is a short list of numbers."""

    shape: tuple[int, ...]
    values: Array | None


def check_tensor(tensor: Message, data: bytes) -> Constant:
    """Return a constant that has been checked, or raise `RefusedError`."""
    if tensor.all(_EXTERNAL) or tensor.integer(_LOCATION):
        raise RefusedError("has a tensor whose data lies outside of the file")
    name, kind = tensor.text(_NAME), tensor.integer(_TYPE) & 0xFFFFFFFF
    shape = tensor.signed(data, _DIMS, MAX_RANK)
    if kind not in _TYPES or tensor.all(_SEGMENT):
        raise RefusedError(f"has a tensor {name!a} of the type {kind}, or in segments")
    elements = math.prod(shape)
    if min(shape, default=0) < 0 or elements > MAX_ELEMENTS:
        raise RefusedError(f"has a tensor {name!a} of the impossible shape {list(shape)}")
    bits, number = _TYPES[kind]
    raw = tensor.spans(_RAW)
    if raw:
        (begin, end), found, wanted = raw[-1], raw[-1][1] - raw[-1][0], -(-elements * bits // 8)
        values = _raw_values(data, begin, end, kind) if elements <= MAX_LIST else None
    else:
        found, wanted = _count(tensor, data, number), -(-elements * bits // 8) if bits < 8 else elements
        values = _listed_values(tensor, data, number, kind) if elements <= MAX_LIST else None
    if found != wanted:
        raise RefusedError(f"has a tensor {name!a} of the shape {list(shape)} with {found} in place of {wanted} values")
    return Constant(shape, None if values is None or values.size != elements else values.reshape(shape))


def _count(tensor: Message, data: bytes, number: int) -> int:
    """Return how many numbers a field holds, packed or not."""
    if number in _WIDTHS:
        return sum(end - begin for begin, end in tensor.spans(number)) // _WIDTHS[number]
    packed = (np.frombuffer(data, np.uint8, end - begin, begin) for begin, end in tensor.spans(number))
    return len(tensor.integers(number)) + sum(int(np.count_nonzero(each < 0x80)) for each in packed)


NUMPY: Mapping[int, str] = MappingProxyType(
    {1: "<f4", 2: "<u1", 3: "<i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 11: "<f8", 12: "<u4", 13: "<u8"}
)
"""Types of which values are looked at."""


def _raw_values(data: bytes, begin: int, end: int, kind: int) -> Array | None:
    dtype = np.dtype(NUMPY[kind]) if kind in NUMPY else None
    if dtype is None or (end - begin) % dtype.itemsize:
        return None
    return np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)


def _listed_values(tensor: Message, data: bytes, number: int, kind: int) -> Array | None:
    if kind not in NUMPY:
        return None
    if number in _WIDTHS:
        found = [_raw_values(data, *span, kind) for span in tensor.spans(number)]
        known = [each for each in found if each is not None]
        return np.concatenate(known) if known else np.zeros(0, NUMPY[kind])
    with np.errstate(all="ignore"):
        return np.array(tensor.signed(data, number, MAX_LIST), np.int64).astype(NUMPY[kind])
