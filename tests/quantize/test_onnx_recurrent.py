"""LSTMs in int8 with ONNX Runtime; other recurrent layers stay float, and that is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.stages.stage import TorchStage

Floats = npt.NDArray[np.float32]
STEPS, WIDTH, HIDDEN = 12, 10, 32
DYNAMIC = Scheme(name="dynamic_wi8_af32")


class Both(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(WIDTH, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


def lowered(kind: Callable[..., nn.Module], model: Callable[..., nn.Module] = Both) -> Lowered:
    torch.manual_seed(0)
    source = Source(kind="modality", owner="sound", tensor="x")
    spec = StageSpec(
        name="ears",
        role="encoder",
        inputs=(StageInput(tensor=TensorSpec(name="x", dtype="float32", shape=(1, STEPS, WIDTH)), source=source),),
        outputs=(StageOutput(tensor=TensorSpec(name="y", shape=(1, STEPS, 2 * HIDDEN))),),
    )
    return OnnxTarget().lower(TorchStage(spec, model(kind).eval()))


def run(file: Lowered, x: Floats) -> Floats:
    session = OnnxBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    return session.run({"x": x})["y"].astype(np.float32)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_lstms_get_int8_weights_and_stay_close(granularity: str) -> None:
    file, scheme = lowered(nn.LSTM), Scheme(name="dynamic_wi8_af32", granularity=granularity)  # type: ignore[arg-type]
    small = OnnxQuantizer().apply(file, scheme, lambda: iter(()))
    nodes = [node for node in onnx.load_from_string(small.data).graph.node if "LSTM" in node.op_type]
    assert [(node.domain, node.op_type) for node in nodes] == [("com.microsoft", "DynamicQuantizeLSTM")] * 2
    assert len(small.data) < 0.4 * len(file.data)
    x = np.random.default_rng(0).standard_normal((1, STEPS, WIDTH), np.float32)
    np.testing.assert_allclose(run(small, x), run(file, x), atol=0.03)
    assert OnnxQuantizer().layers(file, scheme) == tuple(node.name for node in nodes)


def test_an_excluded_lstm_stays_float() -> None:
    file, scheme = lowered(nn.LSTM), Scheme(name="dynamic_wi8_af32", exclude=("LSTM",))
    assert OnnxQuantizer().layers(file, scheme) == ()


def test_a_gru_stays_float() -> None:
    file = lowered(nn.GRU)
    assert OnnxQuantizer().layers(file, DYNAMIC) == ()
    with pytest.raises(QuantizeError, match="finds nothing to quantize"):
        OnnxQuantizer().apply(file, DYNAMIC, lambda: iter(()))


class Headed(Both):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__(kind)
        self.head = nn.Linear(2 * HIDDEN, 2 * HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(super().forward(x))
        return y


def test_a_gru_beside_what_is_quantized_is_stored_in_half_precision() -> None:
    file = lowered(nn.GRU, Headed)
    small = OnnxQuantizer().apply(file, DYNAMIC, lambda: iter(()))
    assert len(small.data) < 0.55 * len(file.data)
    x = np.random.default_rng(0).standard_normal((1, STEPS, WIDTH), np.float32)
    np.testing.assert_allclose(run(small, x), run(file, x), atol=0.03)
