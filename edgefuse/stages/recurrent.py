"""Let torch trace recurrent layers over any number of steps.

Torch finds the shapes of their answers by unrolling them, and so takes the number of steps for a constant, and with it
the size of every mask over those steps. Here the shapes are said, as `torch.export._patches` says loops.
Plain recurrent layers are left alone: ONNX gets them unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Torch has no public way to say the shapes of an operator that it takes apart.
from torch._C import DispatchKey
from torch._decomp import decomposition_table

_KEY = DispatchKey.CompositeImplicitAutograd
_LAYERS = tuple(getattr(torch.ops.aten, name).input for name in ("lstm", "gru"))


@contextmanager
def open_steps() -> Iterator[None]:
    """Within it, torch traces recurrent layers at an open number of steps; nothing may be computed within it."""
    before = {layer: (decomposition_table[layer], layer.py_kernels[_KEY]) for layer in _LAYERS}
    _put(dict.fromkeys(_LAYERS, (_shaped, _shaped)))
    try:
        yield
    finally:
        _put(before)


def _put(forms: Mapping[Any, tuple[Any, Any]]) -> None:
    """Set what torch takes layers apart by: in general, and where it asks Python first."""
    for layer, (general, own) in forms.items():
        decomposition_table[layer] = general
        layer.py_kernels[_KEY] = own
        layer._dispatch_cache.clear()


def _shaped(
    x: Tensor, states: Tensor | Sequence[Tensor], weights: Sequence[Tensor], *options: Any
) -> tuple[Tensor, ...]:
    """Return empty tensors of the shapes that a layer gives; `options` end with both directions, and batch first."""
    *_, bidirectional, batch_first = options
    last = (states,) if isinstance(states, Tensor) else tuple(states)
    batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    y = x.new_empty(steps, batch, last[0].shape[2] * (2 if bidirectional else 1))
    return (y.transpose(0, 1) if batch_first else y, *map(torch.empty_like, last))
