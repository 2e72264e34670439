"""The types that a module wants are found in few calls, however many inputs it has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from edgefuse.stages.typed import MOST_TRIALS, TYPES, choices, first_that_works

INTEGERS = TYPES["int32"]


def test_few_inputs_are_tried_in_every_way_the_first_types_first() -> None:
    tried = list(choices([TYPES["float32"], INTEGERS]))
    assert tried[0] == (torch.float32, torch.int32)
    assert len(tried) == len(set(tried)) == 6
    changed = [sum(one != first for one, first in zip(types, tried[0], strict=True)) for types in tried]
    assert changed == sorted(changed)


@pytest.mark.parametrize(
    "wanted",
    [
        [torch.int32] * 25,
        [torch.int32] * 24 + [torch.int64],
        [torch.int64] * 25,
        [torch.bool] * 25,
    ],
)
def test_of_many_inputs_one_or_all_get_to_another_type_in_few_calls(wanted: Sequence[torch.dtype]) -> None:
    calls = []

    def call(types: tuple[torch.dtype, ...]) -> None:
        calls.append(types)
        if list(types) != wanted:
            raise TypeError("other types")

    assert list(first_that_works([INTEGERS] * 25, call)) == wanted
    assert len(calls) <= MOST_TRIALS
    with pytest.raises(TypeError, match="other types"):
        first_that_works([INTEGERS] * 25, lambda types: call((*types, torch.int8)))
