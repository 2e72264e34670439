"""Compute log-mel power spectra by a factored Fourier transform (`fourier`) in place of a product with all waves.

Measured (LiteRT 2.3.0, x86, one thread): 512 samples a frame, 197 frames: 0.57 -> 0.17 ms, 1,089 -> 230 kB; 400 samples
a frame, 48 frames: 0.072 -> 0.038 ms, 679 -> 149 kB; answers differ by 1e-6 of the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from edgefuse.export.fourier import Floats, bin_transforms, factors, residue_transform, spread_filters, window_of
from edgefuse.export.tflite.editing import add_constant, are_constants, call, calls, constant, frames_of, replace
from edgefuse.export.torch.inlining import argument

aten = torch.ops.aten

_MAX_PIECES = 16
"""The most hops that a frame is cut out of: each is an operator, and beyond it they cost more than the products."""


def lower_spectrum(module: GraphModule) -> None:
    """Replace a convolution with the waves of all bins, its squares and their sums by small products."""
    for product in calls(module, aten.matmul.default):
        conv = _convolution(product.args[0])
        if conv is None or not are_constants(product.args[1], conv.args[1]):
            continue
        basis, filters = (constant(module, node).double().numpy() for node in (conv.args[1], product.args[1]))
        stride, length = argument(conv, 3, [1])[0], basis.shape[2]
        if filters.shape != (length // 2 + 1, filters.shape[-1]) or length > _MAX_PIECES * stride:
            continue
        window = window_of(basis[:, 0])
        if window is not None:
            with module.graph.inserting_before(product):
                count = conv.meta["val"].shape[2]
                frames = frames_of(module.graph, conv.args[0], count, length, stride)
                result = _energies(module, frames, count, window, filters)
            replace(product, result)


def _convolution(node: Any) -> Any:
    """Return the convolution of one channel whose two halves are squared, added up and transposed; None if none is."""
    power: Any = node.args[0] if _is(node, aten.transpose.int) and tuple(node.args[1:]) == (1, 2) else None
    squares = power.args if _is(power, aten.add.Tensor) else ()
    halves = [square.args[0] for square in squares if _is(square, aten.mul.Tensor) and square.args[0] is square.args[1]]
    if len(halves) != 2 or not all(_is(half, aten.slice.Tensor) for half in halves):
        return None
    conv, other = (half.args[0] for half in halves)
    if conv is not other or not _is(conv, aten.conv1d.default) or conv.args[0].meta["val"].shape[:2] != (1, 1):
        return None
    channels = conv.meta["val"].shape[1]
    rows = [(*half.args[1:3], min(half.args[3], channels), *half.args[4:]) for half in halves]
    plain = argument(conv, 2, None) is None and argument(conv, 4, [0]) == [0] and argument(conv, 5, [1]) == [1]
    return conv if plain and sorted(rows) == [(1, 0, channels // 2), (1, channels // 2, channels)] else None


def _energies(module: GraphModule, frames: Any, count: int, window: Floats, filters: Floats) -> Any:
    """Transform frames over a, then over b, square, and sum into mel bands: [1, frames, mels].

    Args:
        module: that the operators are added to.
        frames: float32 [1, frames, K].
        count: of the frames.
        window: float64 [K].
        filters: float64 [bins, mels].
    """
    outer, inner = factors(len(window))
    residues = outer // 2 + 1

    def held(values: Floats) -> Node:
        return add_constant(module, torch.from_numpy(np.ascontiguousarray(values)).float())

    def then(target: Any, *args: Any) -> Any:
        return call(module.graph, target, *args)

    windowed = then(aten.mul.Tensor, frames, held(window))
    by_sample = then(aten.permute.default, then(aten.reshape.default, windowed, [count, outer, inner]), [1, 0, 2])
    sums = then(
        aten.mm.default, held(residue_transform(outer)), then(aten.reshape.default, by_sample, [outer, count * inner])
    )
    parts = then(aten.permute.default, then(aten.reshape.default, sums, [residues, 2, count, inner]), [0, 2, 1, 3])
    by_residue = then(aten.reshape.default, parts, [residues, count, 2 * inner])
    spectrum = then(aten.bmm.default, by_residue, held(bin_transforms(outer, inner)))
    spread = spread_filters(filters, outer, inner).reshape(residues, 2 * inner, -1)
    energies = then(aten.bmm.default, then(aten.mul.Tensor, spectrum, spectrum), held(spread))
    return then(aten.sum.dim_IntList, energies, [0], True)


def _is(node: Any, target: Any) -> bool:
    return isinstance(node, Node) and node.target is target and not node.kwargs
