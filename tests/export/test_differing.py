"""A file that does not answer like torch: the operator that it begins at is named, with the user's line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgefuse.bundle import spec
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.datasets.cache import Cache
from edgefuse.errors import DisagreementError, ExportError
from edgefuse.export import differing
from edgefuse.export.answers import check_answers
from edgefuse.export.differing import explained
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

_LOWER = OnnxTarget.lower


class Layers(nn.Module):
    """Two layers with an activation each, over a sequence of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 6)
        steps = spec.tensor("s", shape=(1, spec.Bounded(max=8), 4))
        self.spec = spec.ModelSpec(name="m", modalities=(steps,), outputs=(spec.EmbeddingOutput(size=6),))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        y = nn.functional.silu(y + 1)
        mean: Tensor = self.second(y).tanh().mean(1)
        return mean


class Off(TorchDispatchMode):  # type: ignore[no-untyped-call] # as torch has it
    """Torch in which an operator gives something else, as a converter may write it."""

    def __init__(self, operator: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operator = operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made + 0.5 if func is self._operator else made


class Bent(nn.Module):
    """Another module in such a torch."""

    def __init__(self, module: nn.Module, operator: object) -> None:
        super().__init__()
        self.module, self._operator = module, operator

    def forward(self, *tensors: Tensor) -> Any:
        with Off(self._operator):
            return self.module(*tensors)


def wrong(operator: object) -> Callable[[TorchStage], Lowered]:
    """Return a lowering that is wrong about an operator: a file of its own is held to the module itself."""

    def lower(stage: TorchStage) -> Lowered:
        file = _LOWER(OnnxTarget(), stage)
        bent = Bent(stage.module, operator)

        class Session:
            def run(self, feeds: Any) -> dict[str, Any]:
                tensors = [torch.from_numpy(np.array(feeds[port.tensor.name])) for port in stage.spec.inputs]
                with torch.no_grad():
                    return {stage.spec.outputs[0].tensor.name: bent(*tensors).numpy()}

        backend: Any = SimpleNamespace(title="Bent", open=lambda *_: Session())
        check_answers(stage, file, backend, "ONNX")
        return file

    return lower


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a search ends where it should."""
    monkeypatch.setattr(differing, "_SECONDS", math.inf)


@pytest.fixture
def stage() -> TorchStage:
    torch.manual_seed(0)
    return split(Layers().eval())[0]


def test_the_operator_that_differs_is_named_with_its_line(stage: TorchStage) -> None:
    with pytest.raises(
        DisagreementError,
        match=r"the ONNX file of the stage 'model' does not answer like torch from the operator aten\.silu\.default in "
        r"'\w+' at 'test_differing\.py:\d+: y = nn\.functional\.silu\(y \+ 1\)' on: got output 'embedding' is off by "
        r".*, at s_values \[1, 8, 4\]\. Fix: write that operator in another way, and report it with the model\.",
    ):
        explained(wrong(torch.ops.aten.silu.default), stage)


def test_the_first_of_several_is(stage: TorchStage) -> None:
    with pytest.raises(DisagreementError, match=r"from the operator aten\.tanh\.default .*torch\.tanh\(self\.first\(x"):
        explained(wrong(torch.ops.aten.tanh.default), stage)


def test_what_is_not_narrowed_down_in_time_is_said(stage: TorchStage, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(differing, "_SECONDS", 1.5)
    monkeypatch.setattr(differing, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with pytest.raises(DisagreementError, match=r"from the operator aten\.\w+\.default .*, or one before it, on: got"):
        explained(wrong(torch.ops.aten.tanh.default), stage)


def test_without_one_the_error_stays(stage: TorchStage) -> None:
    def lower(given: TorchStage) -> Lowered:
        """Be wrong about the whole stage, and about no part of it."""
        if given.spec == stage.spec:
            raise DisagreementError("the file is off", got="much", shapes={"s_values": (1, 8, 4)}, fix="report it")
        return _LOWER(OnnxTarget(), given)

    with pytest.raises(DisagreementError, match=r"^the file is off: got much\. Fix: report it\.$"):
        explained(lower, stage)


def test_a_compile_says_it_too(stage: TorchStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = wrong(torch.ops.aten.silu.default)
    monkeypatch.setattr(OnnxTarget, "lower", lambda self, given: lower(given))
    with pytest.raises(ExportError, match=r"from the operator aten\.silu\.default .* on: got output 'embedding'"):
        Toolchain.of("onnx", Cache(tmp_path / "cache")).lower(stage)
