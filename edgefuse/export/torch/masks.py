"""Attention with nothing left to attend to, tensors of several types in one, constant matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, shape_of

aten = torch.ops.aten

_FAR_BELOW = -1e9
"""A score that softmax makes nothing of, and that sums of two of do not overflow."""


def joined(_program: ExportedProgram, node: Any) -> Form | None:
    """Bring tensors to the type of the result before they are joined."""
    parts = argument(node, 0)
    types = {part.meta["val"].dtype for part in parts}
    if len(types) == 1:
        return None
    axis, dtype = argument(node, 1, 0), node.meta["val"].dtype
    join = torch.stack if node.target is aten.stack.default else torch.cat
    unique = tuple(dict.fromkeys(parts))

    def function(*tensors: Tensor) -> Tensor:
        by_node = dict(zip(unique, tensors, strict=True))
        return join([by_node[part].to(dtype) for part in parts], axis)

    return Form(function, unique)


def eye(_program: ExportedProgram, node: Any) -> Form | None:
    """Hold an identity matrix as a constant."""
    value = node.meta["val"]
    if not all(isinstance(size, int) for size in value.shape):
        return None
    return Form(lambda matrix: matrix.clone(), (), (torch.eye(*value.shape, dtype=value.dtype),))


def attention(_program: ExportedProgram, node: Any) -> Form | None:
    """Attend to nothing where a mask leaves nothing: torch gives zeros, a plain softmax the mean of all or NaN."""
    named = dict(node.kwargs)
    query, key, value = node.args[:3]
    mask = named.get("attn_mask", argument(node, 3))
    causal = named.get("is_causal", argument(node, 5, False))
    scale = named.get("scale", argument(node, 6))
    if mask is None or causal or named.get("enable_gqa", argument(node, 7, False)):
        return None
    factor = 1.0 / math.sqrt(shape_of(query)[-1]) if scale is None else float(scale)
    inputs = tuple(dict.fromkeys((query, key, value, mask)))

    def attended(*tensors: Tensor) -> Tensor:
        known = dict(zip(inputs, tensors, strict=True))
        allowed = known[mask]
        scores = (known[query] * factor) @ known[key].transpose(-2, -1)
        if allowed.dtype == torch.bool:
            kept = allowed.to(scores.dtype)
            scores = scores + (kept - 1.0) * -_FAR_BELOW
        else:
            kept = (allowed > 0.5 * _FAR_BELOW).to(scores.dtype)
            scores = scores + allowed.clamp(min=_FAR_BELOW)
        weights = scores.softmax(-1) * kept.amax(-1, keepdim=True)
        found: Tensor = weights @ known[value]
        return found

    return Form(attended, inputs)


FORMS: dict[Any, Prepare] = {
    aten.cat.default: joined,
    aten.stack.default: joined,
    aten.eye.default: eye,
    aten.eye.m: eye,
}
MASKED: dict[Any, Prepare] = {aten.scaled_dot_product_attention.default: attention}
