"""Short-time Fourier transforms of real samples, and back, as convolutions: the form that frontends have.

No target but ONNX has complex numbers, and there `STFT` is slow: 6.2 ms of half a second of sound where the convolution
takes 0.3. A short-time transform becomes a strided convolution with windowed sines and cosines, which ONNX files factor
further (`export/onnx/spectrum.py`); the way back is a transposed convolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgefuse.export.torch.inlining import Form, Prepare, argument, constant_of, is_float, shape_of

aten = torch.ops.aten

LARGEST = 4096
"""Numbers of a transform beyond which a matrix costs more than it saves trouble."""


def short_time(program: ExportedProgram, node: Any) -> Form | None:
    """Convolve with the windowed waves of each bin, the real parts before the imaginary ones."""
    length = argument(node, 1)
    hop = argument(node, 2) or length // 4
    width = argument(node, 3) or length
    window, centred = argument(node, 4), _has_center(node) and argument(node, 5, True)
    normalized, onesided = (argument(node, place) for place in ((7, 8) if _has_center(node) else (5, 6)))
    values = torch.ones(width) if window is None else _window(program, window)
    if values is None or centred or length > LARGEST or not is_float(node.args[0]):
        return None
    full = _placed(values, length)
    bins = length // 2 + 1 if onesided is not False else length
    windowed = waves(length, bins) * full * (length**-0.5 if normalized else 1.0)
    basis = windowed.reshape(2 * bins, 1, length).float()

    def transformed(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.nn.functional.conv1d(x.unsqueeze(-2) if x.dim() == 2 else x[None, None], basis, stride=hop)
        real, imaginary = parts[:, :bins], parts[:, bins:]
        return (real, imaginary) if x.dim() == 2 else (real[0], imaginary[0])

    return Form(transformed, (node.args[0],), (basis,))


def back_to_samples(program: ExportedProgram, node: Any, pair: tuple[Node, Node]) -> Form | None:
    """Add windowed frames up by a transposed convolution, and divide by what the windows add up to.

    Args:
        program: that the node is of.
        node: an `istft`.
        pair: real and imaginary parts of the spectrum, [..., bins, frames].
    """
    length = argument(node, 1)
    hop, width = argument(node, 2) or length // 4, argument(node, 3) or length
    window, centred, normalized = argument(node, 4), argument(node, 5, True), argument(node, 6, False)
    values = torch.ones(width) if window is None else _window(program, window)
    bins, frames = shape_of(pair[0])[-2:]
    if values is None or argument(node, 9, False) or length > LARGEST or not isinstance(frames, int):
        return None
    full = _placed(values, length)
    often = counts(length, bins)
    scale = length**-0.5 if normalized else 1.0 / length
    basis = waves(length, bins) * often[:, None] * full * scale
    sums = torch.nn.functional.conv_transpose1d(
        torch.ones(1, 1, frames, dtype=torch.float64), full.square().reshape(1, 1, -1), stride=hop
    )[0, 0]
    start = length // 2 if centred else 0
    wanted = argument(node, 8)
    end = start + wanted if wanted is not None else len(sums) - start
    kept = sums[start:end]
    missing = end - start - len(kept)

    def samples(real: Tensor, imaginary: Tensor, basis: Tensor, shares: Tensor) -> Tensor:
        parts = torch.cat([real, imaginary], -2)
        parts = parts if parts.dim() == 3 else parts.unsqueeze(0)
        y = torch.nn.functional.conv_transpose1d(parts, basis, stride=hop)[:, 0, start : start + len(shares)] * shares
        y = torch.nn.functional.pad(y, (0, missing)) if missing else y
        return y if real.dim() == 3 else y[0]

    return Form(samples, pair, (basis.reshape(2 * bins, 1, length).float(), kept.reciprocal().float()))


def _placed(values: Tensor, length: int) -> Tensor:
    """Return a window in the middle of a frame, float64."""
    full = torch.zeros(length, dtype=torch.float64)
    start = (length - len(values)) // 2
    full[start : start + len(values)] = values.double()
    return full


def counts(length: int, bins: int) -> Tensor:
    """Return how often each bin of a real signal's transform occurs: those that are not given twice count twice."""
    if bins != length // 2 + 1:
        return torch.ones(bins, dtype=torch.float64)
    found = torch.full((bins,), 2.0, dtype=torch.float64)
    found[0] = 1.0
    if length % 2 == 0:
        found[-1] = 1.0
    return found


def waves(size: int, bins: int) -> Tensor:
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
}
"""Forms whose two results are the real and the imaginary part."""
