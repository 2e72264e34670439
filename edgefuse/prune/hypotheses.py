"""Which sizes of a forward pass go with the number of an attention's heads: what is likely, and a trial of it.

A narrow module has to answer as the whole one does with zeros in place of the heads that are gone.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.errors import cited
from edgefuse.prune.attention import FAILURES, Attention, Sizes
from edgefuse.prune.observation import SizedCall
from edgefuse.prune.sizes import pin, rounds_of, tensors_in


def steady(calls: Sequence[dict[int, SizedCall]], number: int) -> Iterator[tuple[str, Any]]:
    """Yield for each size of a call whether it is the same at all sizes of the input."""
    for position, size in enumerate(calls[0][number].sizes):
        here = [found[number].sizes for found in calls if number in found]
        same = all(len(sizes) > position and sizes[position] == size for sizes in here)
        yield ("fixed", size) if same and size != -1 else ("given", None)


def hypotheses(calls: Sequence[dict[int, SizedCall]], heads: int) -> Iterator[Sizes]:
    """Yield which sizes may go with the number of heads, the likely ones first; equal calls are treated alike."""
    kinds: dict[tuple[str, tuple[Any, ...]], list[int]] = {}
    for number, call in calls[0].items():
        kinds.setdefault((call.kind, call.sizes), []).append(number)
    options = [_options(calls, numbers[0], kind, heads) for (kind, _), numbers in kinds.items()]
    ranks = _ranks([len(option) for option in options])
    for rank in ranks:
        yield {
            number: option[chosen]
            for option, chosen, numbers in zip(options, rank, kinds.values(), strict=True)
            for number in numbers
        }


def _ranks(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield a choice for each of some options: the first of all, then another one for one of them, then for two."""
    first = (0,) * len(counts)
    others = [(place, rank) for place, count in enumerate(counts) for rank in range(1, count)]
    for changes in ((), *((one,) for one in others), *itertools.combinations(others, 2)):
        yield tuple(dict(changes).get(place, rank) for place, rank in enumerate(first))


def _options(
    calls: Sequence[dict[int, SizedCall]], number: int, kind: str, heads: int
) -> list[tuple[tuple[str, Any], ...]]:
    whole = tuple(steady(calls, number))
    sizes = calls[0][number].sizes
    scales = [position for position, (name, size) in enumerate(whole) if name == "fixed" and size and size % heads == 0]
    if kind != "view":
        every = tuple(("heads", size) if i in scales else (name, size) for i, (name, size) in enumerate(whole))
        return [every, whole]
    order = sorted(scales, key=lambda position: (sizes[position] != heads, -sizes[position]))
    found = [_one(whole, position, ("heads", sizes[position])) for position in order]
    exact = [option for option, position in zip(found, order, strict=True) if sizes[position] == heads]
    rest = [option for option in found if option not in exact]
    moving = [i for i, (name, _) in enumerate(whole) if name == "given" and sizes[i] != -1]
    scaled = [_one(whole, position, ("scaled", None)) for position in moving]
    unchanged = [whole]
    return [*exact, *unchanged, *rest, *scaled] if -1 in sizes else [*exact, *rest, *scaled, *unchanged]


def _one(whole: Sequence[tuple[str, Any]], position: int, kind: tuple[str, Any]) -> tuple[tuple[str, Any], ...]:
    return (*whole[:position], kind, *whole[position + 1 :])


class Trial:
    """The home of an attention without some heads, against the whole one with zeros in their place."""

    def __init__(self, whole: nn.Module, attention: Attention, givens: Sequence[tuple[Any, Any]]) -> None:
        self._attention = attention
        self._givens = givens
        self._kept = list(range(attention.heads // 2, attention.heads))
        self._narrow = copy.deepcopy(whole)
        silent = copy.deepcopy(whole)
        gone = torch.cat([attention.columns[head] for head in range(attention.heads) if head not in self._kept])
        out: Any = silent.get_submodule(attention.out)
        with torch.no_grad():
            out.weight[:, gone] = 0
        self._expected = [_answers(silent, given) for given in givens]
        attention.narrow(self._narrow, self._kept)

    def failure(self, sizes: Sizes) -> str:
        """Say why an attention does not work with the sizes of fewer heads; nothing if it does."""
        before = rounds_of(self._narrow)
        if sizes:
            pin(self._narrow, self._attention.but(sizes).pins(len(self._kept)), *before)
        try:
            for given, expected in zip(self._givens, self._expected, strict=True):
                if reason := _difference(_answers(self._narrow, given), expected):
                    return reason
        except FAILURES as error:
            return cited(error)
        finally:
            pin(self._narrow, *before)
        return ""


def _answers(module: nn.Module, given: tuple[Any, Any]) -> list[Tensor]:
    with torch.no_grad():
        return tensors_in(module(*given[0], **given[1]))


def _difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
    """Say how answers differ; weights of attention, which have heads of their own, may."""
    pairs = [(a, b) for a, b in zip(got, expected, strict=False) if a.shape == b.shape]
    if not pairs or got[0].shape != expected[0].shape:
        return "its answer has another shape without it"
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + float(b.abs().max()))) for a, b in pairs):
        return "the rest of it answers differently without it"
    return ""
