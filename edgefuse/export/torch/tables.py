"""Bags of embeddings as lookups, and LSTMs with a projection as LSTMs and linear layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, only_first_is_used, shape_of

aten = torch.ops.aten

_MODES = ("sum", "mean", "max")


def embedding_bag(_program: ExportedProgram, node: Any) -> Form | None:
    """Look rows up and sum, average or take the largest of each bag; its offsets say where it begins."""
    weight, ids, offsets = node.args[:3]
    mode, weights = _MODES[argument(node, 4, 0)], argument(node, 6)
    empty = argument(node, 8, -1)
    bags = shape_of(offsets)[0] - bool(argument(node, 7, False))
    if not only_first_is_used(node) or not isinstance(bags, int):
        return None
    if not _evenly(ids, offsets, bags):
        closed = bool(argument(node, 7, False))
        inputs = (weight, ids, offsets, *([] if weights is None else [weights]))
        return Form(lambda *tensors: _uneven(*tensors, mode=mode, empty=empty, closed=closed), inputs)

    def bagged(table: Tensor, ids: Tensor, *scales: Tensor) -> Tensor:
        places = ids.reshape(bags, -1)
        rows = nn.functional.embedding(places, table)
        kept = None if empty is None or empty < 0 else (places != empty).to(rows.dtype).unsqueeze(2)
        if scales:
            rows = rows * scales[0].reshape(bags, -1, 1)
        return _reduced(rows, kept, mode)

    return Form(bagged, (weight, ids, *([] if weights is None else [weights])))


def _uneven(
    table: Tensor, ids: Tensor, offsets: Tensor, scales: Tensor | None = None, *, mode: str, empty: Any, closed: bool
) -> Tensor:
    """Multiply by the matrix that says which of the ids [T] lie in which bag; `closed` where offsets hold the end."""
    rows = nn.functional.embedding(ids, table)
    places = torch.ones_like(ids).cumsum(0) - 1
    starts, ends = (offsets[:-1], offsets[1:]) if closed else (offsets, offsets[1:])
    inside = places >= starts.unsqueeze(1)
    before = places < ends.unsqueeze(1)
    before = before if closed else torch.cat([before, torch.ones_like(inside[:1])])
    kept = (inside & before).to(rows.dtype)
    if empty is not None and empty >= 0:
        kept = kept * (ids != empty).to(rows.dtype)
    if mode == "max":
        found = (rows.unsqueeze(0) + (kept.unsqueeze(2) - 1.0) * 1e30).amax(1)
        return found * (kept.sum(1, keepdim=True) > 0).to(rows.dtype)
    total = kept @ (rows if scales is None else rows * scales.unsqueeze(1))
    return total if mode == "sum" else total / kept.sum(1, keepdim=True).clamp(min=1.0)


def _reduced(rows: Tensor, kept: Tensor | None, mode: str) -> Tensor:
    if kept is None:
        return rows.amax(1) if mode == "max" else rows.mean(1) if mode == "mean" else rows.sum(1)
    if mode == "max":
        found = (rows + (kept - 1.0) * 1e30).amax(1)
        return found * (kept.sum(1) > 0).to(rows.dtype)
    total = (rows * kept).sum(1)
    return total if mode == "sum" else total / kept.sum(1).clamp(min=1.0)


def _evenly(ids: Any, offsets: Any, bags: int) -> bool:
    """Tell whether ids fall into bags of one size: all in one bag, or rows of a matrix, as torch counts them."""
    if bags == 1:
        return True
    count = shape_of(ids)[0]
    return (
        offsets.target is aten.arange.start_step
        and isinstance(count, int)
        and tuple(offsets.args) == (0, count, count // bags)
    )


class ProjectedLstm(nn.Module):
    """An LSTM with a projection, computed by one without and linear layers.

    The state that is projected, W h, is only ever multiplied by weights U: so h can be kept and multiplied by U W, also
    where it enters the next layer. Initial states take the least h that W projects to them.

    Args:
        lstm: with `proj_size`.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.batch_first = lstm.batch_first
        directions = 2 if lstm.bidirectional else 1
        self.plain = nn.LSTM(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            bias=lstm.bias,
            batch_first=lstm.batch_first,
            bidirectional=lstm.bidirectional,
        )
        names = [f"_l{i}{end}" for i in range(lstm.num_layers) for end in ("", "_reverse")[:directions]]
        projections = [getattr(lstm, f"weight_hr{name}").detach().double() for name in names]
        for place, name in enumerate(names):
            inputs = getattr(lstm, f"weight_ih{name}").detach().double()
            if place >= directions:
                start = (place // directions - 1) * directions
                inputs = inputs @ _diagonal(projections[start : start + directions])
            self._set(f"weight_ih{name}", inputs)
            self._set(f"weight_hh{name}", getattr(lstm, f"weight_hh{name}").detach().double() @ projections[place])
            for bias in (f"bias_ih{name}", f"bias_hh{name}") if lstm.bias else ():
                self._set(bias, getattr(lstm, bias).detach())
        self.register_buffer("last", _diagonal(projections[-directions:]).float())
        self.register_buffer("each", torch.stack(projections).float())
        self.register_buffer("back", torch.linalg.pinv(torch.stack(projections)).float())

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Take and return what `nn.LSTM` does."""
        if states is not None:
            hidden, cell = states
            states = (self._by_layer(hidden, self.back), cell)
        y, (hidden, cell) = self.plain(x, states)
        return nn.functional.linear(y, self.last), (self._by_layer(hidden, self.each), cell)  # type: ignore[arg-type]

    def _by_layer(self, hidden: Tensor, matrices: Any) -> Tensor:
        wide = hidden if hidden.dim() == 3 else hidden.unsqueeze(1)
        found: Tensor = wide @ matrices.transpose(1, 2)
        return found if hidden.dim() == 3 else found.squeeze(1)

    def _set(self, name: str, value: Tensor) -> None:
        with torch.no_grad():
            getattr(self.plain, name).copy_(value)


def without_projections(module: nn.Module) -> nn.Module:
    """Return a module without projected LSTMs: a copy if it has any."""
    if not any(_is_projected(part) for part in module.modules()):
        return module
    if _is_projected(module):
        return ProjectedLstm(module).eval()  # type: ignore[arg-type]
    changed = copy.deepcopy(module)
    for owner in list(changed.modules()):
        for name, part in list(owner.named_children()):
            if _is_projected(part):
                setattr(owner, name, ProjectedLstm(part).eval())  # type: ignore[arg-type]
    return changed


def _is_projected(part: nn.Module) -> bool:
    return isinstance(part, nn.LSTM) and part.proj_size > 0


FORMS: dict[Any, Prepare] = {
    aten.embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
}


def _diagonal(blocks: Sequence[Tensor]) -> Tensor:
    found: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return found
