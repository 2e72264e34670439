"""Attention with nothing left to attend to, tensors of several types in one, constant matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.functional import scaled_dot_product_attention

from edgefuse.export.torch.inlining import Form, Prepare, argument, constant_of, shape_of

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


def attention(program: ExportedProgram, node: Any) -> Form | None:
    """Attend to nothing where a mask leaves nothing: torch gives zeros, a plain softmax the mean of all or NaN.

    A mask that surely leaves something (finite numbers, a constant) needs none of that. Three axes become four, which
    is what exporters know.
    """
    named = dict(node.kwargs)
    mask = named.get("attn_mask", argument(node, 3))
    rank = len(shape_of(node.args[0]))
    if any(len(shape_of(one)) != rank for one in node.args[1:3]) or rank not in (3, 4):
        return None
    guarded = mask is not None and _may_leave_nothing(program, mask)
    if not guarded and rank == 4:
        return None
    inputs = tuple(dict.fromkeys((*node.args[:3], *([] if mask is None else [mask]))))
    options = {
        "is_causal": bool(named.get("is_causal", argument(node, 5, False))),
        "scale": named.get("scale", argument(node, 6)),
        "enable_gqa": bool(named.get("enable_gqa", argument(node, 7, False))),
    }

    def attended(*tensors: Tensor) -> Tensor:
        known = dict(zip(inputs, tensors, strict=True))
        query, key, value = (_four_axes(known[one]) for one in node.args[:3])
        allowed = None if mask is None else known[mask]
        if allowed is not None and rank == 3 and allowed.dim() == 3:
            allowed = allowed.unsqueeze(1)
        kept = None
        if guarded and allowed is not None:
            kept, allowed = _kept_and_scores(allowed, query.dtype)
        found = scaled_dot_product_attention(query, key, value, allowed, **options)
        if kept is not None:
            found = found * kept.amax(-1, keepdim=True)
        return found if rank == 4 else found.squeeze(1)

    return Form(attended, inputs)


def _four_axes(x: Tensor) -> Tensor:
    return x.unsqueeze(1) if x.dim() == 3 else x


def _kept_and_scores(allowed: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return 1 where a mask lets attend and 0 elsewhere, and what to add to scores: always finite."""
    if allowed.dtype == torch.bool:
        kept = allowed.to(dtype)
        return kept, (kept - 1.0) * -_FAR_BELOW
    kept = (allowed > 0.5 * _FAR_BELOW).to(dtype)
    return kept, allowed.clamp(min=_FAR_BELOW)


def _may_leave_nothing(program: ExportedProgram, mask: Any) -> bool:
    """Tell whether a row of a mask may forbid everything: a computed one of booleans, or one that holds infinity."""
    constant = constant_of(program, mask)
    if constant is not None:
        return bool(_forbids(constant).all(-1).any())
    if mask.meta["val"].dtype == torch.bool:
        return True
    return any(_holds_infinity(program, node) for node in _behind(mask))


def _forbids(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask == -math.inf


def _holds_infinity(program: ExportedProgram, node: Node) -> bool:
    if any(isinstance(one, float) and math.isinf(one) for one in (*node.args, *node.kwargs.values())):
        return True
    constant = constant_of(program, node) if node.op == "placeholder" else None
    return constant is not None and constant.is_floating_point() and bool(constant.isinf().any())


def _behind(node: Node) -> set[Node]:
    """Return a node and all that it is computed from."""
    found, left = set[Node](), [node]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += one.all_input_nodes
    return found


FORMS: dict[Any, Prepare] = {
    aten.cat.default: joined,
    aten.stack.default: joined,
    aten.eye.default: eye,
    aten.eye.m: eye,
    aten.scaled_dot_product_attention.default: attention,
}
