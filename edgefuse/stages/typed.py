"""Modules called with the types that they want: files have int32 where torch's own have int64 and truth values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from edgefuse.errors import ModelError
from edgefuse.stages.silence import quiet

TYPES: Mapping[str, tuple[torch.dtype, ...]] = {
    "bool": (torch.bool, torch.int32, torch.int64),
    "int32": (torch.int32, torch.int64, torch.bool),
    "int64": (torch.int32, torch.int64, torch.bool),
    "float32": (torch.float32, torch.bool),
    "uint8": (torch.uint8, torch.bool),
}
"""What a tensor may become for the module, the first that works: types of indices and masks fail loudly, all but the
truth values that a module inverts or adds up, which are what its spec says."""

WHOLE = ("bool", "int32", "int64")
"""Types of whole numbers and truth values, as specs name them: int32 in files."""

_MAX_TRIALS = 64


class Typed(nn.Module):
    """Call a module with its first tensors in other types."""

    def __init__(self, module: nn.Module, dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self.module = module
        self.dtypes = dtypes

    def extra_repr(self) -> str:
        """Spell the types: a part of cache keys."""
        return str(self.dtypes)

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Take what the module takes, in the types of files."""
        count = len(self.dtypes)
        given = [cast(tensor, dtype) for tensor, dtype in zip(tensors[:count], self.dtypes, strict=True)]
        result: Tensor | tuple[Tensor, ...] = self.module(*given, *tensors[count:])
        return result


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in another type; a mask is true where it is not zero."""
    if tensor.dtype == dtype:
        return tensor
    return tensor != 0 if dtype == torch.bool else tensor.to(dtype)


def choices(options: Sequence[Sequence[torch.dtype]]) -> Iterator[tuple[torch.dtype, ...]]:
    """Yield types for tensors from what each may have: the first of each, then another for few, then for more."""
    every = product(*(range(len(option)) for option in options))
    ranked = sorted(every, key=lambda choice: (sum(map(bool, choice)), sum(choice)))[:_MAX_TRIALS]
    for choice in ranked:
        yield tuple(option[index] for option, index in zip(options, choice, strict=True))


def first_that_works(
    options: Sequence[Sequence[torch.dtype]], call: Callable[[tuple[torch.dtype, ...]], object]
) -> tuple[torch.dtype, ...]:
    """Return the first types with which a module of the user's can be called.

    Args:
        options: types that each tensor may have.
        call: calls the module with some types.

    Raises:
        ModelError: by the call: the types are right and something else is wrong.
        Exception: what the first types led to, if none works.
    """
    failures: list[Exception] = []
    for types in choices(options):
        try:
            with torch.no_grad(), quiet():
                call(types)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything; raised below
            failures.append(error)
        else:
            return types
    raise failures[0]
