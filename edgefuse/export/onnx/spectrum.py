"""Compute log-mel power spectra by a factored Fourier transform (`fourier`) in place of a convolution.

Measured (ONNX Runtime 1.31.1, x86, one thread; K = 400, 49 frames): 0.167 -> 0.093 ms, 677 -> 146 kB, and answers
that differ by 1e-6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule

from edgefuse.export.fourier import Floats, bin_transforms, factors, residue_transform, spread_filters, window_of


@dataclass(frozen=True)
class Framing:
    """How samples are cut into frames.

    Attributes:
        window: float64 [K], the factor of each sample of a frame.
        hop: samples from one frame to the next.
        frames: how many.
    """

    window: Floats
    hop: int
    frames: int

    @property
    def pieces(self) -> int:
        """Return how many steps of a hop a frame touches."""
        return math.ceil(len(self.window) / self.hop)

    @property
    def samples(self) -> int:
        """Return how many samples the rows of a hop each hold that frames are cut out of; the last may have fewer."""
        return (self.frames - 1 + self.pieces) * self.hop


def factor_spectrum() -> RewriteRule:
    """Return the rule that replaces Conv, squares, sum and mel filters by small products and one of squares."""
    return RewriteRule(_pattern, _rewrite, _is_spectrum, name="factor_spectrum")


def _pattern(op: Any, samples: Any, basis: Any, filters: Any) -> Any:
    parts = op.Conv(samples, basis, _allow_other_attributes=True, _outputs=["parts"])
    real = op.Slice(parts, _allow_other_inputs=True, _outputs=["real"])
    imaginary = op.Slice(parts, _allow_other_inputs=True, _outputs=["imaginary"])
    power = op.Add(op.Mul(real, real), op.Mul(imaginary, imaginary))
    return op.MatMul(op.Transpose(power, perm=[0, 2, 1]), filters)


def _is_spectrum(
    _context: Any, parts: ir.Value, real: ir.Value, imaginary: ir.Value, filters: ir.Value, **_: Any
) -> bool:
    """Require known sizes, batch 1, weights that are a windowed DFT, and halves that are its two parts."""
    framing, mel = _framing(parts), _array(filters)
    if framing is None or mel is None or mel.ndim != 2:
        return False
    bins = len(framing.window) // 2 + 1
    return mel.shape[0] == bins and _rows(real) == (0, bins) and _rows(imaginary) == (bins, 2 * bins)


def _rewrite(op: Any, samples: ir.Value, parts: ir.Value, filters: ir.Value, **_: Any) -> Any:
    """Frame, transform over a, transform over b, square, and sum into mel bands."""
    framing, mel = _framing(parts), _array(filters)
    if framing is None or mel is None:
        return None
    outer, inner = factors(len(framing.window))
    residues, frames = outer // 2 + 1, framing.frames
    windowed = op.Mul(_frames(op, samples, framing), _constant(op, framing.window))
    grid = op.Reshape(windowed, op.Constant(value_ints=[frames, outer, inner]))
    sums = op.MatMul(_constant(op, residue_transform(outer)), grid)
    by_frame = op.Reshape(sums, op.Constant(value_ints=[frames, residues, 2 * inner]))
    spectrum = op.MatMul(op.Transpose(by_frame, perm=[1, 0, 2]), _constant(op, bin_transforms(outer, inner)))
    squares = op.Transpose(op.Mul(spectrum, spectrum), perm=[1, 0, 2])
    flat = op.Reshape(squares, op.Constant(value_ints=[frames, residues * 2 * inner]))
    energies = op.MatMul(flat, _constant(op, spread_filters(mel, outer, inner)))
    return op.Reshape(energies, op.Constant(value_ints=[1, frames, mel.shape[1]]))


def _frames(op: Any, samples: ir.Value, framing: Framing) -> Any:
    """Cut samples into overlapping frames [frames, K]: rows of a hop, shifted, side by side.

    Where samples end within the last row, zeros fill it up; no frame reads them.
    """
    flat = op.Reshape(samples, op.Constant(value_ints=[-1]))
    _, _, given = _sizes(samples) or (1, 1, framing.samples)
    if given > framing.samples:
        flat = op.Slice(flat, *(op.Constant(value_ints=[number]) for number in (0, framing.samples, 0)))
    elif given < framing.samples:
        flat = op.Concat(flat, _constant(op, np.zeros(framing.samples - given)), axis=0)
    rows = op.Reshape(flat, op.Constant(value_ints=[-1, framing.hop]))
    columns = []
    for piece in range(framing.pieces):
        width = min(framing.hop, len(framing.window) - piece * framing.hop)
        starts, ends = [piece, 0], [piece + framing.frames, width]
        columns.append(op.Slice(rows, *(op.Constant(value_ints=numbers) for numbers in (starts, ends, [0, 1]))))
    return columns[0] if len(columns) == 1 else op.Concat(*columns, axis=1)


def _framing(parts: ir.Value) -> Framing | None:
    """Read how a convolution frames its samples; None if it is not a windowed DFT that can be factored."""
    conv = parts.producer()
    if conv is None or len(conv.inputs) != 2 or not _is_plain(conv):
        return None
    source, target, basis = _sizes(conv.inputs[0]), _sizes(parts), _array(conv.inputs[1])
    if source is None or target is None or basis is None or source[:2] != (1, 1):
        return None
    window = window_of(basis[:, 0].astype(np.float64))
    if window is None:
        return None
    return Framing(window, conv.attributes.get_ints("strides", (1,))[0], target[2])


def _is_plain(conv: ir.Node) -> bool:
    """Tell whether a convolution neither pads nor dilates."""
    attributes = conv.attributes
    padded = any(attributes.get_ints("pads", ())) or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    return not padded and all(step == 1 for step in attributes.get_ints("dilations", ()))


def _rows(part: ir.Value) -> tuple[int, int] | None:
    """Return which channels of [1, channels, frames] a Slice takes; None if it takes something else."""
    node = part.producer()
    source = _sizes(node.inputs[0]) if node is not None else None
    if node is None or source is None or len(node.inputs) < 4:
        return None
    numbers = [_array(value) for value in node.inputs[1:]]
    if any(number is None or number.size != 1 for number in numbers):
        return None
    start, end, axis, *step = (int(number.item()) for number in numbers if number is not None)
    return (start, min(end, source[1])) if axis == 1 and step in ([], [1]) else None


def _sizes(value: ir.Value | None) -> tuple[int, int, int] | None:
    """Return the sizes of a value of three known dimensions."""
    match tuple(value.shape) if value is not None and value.shape is not None else ():
        case (int(batch), int(channels), int(steps)):
            return batch, channels, steps
    return None


def _array(value: ir.Value | None) -> npt.NDArray[Any] | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def _constant(op: Any, array: Floats) -> Any:
    return op.Constant(value=ir.tensor(array.astype(np.float32)))
