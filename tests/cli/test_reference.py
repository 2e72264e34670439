"""The torch reference that a benchmark is held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.compiler.evaluation import reference as reference_module
from edgefuse.compiler.evaluation.reference import TorchReference, open_reference
from edgefuse.errors import ModelError
from edgefuse.models.fusion import FusionModel
from edgefuse.runtime.processor import available_processors
from edgefuse.stages.explicit import split

SPEC = spec.ModelSpec(
    name="pair",
    modalities=(
        spec.tensor("left", shape=(1, 4), optional=True),
        spec.tensor("right", shape=(1, 4, 2), length=True, optional=True),
    ),
    outputs=(spec.ClassOutput(labels=("a", "b", "c", "d")),),
)


class Valid(nn.Module):
    """Sum the valid steps."""

    def forward(self, values: Tensor, length: Tensor) -> Tensor:
        steps = torch.arange(values.shape[1])[None, :, None]
        total: Tensor = torch.where(steps < length[:, None, None], values, 0.0).sum(dim=(1, 2))
        return total[:, None].expand(-1, 4)


class Add(nn.Module):
    """Add the features and the number of modalities."""

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["left"] + features["right"] + present.sum()


class Whole(nn.Module):
    """The same model in one piece, called with positional tensors."""

    spec = SPEC

    def forward(self, left: Tensor, right: Tensor, length: Tensor, present: Tensor) -> Tensor:
        result: Tensor = left + Valid()(right, length) * present[:, 1:] + present.sum()
        return result


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile fail as it does on a machine without a C++ compiler."""

    def fail(model: nn.Module) -> nn.Module:
        raise RuntimeError("No working C++ compiler found in ('g++',)\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", fail)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("model", [FusionModel(SPEC, {"left": nn.Identity(), "right": Valid()}, Add()), Whole()])
def test_it_computes_what_the_model_computes(model: nn.Module) -> None:
    reference = TorchReference(model.train(), threads=1)
    values = {
        "left": np.arange(4, dtype=np.float32)[None],
        "right": np.ones((1, 4, 2), np.float32),
        "length": np.array([3], np.int32),
    }
    inputs = {"left.values": values["left"], "right.values": values["right"], "right.length": values["length"]}
    for array in inputs.values():
        array.setflags(write=False)
    assert reference.run(inputs, ("left", "right"))["logits"].tolist() == [[8, 9, 10, 11]]
    assert reference.run({"left.values": values["left"]}, ("left",))["logits"].tolist() == [[1, 2, 3, 4]]
    assert not model.training


@pytest.mark.usefixtures("no_compiler")
def test_it_says_why_torch_compile_was_not_measured() -> None:
    threads = min(2, available_processors())
    reference = TorchReference(Whole(), threads=threads)
    assert "not measured yet" in reference.description
    reference.run({}, ("left", "right"))
    assert reference.mode == "eager"
    reason, *_ = reference.note.split("; ")  # and perhaps that the machine was busy
    assert reason == "torch.compile failed: RuntimeError: No working C++ compiler found in ('g++',)"
    assert (
        f"torch {torch.__version__}, eager, cpu, {threads} thread{'s' * (threads > 1)} (torch.compile failed"
        in reference.description
    )
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)


def test_on_another_device_it_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages share the model's parameters, and run on the CPU after it."""
    model = FusionModel(SPEC, {"left": nn.Linear(4, 4), "right": Valid()}, Add())
    monkeypatch.setattr(reference_module, "_device", lambda: "meta")
    reference = TorchReference(model)
    assert "meta" in reference.description
    stages = {stage.spec.name: stage.module for stage in split(model)}
    assert {tensor.device.type for module in stages.values() for tensor in module.parameters()} == {"cpu"}
    assert stages["left_encoder"](torch.ones(1, 4)).device.type == "cpu"


class Words(nn.Module):
    """Scores from ids, which are int64 as torch has them, by keyword; a dict comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(5, 4)

    def forward(self, *, values: Tensor) -> dict[str, Tensor]:
        torch.nn.functional.one_hot(values, 5)  # takes nothing but int64
        return {"unused": values, "logits": self.rows(values).sum(dim=1)}


WORDS = spec.ModelSpec(
    name="words",
    modalities=(spec.tensor("text", shape=(1, 3), dtype="int64"),),
    outputs=(spec.ClassOutput(labels=("a", "b", "c", "d")),),
)


def words_as_pair() -> tuple[nn.Module, spec.ModelSpec]:
    torch.manual_seed(0)
    return Words(), WORDS


def words_with_spec() -> nn.Module:
    module, described = words_as_pair()
    module.spec = described  # type: ignore[assignment] # a module may have any attribute
    return module


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("factory", [words_as_pair, words_with_spec])
def test_a_factory_that_a_recipe_accepts_is_called_as_a_compile_calls_it(
    factory: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "imported", lambda *_, **__: factory)
    reference = open_reference("mine:build")
    found = reference.run({"text.values": np.array([[0, 1, 4]], np.int32)}, ("text",))["logits"]
    expected = words_as_pair()[0](values=torch.tensor([[0, 1, 4]]))["logits"]
    torch.testing.assert_close(torch.tensor(found), expected.detach())


def test_it_keeps_the_faster_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Whole()

    def compiled(*tensors: Tensor) -> Tensor:
        result: Tensor = model(*tensors)
        for _ in range(200):
            result = result + 0
        return result

    monkeypatch.setattr(torch, "compile", lambda _: compiled)
    reference = TorchReference(model)
    reference.run({}, ("left",))
    assert reference.mode == "eager"
    assert reference.p50_ms["eager"] < reference.p50_ms["torch.compile"]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("mine", "a factory has no module or no callable: got 'mine', expected 'module:callable'"),
        (
            "mine_gone:build",
            "'mine_gone:build': got ModuleNotFoundError: No module named 'mine_gone'",
        ),
        ("math:gone", "the module 'math' has no 'gone'"),
        (
            "math:pi",
            "returns no model that can be compiled: got float, expected a torch module with a ModelSpec as its attri",
        ),
        ("torch.nn:Identity", "'torch.nn:Identity' returns no model that can be compiled: got Identity, expected a"),
    ],
)
def test_a_wrong_factory_is_one_sentence(
    factory: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        open_reference(factory)
