"""Fourier transforms of real samples as convolutions and matrix products: the form that frontends have.

No target but ONNX has complex numbers, and there `STFT` is slow: 6.2 ms of half a second of sound where the convolution
takes 0.3. A short-time transform becomes a strided convolution with windowed sines and cosines, which ONNX files factor
further (`export/onnx/spectrum.py`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, constant_of, is_float, shape_of

aten = torch.ops.aten

_LARGEST = 4096
"""Numbers of a transform beyond which a matrix costs more than it saves trouble."""


def short_time(program: ExportedProgram, node: Any) -> Form | None:
    """Convolve with the windowed waves of each bin, the real parts before the imaginary ones."""
    length = argument(node, 1)
    hop = argument(node, 2) or length // 4
    width = argument(node, 3) or length
    window, centred = argument(node, 4), _has_center(node) and argument(node, 5, True)
    normalized, onesided = (argument(node, place) for place in ((7, 8) if _has_center(node) else (5, 6)))
    values = torch.ones(width) if window is None else _window(program, window)
    if values is None or centred or length > _LARGEST or not is_float(node.args[0]):
        return None
    full = torch.zeros(length, dtype=torch.float64)
    start = (length - width) // 2
    full[start : start + width] = values.double()
    bins = length // 2 + 1 if onesided is not False else length
    waves = _waves(length, bins) * full * (length**-0.5 if normalized else 1.0)
    basis = waves.reshape(2 * bins, 1, length).float()

    def transformed(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.nn.functional.conv1d(x.unsqueeze(-2) if x.dim() == 2 else x[None, None], basis, stride=hop)
        real, imaginary = parts[:, :bins], parts[:, bins:]
        return (real, imaginary) if x.dim() == 2 else (real[0], imaginary[0])

    return Form(transformed, (node.args[0],), (basis,))


def of_frames(_program: ExportedProgram, node: Any) -> Form | None:
    """Multiply real samples along an axis by the waves of each bin: `rfft`, or `fft` of real numbers."""
    x = node.args[0]
    count, axis, norm = argument(node, 1), argument(node, 2, -1), argument(node, 3)
    size = shape_of(x)[axis]
    if not is_float(x) or not isinstance(size, int) or size > _LARGEST or (count or size) != size:
        return None
    bins = size // 2 + 1 if "rfft" in str(node.target) else size
    scale = {None: 1.0, "backward": 1.0, "ortho": size**-0.5, "forward": 1.0 / size}[norm]
    waves = (_waves(size, bins) * scale).float().transpose(1, 2).contiguous()

    def transformed(x: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        moved = x.movedim(axis, -1)
        return (moved @ real).movedim(-1, axis), (moved @ imaginary).movedim(-1, axis)

    return Form(transformed, (x,), (waves[0].contiguous(), waves[1].contiguous()))


def _waves(size: int, bins: int) -> Tensor:
    """Return float64 [2, bins, size]: cosines, and sines with their sign."""
    turns = (torch.arange(bins)[:, None] * torch.arange(size)[None, :]) % size
    phase = 2 * math.pi * turns.double() / size
    return torch.stack([phase.cos(), -phase.sin()])


def _has_center(node: Any) -> bool:
    return node.target is aten.stft.center


def _window(program: ExportedProgram, node: Any) -> Tensor | None:
    """Return a window's values: a buffer, or what torch makes of constants."""
    held = constant_of(program, node)
    if held is not None:
        return held
    if node.op != "call_function" or any(not isinstance(arg, (int, float, bool)) for arg in node.args):
        return None
    made = node.target(*node.args, **{key: value for key, value in node.kwargs.items() if key != "device"})
    return made if isinstance(made, Tensor) else None


PAIRS: dict[Any, Prepare] = {
    aten.stft.default: short_time,
    aten.stft.center: short_time,
    aten.fft_rfft.default: of_frames,
    aten.fft_fft.default: of_frames,
}
"""Forms whose two results are the real and the imaginary part."""
