"""How tensors of a TFLite file are quantized: one scale, one for each part along an axis, or one for each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.flatbuffer import Table

MIN_SCALE, MAX_SCALE = 1e-30, 1e30
_BLOCKWISE = 2  # of the union of other kinds
_RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "int4": (-8, 7),
        "int8": (-128, 127),
        "uint8": (0, 255),
        "int16": (-(2**15), 2**15 - 1),
        "int32": (-(2**31), 2**31 - 1),
        "int64": (-(2**63), 2**63 - 1),
    }
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Scales in blocks along the last axis: the indices of tensors of the same graph (-1: none), and a block's size."""

    scales: int
    zero_points: int
    size: int


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a tensor is quantized, if it is.

    Attributes:
        scales: one for the whole tensor or for each part along `axis`; empty where it is not quantized.
    """

    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int = 0
    blocks: Blocks | None = None


_NONE = Quantization(np.empty(0, np.float32), np.empty(0, np.int64))


def read_quantization(table: Table | None, name: str, dtype: str, shape: tuple[int, ...]) -> Quantization:
    """Return how a tensor is quantized, or raise `RefusedError` where that does not fit it.

    Args:
        table: of the tensor's quantization; None if it has none.
        name: the tensor's, for the message.
        dtype: of the tensor.
        shape: of the tensor.
    """
    if table is None:
        return _NONE
    where = f"has a tensor {name!a}"
    kind, details = table.integer(4, "B"), table.table(5)
    if kind:
        return Quantization(_NONE.scales, _NONE.zero_points, blocks=_blocks(kind, details, where, dtype, shape))
    scales, zero_points = table.numbers(2, np.float32), table.numbers(3, np.int64)
    if scales is None or not len(scales):
        return _NONE
    axis = table.integer(6, "i")
    parts = (1, *shape[axis : axis + 1]) if axis >= 0 else ()
    if len(scales) not in parts or zero_points is None or len(zero_points) != len(scales):
        counts = f"{len(scales)} scales and {0 if zero_points is None else len(zero_points)} zero points"
        raise RefusedError(f"{where} of the shape {list(shape)} with {counts} along axis {axis}")
    if dtype not in _RANGES:
        raise RefusedError(f"{where} of {dtype} with a scale")
    low, high = _RANGES[dtype]
    smallest, largest = float(scales.min()), float(scales.max())
    if not MIN_SCALE <= smallest <= largest <= MAX_SCALE:
        raise RefusedError(f"{where} with the scales {smallest:g} to {largest:g}")
    if not low <= int(zero_points.min()) <= int(zero_points.max()) <= high:
        raise RefusedError(f"{where} with zero points that {dtype} cannot have")
    return Quantization(scales, zero_points, axis)


def _blocks(kind: int, details: Table | None, where: str, dtype: str, shape: tuple[int, ...]) -> Blocks:
    if kind != _BLOCKWISE or details is None or dtype not in ("int4", "int8") or len(shape) < 2:
        raise RefusedError(f"{where} of {dtype} and the shape {list(shape)} quantized in the unknown way {kind}")
    blocks = Blocks(details.integer(0, "i"), details.integer(1, "i"), details.integer(2, "i"))
    if blocks.size < 1:
        raise RefusedError(f"{where} quantized in blocks of {blocks.size}")
    return blocks
