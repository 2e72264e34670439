"""Two modules that answer differently have different fingerprints, whatever makes the difference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgefuse.compiler.cache.fingerprint import of_module


class Holds(nn.Module):
    """A module that holds something in a plain attribute, which its repr does not show."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.held = held


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x * factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 2.0),
        (1, True),
        ([1, (2, 3)], [1, (2, 4)]),
        ([[1], 2], [[1, 2]]),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (torch.float16, torch.bfloat16),
        (torch.ones(2), torch.zeros(2)),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
        (np.ones(2), np.zeros(2)),
        (SimpleNamespace(eps=1e-5), SimpleNamespace(eps=1e-6)),
        (torch.relu, torch.tanh),
        (nn.functional.gelu, nn.functional.silu),
        (partial(nn.functional.gelu, approximate="none"), partial(nn.functional.gelu, approximate="tanh")),
        (scaled(1.0), scaled(2.0)),
        ([linear(1.0)], [linear(2.0)]),
    ],
)
def test_what_a_module_holds_counts(one: Any, other: Any) -> None:
    assert of_module(Holds(one)) != of_module(Holds(other))
    assert of_module(Holds(one)) == of_module(Holds(one))


def test_a_circle_ends() -> None:
    held: dict[str, Any] = {}
    held["self"] = held
    module = Holds(held)
    module.held["owner"] = module
    assert of_module(module)


def test_a_part_may_hold_what_it_is_a_part_of() -> None:
    def answering(factor: float) -> Holds:
        whole = Holds(None)
        whole.part = Holds([whole, factor, Holds([whole])])
        return whole

    assert of_module(answering(1.0)) == of_module(answering(1.0)) != of_module(answering(2.0))


def test_another_process_finds_the_same() -> None:
    code = "from tests.compiler.test_fingerprint import *; print(of_module(Holds([{'a', 'b'}, torch.relu, object()])))"
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert found[0].stdout == found[1].stdout
