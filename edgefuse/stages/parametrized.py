"""Plain weights: those that a module computes anew whenever it is called, such as a weight norm's, and float32 ones.

Outside of training they are constants. As plain weights they are computed once, prune, and get a precision of their
own; a file would else compute them in every run. Wav2vec 2.0's positions and many convolutions over time are so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def with_plain_weights(module: nn.Module) -> nn.Module:
    """Return a module in eval mode whose weights are plain ones: a copy, if some were not."""
    if not any(True for part in module.modules() for _ in _removals(part)):
        return module
    # Torch copies no weight that a hook computed with gradients.
    computed = {
        id(value): value.detach()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    made = copy.deepcopy(module, computed).eval()
    with torch.no_grad():
        for part in list(made.modules()):
            for remove in list(_removals(part)):
                remove()
    return made


def in_float32(module: nn.Module) -> tuple[nn.Module, str]:
    """Return a module whose weights are float32, a copy if some were not, and a sentence that says so."""
    tensors = (*module.parameters(), *module.buffers())
    others = dict.fromkeys(t.dtype for t in tensors if t.is_floating_point() and t.dtype != torch.float32)
    if not others:
        return module, ""
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in others)
    return copy.deepcopy(module).float(), f"it has weights in {names}, which are taken as float32"


def _removals(part: nn.Module) -> Iterator[Callable[[], object]]:
    """Yield what makes each computed weight of a module a plain one."""
    if parametrize.is_parametrized(part):
        for name, _ in part.get_submodule("parametrizations").named_children():
            yield partial(_without_parametrization, part, name)
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield partial(remove_weight_norm, part, hook.name)
        elif isinstance(hook, SpectralNorm):
            yield partial(remove_spectral_norm, part, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            yield partial(prune.remove, part, hook._tensor_name)


def _without_parametrization(part: nn.Module, name: str) -> None:
    """Remove one parametrization: torch removes it from the class, which a copy shares with what it was copied from."""
    kind = type(part)
    part.__class__ = type(kind.__name__, kind.__bases__, {k: v for k, v in vars(kind).items() if k not in _OF_CLASSES})
    parametrize.remove_parametrizations(part, name)


_OF_CLASSES = ("__dict__", "__weakref__")
