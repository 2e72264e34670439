"""Two modules that answer differently have different fingerprints, whatever makes the difference."""

from __future__ import annotations

import copy
import importlib
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgefuse.compiler.cache.fingerprint import of_module, once


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


def by_default(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def scale(x: torch.Tensor, *, by: float = factor) -> torch.Tensor:
        return x * by

    return scale


def nested(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: by_default(factor)(x)


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def applied(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor

    @classmethod
    def made(cls) -> Scale:
        return cls(2.0)


class Tripled(Scale):
    pass


class Slots:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


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
        (lambda x: torch.relu(x), lambda x: torch.tanh(x)),
        (by_default(1.0), by_default(2.0)),
        (nested(1.0), nested(2.0)),
        (lambda x: [torch.relu(y) for y in x], lambda x: [torch.tanh(y) for y in x]),
        (Scale(1.0).applied, Scale(2.0).applied),
        (Scale.made, Tripled.made),
        (Slots(1.0), Slots(2.0)),
        (Fraction(1, 2), Fraction(1, 3)),
        (range(3), range(4)),
        (np.array([1, "a"], object), np.array([1, "b"], object)),
    ],
)
def test_what_a_module_holds_counts(one: Any, other: Any) -> None:
    assert of_module(Holds(one)) != of_module(Holds(other))
    assert of_module(Holds(one)) == of_module(Holds(one))


_MODEL = """
import torch
from torch import nn
import sizes
from mel import mel
from unused import nothing

class Encoder(nn.Module):
    def forward(self, x):
        from late import shift
        return shift(mel(x)) * sizes.factor

def data():
    return nothing()
"""
_FILES = {
    "model.py": _MODEL,
    "mel.py": "from inner import *\nimport torch\n\ndef mel(x):\n    return smooth(x)\n",
    "inner.py": "import torch\n\ndef smooth(x):\n    return torch.relu(x)\n",
    "sizes.py": "factor = 2\n",
    "late.py": "def shift(x):\n    return x + 1\n",
    "unused.py": "def nothing():\n    return 1\n",
}


def of_files(folder: Path, patch: pytest.MonkeyPatch, **changed: tuple[str, str]) -> str:
    """Return the fingerprint of the model in these files, imported anew, after a forward."""
    folder.mkdir()
    for name, text in _FILES.items():
        (folder / name).write_text(text.replace(*changed.get(name.removesuffix(".py"), ("", ""))), encoding="utf-8")
    with patch.context() as here:
        here.syspath_prepend(folder)
        try:
            encoder: nn.Module = importlib.import_module("model").Encoder()
            encoder(torch.ones(1))
            return of_module(encoder)
        finally:
            for name in _FILES:
                sys.modules.pop(name.removesuffix(".py"), None)


def test_what_forward_reaches_counts_in_whatever_file_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = of_files(tmp_path / "known", monkeypatch)
    assert of_files(tmp_path / "again", monkeypatch) == known
    for name, change in {
        "mel": ("smooth(x)", "smooth(x) + 1"),
        "inner": ("relu", "tanh"),
        "sizes": ("2", "3"),
        "late": ("+ 1", "+ 2"),
    }.items():
        assert of_files(tmp_path / name, monkeypatch, **{name: change}) != known, name
    assert of_files(tmp_path / "unused", monkeypatch, unused=("1", "2")) == known  # forward does not use it


def test_a_value_that_a_global_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = of_module(Shifted())
    monkeypatch.setattr(sys.modules[__name__], "SHIFT", np.array([1.0]))
    assert of_module(Shifted()) != known


SHIFT = np.array([0.0])


class Shifted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(SHIFT[0])


class Watched(nn.Module):
    """What users' modules hold besides: a logger, a lock, a module of Python, and what forward leaves behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.logger = logging.getLogger(__name__)
        self.handler = logging.StreamHandler()
        self.lock = threading.RLock()
        self.of_python = weakref
        self.owner = weakref.ref(self.layer)
        self.local = threading.local()
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        return self.last


def test_a_logger_a_lock_and_a_reference_count_by_their_type() -> None:
    torch.manual_seed(0)
    module = Watched()
    known = of_module(module)
    module.logger.addHandler(logging.NullHandler())
    module.handler.setLevel(logging.ERROR)
    module.local.value = 1
    with module.lock:
        assert of_module(module) == known
    module.logger.handlers.clear()


class Leaves(nn.Module):
    """Keeps what it saw last, as attention maps are kept to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        self.seen.append(self.last)
        return self.last


def test_what_a_forward_leaves_behind_is_no_part_of_a_key() -> None:
    module = Leaves()
    known = once(module)
    with torch.inference_mode():
        module(torch.ones(1, 2))
    assert once(module) == known != of_module(module)
    assert once(pickle.loads(pickle.dumps(module))) == known  # in a worker


def test_a_copy_that_is_changed_has_a_fingerprint_of_its_own() -> None:
    module = linear(1.0)
    known = once(module)
    copied = copy.deepcopy(module)
    assert once(copied) == known
    copied = copy.deepcopy(module)
    nn.init.constant_(copied.weight, 2.0)
    assert once(copied) == of_module(linear(2.0)) != known


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
    code = (
        "from tests.compiler.test_fingerprint import *; torch.manual_seed(0); "
        "print(of_module(Holds([{'a', 'b'}, torch.relu, object(), scaled(2.0), Watched()])))"
    )
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert found[0].stdout == found[1].stdout
