"""Sizes that a forward pass writes down or takes from other tensors: seen, and pinned to those of smaller weights.

Attention in the wild computes the sizes of its views from its input (`x.view(B, T, 3, h, C // h)`) or from attributes,
so that no attribute could be set to make it right once its heads are fewer than its input is wide. A pinned module is
of a subclass of its own class, whose forward pass runs under a mode that gives those calls the sizes of the narrow
weights. Names of parameters, hooks and everything else stay; exporters see plain views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Pin: TypeAlias = int | tuple[int, int] | None
"""A size: the one to take; or (of, over): what the code says, times `of`, divided by `over`; or None: what it says."""

Pins: TypeAlias = Mapping[int, tuple[Pin, ...]]
"""The sizes of a call that takes sizes, by its number within one forward pass."""

_VIEWS = {torch.Tensor.view, torch.Tensor.reshape, torch.reshape, torch.Tensor.expand}
_UNFLATTEN = {torch.Tensor.unflatten, torch.unflatten}
_SPLITS: set[Any] = {torch.Tensor.split, torch.split, torch.Tensor.split_with_sizes, torch.split_with_sizes}


@dataclass(frozen=True)
class Sized:
    """A call that takes sizes.

    Attributes:
        kind: `view`, `split` or `slice`.
        sizes: that it takes, in order.
        rebuilt: gives its arguments with other sizes.
    """

    kind: str
    sizes: tuple[Any, ...]
    rebuilt: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def sized(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sized | None:
    """Return what a call of a torch function has to do with sizes; None if it takes none.

    Args:
        func: as a `TorchFunctionMode` gets it.
        args: its arguments.
        kwargs: those by name.
    """
    if func in _VIEWS:
        return _view(args, kwargs)
    if func in _UNFLATTEN and len(args) == 3:
        return Sized("view", tuple(args[2]), lambda sizes: ((*args[:2], tuple(sizes)), kwargs))
    if func in _SPLITS and len(args) > 1:
        return _split(args, kwargs)
    if func is torch.Tensor.__getitem__:
        return _slice(args, kwargs)
    return None


def _view(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sized | None:
    key = next((key for key in ("shape", "size") if key in kwargs), None)
    if key is not None:
        return Sized("view", tuple(kwargs[key]), lambda sizes: (args, {**kwargs, key: tuple(sizes)}))
    given = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not given or isinstance(given[0], torch.dtype):
        return None
    return Sized("view", tuple(given), lambda sizes: ((args[0], tuple(sizes)), kwargs))


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sized:
    first, given, *rest = args
    if isinstance(given, (tuple, list)):
        return Sized("split", tuple(given), lambda sizes: ((first, list(sizes), *rest), kwargs))
    return Sized("split", (given,), lambda sizes: ((first, sizes[0], *rest), kwargs))


def _slice(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sized | None:
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = [end for part in index if isinstance(part, slice) for end in (part.start, part.stop)]
    if all(end is None for end in ends):
        return None

    def rebuilt(sizes: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        left = iter(sizes)

        def other(part: slice) -> slice:
            start = None if part.start is None else next(left)
            return slice(start, None if part.stop is None else next(left), part.step)

        return (args[0], tuple(other(part) if isinstance(part, slice) else part for part in index)), kwargs

    return Sized("slice", tuple(end for end in ends if end is not None), rebuilt)


class _Pinning(TorchFunctionMode):
    """Gives calls by their number the sizes that are pinned."""

    def __init__(self, pins: Pins) -> None:
        super().__init__()
        self._pins = pins
        self._number = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = sized(func, args, kwargs)
        if call is not None:
            pins = self._pins.get(self._number)
            self._number += 1
            if pins is not None and len(pins) == len(call.sizes):
                args, kwargs = call.rebuilt([_pinned(pin, size) for pin, size in zip(pins, call.sizes, strict=True)])
        return func(*args, **kwargs)


def _pinned(pin: Pin, size: Any) -> Any:
    if isinstance(pin, tuple):
        return size * pin[0] // pin[1]
    return size if pin is None else pin


class Pinned(nn.Module):
    """What a module with pinned sizes is, beside an instance of its own class; pins on pins apply in turn."""

    pins: tuple[Pins, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of the module's own class with pinned sizes."""
        with ExitStack() as stack:
            # The mode entered last sees a call first: what was pinned first is what later pins start from.
            for pins in self.pins:
                stack.enter_context(_Pinning(pins))
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the module's own class: the pinned one has no name that could be imported."""
        return _made_anew, (type(self).__bases__[1],), self.__dict__


@functools.cache
def _class_of(kind: Any) -> type[Any]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Pinned, kind), names)


def _made_anew(kind: Any) -> Any:
    return object.__new__(_class_of(kind))


def pin(module: nn.Module, *rounds: Pins) -> None:
    """Pin sizes of a module's forward pass, in place, instead of those that are pinned.

    Args:
        module: whose own forward pass the calls are in.
        rounds: the latest first: each starts from the sizes that those after it give.
    """
    found: Any = module
    kind: Any = type(module)
    if rounds and not isinstance(module, Pinned):
        found.__class__ = _class_of(kind)
    elif not rounds and isinstance(module, Pinned):
        del found.pins
        found.__class__ = kind.__bases__[1]
    if rounds:
        found.pins = rounds


def rounds_of(module: nn.Module) -> tuple[Pins, ...]:
    """Return the pins of a module, the latest first."""
    return module.pins if isinstance(module, Pinned) else ()


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested arguments or results, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (tuple, list)) else []
