"""What torch traces otherwise than the module computes it: sizes made numbers without need, regions that do nothing.

A pool over all of its input is written with a kernel as large as that, and torch takes a kernel's size for a constant;
the order of a product of three tensors is chosen by their sizes, which makes numbers of them, too. `torch.autocast`
that is switched off becomes an operator that hides what is computed within it. Torch's transformers look at the values
of a mask to see whether it is causal, which is a hint alone. Checkpoints, which save memory in training, hide what is
computed within them. And Python makes a plain number of whatever `len` returns,
which fixes the size for all calls to come: most often that of the batch, in `expand(len(x), -1, -1)`.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.amp.autocast_mode import autocast
from torch.nn import functional
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint


@contextmanager
def kept_open() -> Iterator[None]:
    """Within it, torch traces what is computed, and keeps open what it can."""
    with _open_lengths(), _without_idle_autocast(), _without_look_at_masks(), without_checkpoints(), _Open():
        yield


@contextmanager
def _open_lengths() -> Iterator[None]:
    """Let `len` of a tensor be its first size."""
    plain = builtins.len

    def length(given: Any, /) -> Any:
        return given.shape[0] if isinstance(given, Tensor) and given.ndim else plain(given)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain


class _Open(TorchFunctionMode):
    """Stands in for functions that would make a number of an open size."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, or what stands in its place."""
        given = dict(kwargs or {})
        if func in _POOLS and (pooled := _pooled_whole(func, args, given)) is not None:
            return pooled
        if func is torch.einsum and (found := _products(args)) is not None:
            return found
        return func(*args, **given)


_POOLS: Mapping[Callable[..., Any], tuple[int, bool]] = {
    **{getattr(place, f"max_pool{axes}d"): (axes, True) for axes in (1, 2, 3) for place in (torch, functional)},
    **{getattr(functional, f"avg_pool{axes}d"): (axes, False) for axes in (1, 2, 3)},
}
"""How many axes each pool has, and whether it takes the largest."""

_REST = (("ceil_mode", "count_include_pad", "divisor_override"), ("dilation", "ceil_mode"))
_PLAIN = ("padding", "dilation", "divisor_override")


def _pooled_whole(func: Any, args: Sequence[Any], given: Mapping[str, Any]) -> Tensor | None:
    """Return the mean or the largest over all of the input, if that is what a pool of open size is asked for."""
    axes, largest = _POOLS[func]
    names = ("input", "kernel_size", "stride", "padding", *(_REST[largest]))
    asked = {**dict(zip(names, args, strict=False)), **given}
    x, kernel = asked["input"], asked["kernel_size"]
    kernel = tuple(kernel) if isinstance(kernel, (tuple, list)) else (kernel,) * axes
    kernel = kernel * axes if len(kernel) == 1 else kernel
    moved = [asked.get(name) for name in _PLAIN]
    if not any(isinstance(size, SymInt) for size in kernel) or asked.get("return_indices"):
        return None
    if any(value not in (None, 0, 1, (0,), (1,), [0], [1]) for value in moved):
        return None
    if any(str(size) != str(whole) for size, whole in zip(kernel, x.shape[-axes:], strict=True)):
        return None
    over = tuple(range(-axes, 0))
    pooled: Tensor = x.amax(over, keepdim=True) if largest else x.mean(over, keepdim=True)
    return pooled


def _products(args: Sequence[Any]) -> Tensor | None:
    """Return the product of three tensors or more, in the order that is best at the sizes that are traced."""
    words, tensors = args[0], args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if (
        not isinstance(words, str)
        or len(tensors) < 3
        or not any(isinstance(s, SymInt) for t in tensors for s in t.shape)
    ):
        return None
    choose = torch.backends.opt_einsum.get_opt_einsum() if torch.backends.opt_einsum.is_available() else None
    path = [] if choose is None else choose.contract_path(words, *map(_hinted, tensors), shapes=True)[0]
    flat = [place for pair in path for place in pair]
    return torch._VF.einsum(words, list(tensors), path=flat or None)  # type: ignore[attr-defined, no-any-return]


def _hinted(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else int(size.node.hint or 1) for size in tensor.shape)


@contextmanager
def _without_look_at_masks() -> Iterator[None]:
    """Let torch's transformers apply a mask as it is, whose values are not known while they are traced."""
    look = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = look


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let functions under `torch.utils.checkpoint` be called as they are: nothing is computed backward."""

    class Plain:
        @staticmethod
        def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
            return function(*args)

    def before_and_after(*_: Any, **__: Any) -> Iterator[None]:
        yield

    kept = checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator
    checkpoint.CheckpointFunction = Plain  # type: ignore[misc, assignment]
    checkpoint._checkpoint_without_reentrant_generator = before_and_after
    try:
        yield
    finally:
        checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator = kept  # type: ignore[misc]


@contextmanager
def _without_idle_autocast() -> Iterator[None]:
    """Let `torch.autocast` that is off, also for want of a GPU, leave no trace."""
    enter, leave = autocast.__enter__, autocast.__exit__
    idle: list[Any] = []

    def entered(self: autocast) -> Any:
        if self._enabled or torch.is_autocast_enabled(self.device):
            return enter(self)  # type: ignore[no-untyped-call]
        idle.append(self)
        return self

    def left(self: autocast, *error: Any) -> Any:
        if idle and idle[-1] is self:
            idle.pop()
            return None
        return leave(self, *error)

    autocast.__enter__, autocast.__exit__ = entered, left  # type: ignore[method-assign]
    try:
        yield
    finally:
        autocast.__enter__, autocast.__exit__ = enter, leave  # type: ignore[method-assign]
