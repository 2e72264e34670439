"""Attention whose mask leaves a row nothing, as no example of a stage has it: files answer as torch does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from edgefuse.bundle import spec
from edgefuse.errors import ExportError
from edgefuse.export.torch.forms import COMMON, apply_forms
from edgefuse.models.fusion import FusionModel
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.explicit import split
from edgefuse.stages.running import run_torch

STEPS, WIDTH = 6, 8
aten = torch.ops.aten


def allowed(keep: Tensor) -> Tensor:
    return keep[:, None, None, :]


def infinite(keep: Tensor) -> Tensor:
    return torch.zeros(1, 1, STEPS, STEPS).masked_fill(~keep[:, None, None, :], float("-inf"))


def finite(keep: Tensor) -> Tensor:
    return (1.0 - keep[:, None, None, :].float()) * torch.finfo(torch.float32).min


class Attends(nn.Module):
    """Heads over steps, of which those are hidden whose first number is large."""

    def __init__(self, mask: Callable[[Tensor], Tensor], heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.mask, self.heads = nn.Linear(WIDTH, WIDTH), mask, heads
        values = spec.tensor("x", shape=(1, STEPS, WIDTH))
        output = spec.EmbeddingOutput(size=STEPS * WIDTH)
        self.spec = spec.ModelSpec(name="attends", modalities=(values,), outputs=(output,))

    def forward(self, x: Tensor) -> Tensor:
        keep = x[..., 0] < 50
        if not self.heads:
            return scaled_dot_product_attention(self.query(x), x, x, keep[:, None, :]).flatten(1)
        query, key = (one.view(1, STEPS, self.heads, -1).transpose(1, 2) for one in (self.query(x), x))
        y = scaled_dot_product_attention(query, key, key, self.mask(keep))
        return y.transpose(1, 2).flatten(1)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(("mask", "heads"), [(allowed, 2), (infinite, 2), (finite, 2), (allowed, 0)])
def test_a_row_with_nothing_to_attend_to_answers_as_in_torch(
    mask: Callable[[Tensor], Tensor], heads: int, target: str
) -> None:
    (stage,) = split(Attends(mask, heads).eval())
    made = create("targets", target)
    lowered = made.lower(stage)
    session = create("backends", made.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for hidden in (0, 2, STEPS):
        x = np.random.default_rng(0).standard_normal((1, STEPS, WIDTH)).astype(np.float32)
        x[0, :hidden, 0] = 100.0
        feeds = {stage.spec.inputs[0].tensor.name: x}
        found, wanted = session.run(feeds)["embedding"], run_torch(stage, feeds)["embedding"]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_a_mask_that_surely_leaves_something_costs_nothing() -> None:
    x = torch.zeros(1, STEPS, WIDTH)
    for module, guarded in ((Attends(finite), False), (Attends(infinite), True), (Attends(allowed), True)):
        before = torch.export.export(module.eval(), (x,))
        written = str(before.graph)
        after = apply_forms(before, COMMON)
        assert (str(after.graph) != written) is guarded
        assert aten.scaled_dot_product_attention.default in {node.target for node in after.graph.nodes}


class Listens(nn.Module):
    """Attends from one modality to another, which may be absent: `nn.MultiheadAttention` then answers NaN in torch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        heard, seen = features["heard"], features["seen"]
        nothing = (present[:, :1] == 0).expand(-1, STEPS)
        y: Tensor = self.attention(seen, heard, heard, key_padding_mask=nothing)[0]
        return y.mean(1)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_model_that_answers_nan_in_torch_is_not_said_to_be_wrong_in_a_file(target: str) -> None:
    modalities = (
        spec.tensor("heard", shape=(1, STEPS, WIDTH), optional=True),
        spec.tensor("seen", shape=(1, STEPS, WIDTH)),
    )
    model = spec.ModelSpec(name="listens", modalities=modalities, outputs=(spec.EmbeddingOutput(size=WIDTH),))
    fusion = split(FusionModel(model, {"heard": nn.Identity(), "seen": nn.Identity()}, Listens()).eval())[-1]
    with pytest.raises(ExportError, match=r"NaN or infinity in torch itself at .*present \[\[0, 1\]\].*attention that"):
        create("targets", target).lower(fusion)
