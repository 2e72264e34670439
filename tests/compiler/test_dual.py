"""Two encoders without a fusion through a compile: what a silent one gives is absent, and is not judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgefuse
from edgefuse import ModelSpec, Sample, Splits
from edgefuse.bundle import spec
from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput

OUTPUTS = (
    EmbeddingOutput(name="left_point", size=8, pair="right_point"),
    EmbeddingOutput(name="right_point", size=8, pair="left_point"),
    ClassOutput(name="kind", labels=("low", "high")),
)


class Dual(nn.Module):
    """Points of both sides, which lie where their inputs do, and what the right side shows."""

    spec = ModelSpec(
        name="dual",
        modalities=tuple(spec.tensor(name, shape=(1, 32), optional=True) for name in ("left", "right")),
        outputs=OUTPUTS,
    )

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.head = nn.Linear(32, 8), nn.Linear(32, 8), nn.Linear(32, 2)
        self.right.load_state_dict(self.left.state_dict())

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.left(left), self.right(right), self.head(right)


def samples(count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    pairs = (
        (x, x + 0.1 * rng.standard_normal(x.shape, np.float32)) for x in rng.standard_normal((count, 1, 32), np.float32)
    )
    return [Sample({"left": one, "right": other}, {"kind": int(one[0, 0] > 0)}) for one, other in pairs]


def test_each_encoder_alone_gives_what_is_its_own(tmp_path: Path) -> None:
    data = Splits(samples(16, 1), samples(48, 2), samples(48, 3), digest="dual 1")
    made = edgefuse.compile(
        Dual(), Dual.spec, data, targets=["onnx"], out=tmp_path / "out", cache=tmp_path / "cache", max_drop=0.9
    )
    with edgefuse.load(made.bundles[0]) as pipeline:
        assert {*pipeline(left=np.zeros((1, 32), np.float32) + 1).outputs} == {"left_point"}
        assert {*pipeline(right=np.zeros((1, 32), np.float32) + 1).outputs} == {"right_point", "kind"}
        rung = pipeline.rung
    assert {*rung.accuracy} == {"left+right"}
    assert {*rung.outputs["kind"].accuracy} == {"left+right", "right"}
