"""What exporters refuse is one sentence with stage, operator and the user's own line; a terminal sees nothing else."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    EmbeddingOutput,
    ModelSpec,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    tensor,
)
from edgefuse.errors import ExportError
from edgefuse.export import tracing
from edgefuse.registry import create
from edgefuse.stages import silence
from edgefuse.stages.found import find
from edgefuse.stages.stage import TorchStage


class WrongShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class UsesNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Histogram(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.histc(x, bins=4)[None]


class Selects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].sum().reshape(1, 1)


class Distinct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.unique(x)
        return values[None]


class Accumulates(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        places = (torch.zeros(1, 16, dtype=torch.int64), (x.abs() * 3).clamp(max=15).long())
        return torch.zeros(1, 16).index_put(places, x, accumulate=True)


def stage_of(module: nn.Module, width: int) -> TorchStage:
    x, y = TensorSpec(name="x", shape=(1, 16)), TensorSpec(name="y", shape=(1, width))
    source = Source(kind="modality", owner="m", tensor="x")
    spec = StageSpec(
        name="ears", role="encoder", inputs=(StageInput(tensor=x, source=source),), outputs=(StageOutput(tensor=y),)
    )
    return TorchStage(spec, module.eval())


@pytest.mark.parametrize(
    ("target", "module", "width", "words"),
    [
        ("onnx", WrongShape(), 3, ["trace the stage 'ears' at", "self.inner(x)", "must have same reduction"]),
        ("tflite", WrongShape(), 3, ["trace the stage 'ears' at", "self.inner(x)", "Fix: mend that line"]),
        ("onnx", UsesNumpy(), 16, ["at 'test_tracing.py:", "x.numpy() * 2", "Fix: compute with torch alone"]),
        ("tflite", Branches(), 16, ["at 'test_tracing.py:", "x.sum() > 0", "without Python branches"]),
        (
            "onnx",
            Histogram(),
            4,
            ["cannot translate the stage 'ears'", "aten.histc.default in 'Histogram' at", "bins=4"],
        ),
        ("tflite", Histogram(), 4, ["cannot lower the stage 'ears'", "aten.histc.default in 'Histogram' at", "bins=4"]),
        ("tflite", Selects(), 1, ["cannot lower the stage 'ears'", "aten.index.Tensor in 'Selects' at", "x[x > 0]"]),
        (
            "tflite",
            Accumulates(),
            16,
            ["stage 'ears' cannot be opened", "aten.index_put.default in 'Accumulates' at", "accumulate=True"],
        ),
        ("onnx", Distinct(), 1, ["the stage 'ears' cannot be run", "one shape, whatever the values"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_refusal_is_one_sentence_with_the_users_line(
    target: str, module: nn.Module, width: int, words: list[str], capfd: Any
) -> None:
    with pytest.raises(ExportError) as caught:
        create("targets", target).lower(stage_of(module, width))
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\x1b" not in said
    assert said.isprintable()
    assert said.count("Fix: ") == 1
    assert len(said) < 700
    assert capfd.readouterr() == ("", "")


class Both(nn.Module):
    """Fuses in its own forward pass, with an operator that no target has."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion = nn.Linear(8, 16), nn.Linear(6, 16)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        both = self.sound(sound).relu() + self.motion(motion).relu()
        y: Tensor = torch.special.bessel_j0(both)
        return y


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_line_of_the_models_own_forward_pass_is_told_of_a_found_stage(target: str) -> None:
    modalities = (tensor("sound", shape=(1, 8)), tensor("motion", shape=(1, 6)))
    spec = ModelSpec(name="both", modalities=modalities, outputs=(EmbeddingOutput(size=16),))
    *_, fusion = pickle.loads(pickle.dumps(find(Both().eval(), spec).stages))
    with pytest.raises(ExportError) as caught:
        create("targets", target).lower(fusion)
    said = str(caught.value)
    assert "aten.special_bessel_j0.default in 'fusion' at 'test_tracing.py:" in said
    assert "torch.special.bessel_j0(both)" in said


def test_what_a_tool_prints_and_raises_is_in_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, silence.__name__), pytest.raises(ExportError):
        create("targets", "onnx").lower(stage_of(Branches(), 16))
    assert any("Could not guard" in str(record.exc_info) for record in caplog.records if record.exc_info)


def test_the_innermost_cause_speaks_without_colours() -> None:
    error = RuntimeError("a page of text")
    error.__cause__ = ValueError("\n  \x1b[96mno kernel\x1b[0m.\nmore")
    assert tracing.first_words(error) == "ValueError: no kernel"
    assert tracing.first_words(KeyError()) == "KeyError"
    assert len(tracing.first_words(RuntimeError("x" * 5000))) < 250
