"""Adaptive pools whose regions differ in size.

Exporters unroll them, region by region: 362 nodes for four pools of an image; in volumes they have none at all. A mean
over regions of rows and columns is two small matrix products, and a maximum one over rows and then one over columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, only_first_is_used, shape_of

aten = torch.ops.aten


def adaptive_mean(_program: ExportedProgram, node: Any) -> Form | None:
    """Pool by matrix products where the regions are not all alike; in volumes by a plain pool where they are."""
    sizes = _pooled(node)
    if all(_divides(size, wanted) for size, wanted in sizes):
        return _plain_mean(node, sizes)
    weights = [(axis, means(size, wanted)) for axis, (size, wanted) in enumerate(sizes, -len(sizes)) if size != wanted]

    def pooled(x: Tensor, *matrices: Tensor) -> Tensor:
        for (axis, _), matrix in reversed(list(zip(weights, matrices, strict=True))):
            x = multiplied(x, axis, matrix)
        return x

    return Form(pooled, (node.args[0],), tuple(matrix for _, matrix in weights))


def multiplied(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply each line of an axis by a matrix.

    Args:
        x: of any rank.
        axis: counted from the end, -1 to -3.
        matrix: [wanted, size].
    """
    if axis == -1:
        return x @ matrix.transpose(0, 1)
    if axis == -2:
        return matrix @ x
    planes: Tensor = (matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:])  # type: ignore[no-untyped-call]
    return planes


def _plain_mean(node: Any, sizes: list[tuple[Any, int]]) -> Form | None:
    """Pool a volume in equal regions, which exporters know only as one region or as a plain pool."""
    if len(sizes) < 3 or not all(isinstance(size, int) for size, _ in sizes) or all(to == 1 for _, to in sizes):
        return None
    kernel = [size // wanted for size, wanted in sizes]
    return Form(lambda x: torch.nn.functional.avg_pool3d(x, kernel), (node.args[0],))


def adaptive_maximum(_program: ExportedProgram, node: Any) -> Form | None:
    """Take the maximum over rows and then over columns, in regions of their own."""
    sizes = _pooled(node)
    if not only_first_is_used(node) or not all(isinstance(size, int) for size, _ in sizes):
        return None

    def pooled(x: Tensor) -> Tensor:
        for axis, (size, wanted) in enumerate(sizes, -len(sizes)):
            x = _maxima(x, axis, size, wanted)
        return x

    return Form(pooled, (node.args[0],))


def means(size: int, wanted: int) -> Tensor:
    """Return float32 [wanted, size]: each row takes the mean of its region."""
    matrix = torch.zeros(wanted, size)
    for row, (start, end) in enumerate(_regions(size, wanted)):
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


def _maxima(x: Tensor, axis: int, size: int, wanted: int) -> Tensor:
    if size == wanted:
        return x
    if wanted == 1:
        return x.amax(axis, keepdim=True)
    if size % wanted == 0:
        divided: Tensor = x.unflatten(axis, (wanted, size // wanted))  # type: ignore[no-untyped-call]
        return divided.amax(axis)
    regions = _regions(size, wanted)
    return torch.cat([x.narrow(axis, start, end - start).amax(axis, keepdim=True) for start, end in regions], axis)


def _regions(size: int, wanted: int) -> list[tuple[int, int]]:
    """Return where the regions of an adaptive pool begin and end."""
    return [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]


def _pooled(node: Any) -> list[tuple[Any, int]]:
    """Return the size of each pooled axis, and what it becomes."""
    wanted = list(argument(node, 1))
    shape = shape_of(node.args[0])[-len(wanted) :]
    return [(size, size if to is None else int(to)) for size, to in zip(shape, wanted, strict=True)]


def _divides(size: Any, wanted: int) -> bool:
    return not isinstance(size, int) or size % wanted == 0


FORMS: dict[Any, Prepare] = {
    aten.adaptive_avg_pool1d.default: adaptive_mean,
    aten.adaptive_avg_pool2d.default: adaptive_mean,
    aten._adaptive_avg_pool2d.default: adaptive_mean,
    aten.adaptive_avg_pool3d.default: adaptive_mean,
    aten._adaptive_avg_pool3d.default: adaptive_mean,
    aten.adaptive_max_pool1d.default: adaptive_maximum,
    aten.adaptive_max_pool2d.default: adaptive_maximum,
    aten.adaptive_max_pool3d.default: adaptive_maximum,
}
