"""Fourier transforms along axes as matrix products, of real and of complex numbers, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgefuse.export.torch.inlining import Form, argument, is_float, shape_of
from edgefuse.export.torch.spectra import LARGEST, counts, waves

_NAME = re.compile(r"aten\.fft_(?P<back>i?)(?P<real>r?)fft(?P<several>[2n]?)\.default")


@dataclass(frozen=True)
class _Step:
    """A transform along one axis: matrices [before, after] for the real and the imaginary part."""

    axis: int
    cosines: Tensor
    sines: Tensor
    to_real: bool = False


def is_transform(node: Any) -> bool:
    """Tell whether a node is a Fourier transform along axes."""
    return _NAME.fullmatch(str(node.target)) is not None


def transform(node: Any, pair: tuple[Node, Node] | None) -> Form | None:
    """Multiply by the waves of each axis, one axis after the other.

    Args:
        node: a Fourier transform along axes.
        pair: the parts of what it takes, or None where that is real.

    Returns:
        A form that gives the real and the imaginary part, or the real numbers that come out.
    """
    if pair is None and not is_float(node.args[0]):
        return None
    steps = _steps(node, shape_of(pair[0] if pair else node.args[0]))
    if steps is None:
        return None

    def transformed(*tensors: Tensor) -> Any:
        real, imaginary = (tensors[0], tensors[1]) if pair else (tensors[0], None)
        matrices = iter(tensors[2 if pair else 1 :])
        for step in steps:
            real, imaginary = _along(step, real, imaginary, next(matrices), next(matrices))
        return real if imaginary is None else (real, imaginary)

    constants = tuple(matrix for step in steps for matrix in (step.cosines, step.sines))
    return Form(transformed, pair or (node.args[0],), constants)


def _along(step: _Step, real: Tensor, imaginary: Tensor | None, cosines: Tensor, sines: Tensor) -> Any:
    def times(x: Tensor, matrix: Tensor) -> Tensor:
        return (x.movedim(step.axis, -1) @ matrix).movedim(-1, step.axis)

    if imaginary is None:
        return times(real, cosines), None if step.to_real else times(real, sines)
    if step.to_real:
        return times(real, cosines) - times(imaginary, sines), None
    return (
        times(real, cosines) - times(imaginary, sines),
        times(real, sines) + times(imaginary, cosines),
    )


def _steps(node: Any, shape: tuple[Any, ...]) -> list[_Step] | None:
    """Return the transforms along each axis, in order; None for sizes that are open or too large."""
    named = _NAME.fullmatch(str(node.target))
    if named is None:
        return None
    several, back, real = bool(named["several"]), bool(named["back"]), bool(named["real"])
    given, norm = argument(node, 1), argument(node, 3)
    default: Any = [-2, -1] if named["several"] == "2" else list(range(len(shape))) if several else -1
    axes = argument(node, 2, default)
    axes = default if axes is None else axes
    axes = list(axes) if several else [axes]
    wanted: list[Any] = [None] * len(axes) if given is None else list(given) if several else [given]
    last = axes[-1] if real else None
    steps = []
    # The real numbers come first on the way there, and last on the way back.
    for place in range(len(axes)) if back else reversed(range(len(axes))):
        axis, size = axes[place], shape[axes[place]]
        if not isinstance(size, int) or size > LARGEST:
            return None
        halved = axis == last
        length = wanted[place] if wanted[place] not in (None, -1) else 2 * (size - 1) if halved and back else size
        if not isinstance(length, int) or length > LARGEST:
            return None
        step = _step(axis, length, norm, back=back, halved=halved)
        steps.append(replace(step, cosines=_rows(step.cosines, size), sines=_rows(step.sines, size)))
    return steps


def _rows(matrix: Tensor, count: int) -> Tensor:
    """Return a matrix with so many rows: numbers beyond a transform count nothing, ones that lack are zeros."""
    missing = count - matrix.shape[0]
    return torch.nn.functional.pad(matrix[:count], (0, 0, 0, max(missing, 0))).contiguous()


def _step(axis: int, length: int, norm: str | None, *, back: bool, halved: bool) -> _Step:
    bins = length // 2 + 1 if halved else length
    exponent = {"ortho": -0.5, "forward": 0.0 if back else -1.0}.get(norm or "backward", -1.0 if back else 0.0)
    cosine, sine = waves(length, bins) * length**exponent
    if not back:
        return _Step(axis, cosine.T.float().contiguous(), sine.T.float().contiguous())
    if halved:
        often = counts(length, bins)[:, None]
        return _Step(axis, (cosine * often).float(), -(sine * often).float(), to_real=True)
    return _Step(axis, cosine.float(), -sine.float())
