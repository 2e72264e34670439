"""A small CNN with a residual, a network over a bounded number of tokens, and a transformer layer over six."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.models.digits.layers import TransformerBlock
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage


class Cnn(nn.Module):
    spec = spec.ModelSpec(
        name="cnn",
        modalities=(spec.tensor("x", shape=(1, 3, 32, 32)),),
        outputs=(spec.EmbeddingOutput(size=64),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.widen = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
        self.filter = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.last = nn.Conv2d(16, 64, 1)
        self.head = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.narrow(self.filter(self.widen(x)))
        y: Tensor = self.head(nn.functional.relu(self.last(x)).mean(dim=(2, 3)))
        return y


class Tokens(nn.Module):
    spec = spec.ModelSpec(
        name="tokens",
        modalities=(spec.text("t", tokenizer="t.json", max_length=16, variable=True),),
        outputs=(spec.EmbeddingOutput(size=64),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 64)
        self.qkv = nn.Linear(64, 192)
        self.norm = nn.LayerNorm(64)
        self.wide = nn.Linear(64, 128)
        self.narrow = nn.Linear(128, 64)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        x = self.table(ids)
        steps = torch.arange(ids.shape[1], dtype=torch.int32).unsqueeze(0)
        hidden = (steps >= length.unsqueeze(1)).to(torch.float32).unsqueeze(1) * -1e4
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        x = x + torch.softmax(query @ key.transpose(1, 2) / 8 + hidden, dim=-1) @ value
        x = x + self.narrow(torch.relu(self.wide(self.norm(x))))
        y: Tensor = x[:, 0]
        return y


class Layer(nn.Module):
    spec = spec.ModelSpec(
        name="layer",
        modalities=(spec.tensor("x", shape=(1, 6, 64)),),
        outputs=(spec.EmbeddingOutput(size=64),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.block = TransformerBlock(64, 4, 128)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x, torch.zeros(6, 6))
        return y[:, 0]


@pytest.fixture(scope="session")
def layer_stage() -> TorchStage:
    torch.manual_seed(0)
    return split(Layer().eval())[0]


@pytest.fixture(scope="session")
def cnn_stage() -> TorchStage:
    torch.manual_seed(0)
    return split(Cnn().eval())[0]


@pytest.fixture(scope="session")
def tokens_stage() -> TorchStage:
    torch.manual_seed(0)
    return split(Tokens().eval())[0]


@pytest.fixture(scope="session")
def cnn(cnn_stage: TorchStage) -> Lowered:
    return OnnxTarget().lower(cnn_stage)


@pytest.fixture(scope="session")
def tokens(tokens_stage: TorchStage) -> Lowered:
    return OnnxTarget().lower(tokens_stage)


@pytest.fixture(scope="module")
def edges(cnn_stage: TorchStage) -> TorchStage:
    """A small MobileNet whose filters find edges: large weights that cancel, and a norm that magnifies what is left."""
    torch.manual_seed(3)
    stage = replace(cnn_stage, module=type(cnn_stage.module)().eval())
    filters, norm = stage.module.get_submodule("filter.0"), stage.module.get_submodule("filter.1")
    assert isinstance(filters, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        weight = torch.randn_like(filters.weight)
        filters.weight.copy_(weight - weight.mean(dim=(2, 3), keepdim=True))
        norm.weight.fill_(8.0)
    return stage
