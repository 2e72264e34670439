"""Modules called with the types that they want: files have int32 where torch's own have int64 and truth values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice, product

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

MOST_TRIALS = 64
"""Calls of a module, in search of the types that it wants."""

_ALONE = 48


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
    """Yield types for tensors from what each may have: the first of each, then another for few, then for more.

    Of many tensors no more than one or two get to another type by themselves, so all that may have it get it at once,
    too.
    """
    changes = chain(islice(_changed(options), _ALONE), _all_at_once(options), _changed(options))
    for choice in islice(dict.fromkeys(islice(changes, 3 * MOST_TRIALS)), MOST_TRIALS):
        yield tuple(option[index] for option, index in zip(options, choice, strict=True))


def _changed(options: Sequence[Sequence[torch.dtype]]) -> Iterator[tuple[int, ...]]:
    """Yield places in the options of each tensor, by how many of them are not the first, then by how late they are."""
    several = [place for place, option in enumerate(options) if len(option) > 1]
    most = max((len(option) for option in options), default=1) - 1
    for count in range(len(several) + 1):
        for total in range(count, count * most + 1):
            for places in combinations(several, count):
                for choice in product(*(range(1, len(options[place])) for place in places)):
                    if sum(choice) == total:
                        changed = dict(zip(places, choice, strict=True))
                        yield tuple(changed.get(place, 0) for place in range(len(options)))


def _all_at_once(options: Sequence[Sequence[torch.dtype]]) -> Iterator[tuple[int, ...]]:
    """Yield places in the options of each tensor, with one type for all that may have it."""
    for wanted in dict.fromkeys(dtype for option in options for dtype in option):
        yield tuple(list(option).index(wanted) if wanted in option else 0 for option in options)


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
