"""Sorted values, quantiles and medians by `topk`, which every target has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, constant_of, only_first_is_used, shape_of

aten = torch.ops.aten

_SHARE = 1e-6
"""Of a number: more than what float32 rounds away."""

_LARGEST = 1e38
"""Of which there is a share, where infinity has none."""


def sort(_program: ExportedProgram, node: Any) -> Form | None:
    """Return sorted values and their places."""
    named = dict(node.kwargs)
    stable = node.target is aten.sort.stable
    axis = named.get("dim", argument(node, 1, -1))
    descending = named.get("descending", argument(node, 2, False))
    if stable and isinstance(argument(node, 1), bool):
        axis, descending = argument(node, 2, -1), argument(node, 3, False)
    if not _fixed(node.args[0], axis):
        return None
    return Form(lambda x: sorted_along(x, axis, descending=bool(descending)), (node.args[0],))


def argsort(_program: ExportedProgram, node: Any) -> Form | None:
    """Return the places of sorted values."""
    named = dict(node.kwargs)  # the stable one takes all but the tensor by name
    axis, descending = named.get("dim", argument(node, 1, -1)), named.get("descending", argument(node, 2, False))
    if not _fixed(node.args[0], axis):
        return None
    return Form(lambda x: sorted_along(x, axis, descending=bool(descending))[1], (node.args[0],))


def quantile(program: ExportedProgram, node: Any) -> Form | None:
    """Weigh the two neighbours among sorted values; what share is wanted has to be a constant."""
    given = argument(node, 1)
    constant = constant_of(program, given)
    shares = [float(given)] if isinstance(given, (int, float)) else None if constant is None else constant.tolist()
    axis, keep = argument(node, 2), bool(argument(node, 3, False))
    way = dict(node.kwargs).get("interpolation", "linear")
    if shares is None or axis is None or way not in _WAYS or not _fixed(node.args[0], axis):
        return None
    listed = isinstance(shares, list) and constant is not None and constant.dim() == 1
    shares = shares if isinstance(shares, list) else [shares]

    def quantiles(x: Tensor) -> Tensor:
        rising, _ = sorted_along(x, axis, descending=False)
        found = [_between(rising, axis, share * (x.shape[axis] - 1), way) for share in shares]
        found = found if keep else [one.squeeze(axis) for one in found]
        return torch.stack(found) if listed else found[0]

    return Form(quantiles, (node.args[0],))


def median(_program: ExportedProgram, node: Any) -> Form | None:
    """Take the lower of the middle values."""
    axis, keep = argument(node, 1), bool(argument(node, 2, False))
    if not only_first_is_used(node) or not _fixed(node.args[0], axis):
        return None
    return Form(lambda x: _nth(x, axis, (x.shape[axis] - 1) // 2, keep), (node.args[0],))


def kth(_program: ExportedProgram, node: Any) -> Form | None:
    """Take the value that so many are not above."""
    number, axis, keep = argument(node, 1), argument(node, 2, -1), bool(argument(node, 3, False))
    if not only_first_is_used(node) or not _fixed(node.args[0], axis):
        return None
    return Form(lambda x: _nth(x, axis, number - 1, keep), (node.args[0],))


def topk(_program: ExportedProgram, node: Any) -> Form | None:
    """Bring the axis to the end, where every target can rank, the largest first."""
    number, axis = argument(node, 1), argument(node, 2, -1)
    largest = argument(node, 3, True)
    rank = len(shape_of(node.args[0]))
    places_are_used = any(user.args[1] == 1 and user.users for user in node.users)
    if axis % rank == rank - 1 and largest and number != shape_of(node.args[0])[-1] and places_are_used:
        return None

    def ranked(x: Tensor) -> tuple[Tensor, Tensor]:
        moved = x.movedim(axis, -1)
        values, places = _ranked(moved if largest else -moved, number)
        values = values if largest else -values
        return values.movedim(-1, axis), places.movedim(-1, axis)

    return Form(ranked, (node.args[0],))


def sorted_along(x: Tensor, axis: int, *, descending: bool) -> tuple[Tensor, Tensor]:
    """Return sorted values and their places.

    Args:
        x: float.
        axis: of known size.
        descending: the largest first.
    """
    moved = x.movedim(axis, -1)
    values, places = _ranked(moved if descending else -moved, x.shape[axis])
    values = values if descending else -values
    return values.movedim(-1, axis), places.movedim(-1, axis)


def _ranked(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the largest numbers of the last axis, and their places; the numbers are read where the places are.

    TFLite's converter writes a sort, which LiteRT lacks, where all numbers are wanted, and where nobody asks for
    places: so all are most of them and a lower one behind them, and places are always asked for. Lower by a share, as
    a large number less one is itself; no number is lower than infinity's negative, so that a runtime may take the one
    behind for an equal one: then it is read where it is, and its place is the last.
    """
    if number < x.shape[-1]:
        places = x.topk(number).indices
        return x.gather(-1, places), places
    lowest = x.amin(-1, keepdim=True)
    margin = lowest.abs().clamp(max=_LARGEST) * _SHARE + 1.0
    more = torch.cat([x, lowest - margin], -1)
    places = more.topk(number).indices
    return more.gather(-1, places), places.clamp(max=number - 1)


def _between(rising: Tensor, axis: int, place: float, way: str) -> Tensor:
    below = _WAYS[way](place)
    lower = rising.narrow(axis, int(below), 1)
    share = place - math.floor(place)
    if way == "midpoint" and share:
        share = 0.5
    if way not in ("linear", "midpoint") or not share:
        return lower
    upper = rising.narrow(axis, int(below) + 1, 1)
    return lower + (upper - lower) * share


def _nth(x: Tensor, axis: int, place: int, keep: bool) -> Tensor:
    found = sorted_along(x, axis, descending=False)[0].narrow(axis, place, 1)
    return found if keep else found.squeeze(axis)


def _fixed(node: Any, axis: int) -> bool:
    value = node.meta["val"]
    return value.dim() > 0 and isinstance(value.shape[axis], int) and value.is_floating_point()


_WAYS: dict[str, Callable[[float], int]] = {
    "linear": math.floor,
    "lower": math.floor,
    "higher": math.ceil,
    "nearest": round,
    "midpoint": math.floor,
}

FORMS: dict[Any, Prepare] = {
    aten.sort.default: sort,
    aten.sort.stable: sort,
    aten.argsort.default: argsort,
    aten.argsort.stable: argsort,
    aten.quantile.scalar: quantile,
    aten.quantile.default: quantile,
    aten.median.dim: median,
    aten.kthvalue.default: kth,
    aten.topk.default: topk,
}
