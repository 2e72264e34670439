"""A stage with a state, a running mean, from torch through files of both runtimes and a hundred steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgefuse import registry
from edgefuse.bundle.spec import ClassOutput, ModelSpec, Source, StageInput, StageOutput, StageSpec, TensorSpec, tensor
from edgefuse.bundle.wiring import check_stages
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.graph import Graph
from edgefuse.stages.stage import TorchStage

STEPS = 100
VALUES = TensorSpec(name="values", shape=(1, 4))
MODEL = ModelSpec(
    name="running",
    modalities=(tensor("sensor", shape=(1, 4)),),
    outputs=(ClassOutput(name="mean", labels=("a", "b", "c", "d")),),
)


class RunningMean(nn.Module):
    """The mean of all values so far."""

    def forward(self, values: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total, count = total + values, count + 1
        return total / count, total, count


def stage() -> TorchStage:
    total, count = TensorSpec(name="total", shape=(1, 4)), TensorSpec(name="count", shape=(1, 1))
    inputs = (
        StageInput(tensor=VALUES, source=Source(kind="modality", owner="sensor", tensor="values")),
        *(StageInput(tensor=t, source=Source(kind="state", owner="mean", tensor=t.name)) for t in (total, count)),
    )
    outputs = (
        StageOutput(tensor=TensorSpec(name="mean", shape=(1, 4)), kind="result"),
        *(StageOutput(tensor=t, kind="state") for t in (total, count)),
    )
    spec = StageSpec(name="mean", role="encoder", modality="sensor", inputs=inputs, outputs=outputs)
    return TorchStage(spec, RunningMean().eval())


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_running_mean_over_a_hundred_steps(target: str) -> None:
    made = stage()
    check_stages(MODEL, [made.spec])
    tools = registry.create("targets", target)
    lowered = tools.lower(made)
    backend = registry.create("backends", tools.backend)
    session = backend.open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions(threads=1))
    graph = Graph(StageGraph((made.spec,), MODEL.modalities), {"mean": session})
    values = np.random.default_rng(5).standard_normal((STEPS, 1, 4)).astype(np.float32)
    state = graph.initial_state()
    for number in range(STEPS):
        results, state = graph.step({"sensor.values": values[number]}, ("sensor",), state)
        expected = torch.from_numpy(values[: number + 1]).mean(dim=0).numpy()
        assert np.allclose(results["mean"].astype(np.float32), expected, atol=1e-5)
    assert state["~mean.count"].tolist() == [[STEPS]]
