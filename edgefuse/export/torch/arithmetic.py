"""Limits of two kinds of numbers, and products of two vectors by a tensor, in operators that every target has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, is_float

aten = torch.ops.aten


def clamped(_program: ExportedProgram, node: Any) -> Form | None:
    """Spell both limits as the numbers that they limit: ONNX has no clamp between 30 and 4000.0."""
    named = dict(node.kwargs)
    limits = [named.get(name, argument(node, place)) for place, name in ((1, "min"), (2, "max"))]
    if not is_float(node.args[0]) or {type(limit) for limit in limits} != {int, float}:
        return None
    low, high = map(float, limits)
    return Form(lambda x: x.clamp(low, high), (node.args[0],))


def bilinear(_program: ExportedProgram, node: Any) -> Form | None:
    """Multiply by a weight [out, first, second] from both sides, one after the other."""
    first, second, weight = node.args[:3]
    bias = argument(node, 3)

    def product(x: Tensor, y: Tensor, weight: Tensor, *added: Tensor) -> Tensor:
        out, left, right = weight.shape
        rows = x @ weight.permute(1, 0, 2).reshape(left, out * right)
        found: Tensor = (rows.reshape(*rows.shape[:-1], out, right) @ y.unsqueeze(-1)).squeeze(-1)
        return found + added[0] if added else found

    return Form(product, (first, second, weight, *([] if bias is None else [bias])))


FORMS: dict[Any, Prepare] = {aten.clamp.default: clamped}
"""Forms that every target gains by."""

LACKING: dict[Any, Prepare] = {aten.bilinear.default: bilinear}
"""Those of operators that ONNX has and TFLite has not."""
