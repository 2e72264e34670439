"""Lowering to LiteRT: results, names, bytes and errors of real, tiny stages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from torch import Tensor, nn

from edgefuse.bundle.spec import Bounded, DType, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.bundle.tflite import refuse_unsafe_tflite
from edgefuse.errors import ExportError
from edgefuse.export.target import Lowered
from edgefuse.export.tflite.file import unpack
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.models.digits.layers import ConvNormAct, InvertedResidual, TransformerBlock
from edgefuse.runtime.backends.backend import Array, SessionOptions
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from edgefuse.stages.stage import TorchStage

Port = tuple[str, DType, tuple[int | Bounded, ...]]


def make_stage(
    module: nn.Module, inputs: list[Port], outputs: list[tuple[str, tuple[int | Bounded, ...]]]
) -> TorchStage:
    spec = StageSpec(
        name="small_encoder",
        role="encoder",
        inputs=tuple(
            StageInput(
                tensor=TensorSpec(name=name, dtype=dtype, shape=shape),
                source=Source(kind="length", owner="own")
                if name == "length"
                else Source(kind="modality", owner="own", tensor=name),
            )
            for name, dtype, shape in inputs
        ),
        outputs=tuple(StageOutput(tensor=TensorSpec(name=name, shape=shape)) for name, shape in outputs),
    )
    return TorchStage(spec, module.eval())


class Picture(nn.Module):
    """A network for images whose feature has the name of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNormAct(1, 8, 3, 2), InvertedResidual(8, 8, 2, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return y


class Words(nn.Module):
    """A transformer over ids with a length, and a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.block = TransformerBlock(16, 2, 32)

    def forward(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        valid = (torch.arange(ids.shape[1], dtype=torch.int32) < length.unsqueeze(1)).to(torch.float32)
        x = self.block(self.embedding(ids), (1.0 - valid)[:, None, None] * -1e4)
        return (x * valid.unsqueeze(2)).sum(dim=1), x


def picture() -> TorchStage:
    torch.manual_seed(0)
    return make_stage(Picture(), [("feature", "float32", (1, 1, 16, 16))], [("feature", (1, 4))])


def words() -> TorchStage:
    torch.manual_seed(0)
    ports: list[Port] = [("ids", "int32", (1, Bounded(max=6))), ("length", "int32", (1,))]
    return make_stage(Words(), ports, [("sum", (1, 16)), ("states", (1, Bounded(max=6), 16))])


@pytest.fixture(scope="module")
def lowered() -> dict[str, Lowered]:
    return {make.__name__: TfliteTarget().lower(make()) for make in (picture, words)}


@pytest.mark.parametrize("make", [picture, words])
def test_a_file_agrees_with_torch(make: Callable[[], TorchStage], lowered: dict[str, Lowered]) -> None:
    stage, file = make(), lowered[make.__name__]
    values = np.random.default_rng(1)
    feeds: dict[str, Array] = {
        "feature": values.standard_normal((1, 1, 16, 16), np.float32),
        "ids": values.integers(0, 12, (1, 6)).astype(np.int32),
        "length": np.array([4], np.int32),
    }
    feeds = {port.tensor.name: feeds[port.tensor.name] for port in stage.spec.inputs}
    session = TfliteBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    got = session.run(feeds)
    with torch.no_grad():
        expected = stage.module(*(torch.from_numpy(feed) for feed in feeds.values()))
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert list(got) == [port.tensor.name for port in stage.spec.outputs]
    for value, reference in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), reference, atol=1e-5, rtol=1e-5)


def test_ports_keep_their_names_types_and_largest_shapes(lowered: dict[str, Lowered]) -> None:
    file = lowered["words"]
    assert [(b.port, b.tensor, b.dtype, b.shape) for b in file.inputs] == [
        ("ids", "ids", "int32", (1, 6)),
        ("length", "length", "int32", (1,)),
    ]
    assert [(b.port, b.shape) for b in file.outputs] == [("sum", (1, 16)), ("states", (1, 6, 16))]


def test_tensor_names_are_unique_and_tell_nothing_of_the_source(lowered: dict[str, Lowered]) -> None:
    for file in lowered.values():
        names = [tensor.name.decode() for tensor in unpack(file.data).subgraphs[0].tensors]
        assert len(set(names)) == len(names)
        for secret in (b"edgefuse", b"InvertedResidual", b"TransformerBlock", b".py", b"torch.nn"):
            assert secret not in file.data


def test_constants_are_aligned_for_vector_instructions(lowered: dict[str, Lowered]) -> None:
    data = lowered["picture"].data
    weights = [buffer.data.tobytes() for buffer in unpack(data).buffers if buffer.data is not None]
    distinct = [value for value in weights if len(value) > 16 and value[0] and data.count(value) == 1]
    assert len(distinct) > 4
    assert [data.index(value) % 16 for value in distinct] == [0] * len(distinct)


def test_the_same_stage_gives_the_same_bytes(lowered: dict[str, Lowered]) -> None:
    assert TfliteTarget().lower(picture()).data == lowered["picture"].data


def test_an_image_network_stays_channels_last(lowered: dict[str, Lowered]) -> None:
    model = unpack(lowered["picture"].data)
    kinds = [flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) for op in model.subgraphs[0].operators]
    convolutions = [place for place, kind in enumerate(kinds) if "CONV_2D" in str(kind)]
    assert len(convolutions) == 4
    assert "TRANSPOSE" not in kinds[: convolutions[-1]]
    assert "MUL" not in kinds  # batch norms are folded


def test_lowering_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    TfliteTarget().lower(make_stage(nn.ReLU(), [("x", "float32", (1, 3))], [("y", (1, 3))]))
    assert capfd.readouterr() == ("", "")


def test_importing_the_target_does_not_import_the_converter() -> None:
    code = "import sys, edgefuse.export.tflite.target as t; t.TfliteTarget(); sys.exit('litert_torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(x)
        return values


def test_unsupported_operators_are_named() -> None:
    stage = make_stage(Eigen(), [("x", "float32", (1, 3, 3))], [("y", (1, 3))])
    named = r"aten\._linalg_eigh\.default in 'Eigen' at 'test_tflite\.py:\d+: .*eigvalsh\(x\)'"
    with pytest.raises(ExportError, match=rf"cannot lower the stage 'small_encoder': got {named}.*Fix: "):
        TfliteTarget().lower(stage)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


def test_a_module_that_cannot_be_traced_gives_one_sentence() -> None:
    stage = make_stage(Branch(), [("x", "float32", (1, 3))], [("y", (1, 3))])
    with pytest.raises(ExportError, match=r"torch\.export cannot trace the stage 'small_encoder'.*Fix: "):
        TfliteTarget().lower(stage)


def test_versions_name_the_tools_that_decide_the_bytes() -> None:
    assert set(TfliteTarget().versions()) == {"torch", "litert-torch", "litert-converter", "ai-edge-litert"}


def test_a_scaled_single_value_keeps_a_bias_of_one_dimension() -> None:
    class Millimetres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = 3000 * self.layer(x)  # which the converter folds into the layer
            return y

    stage = make_stage(Millimetres(), [("x", "float32", (1, 8))], [("y", (1, 1))])
    lowered = TfliteTarget().lower(stage)
    graph = unpack(lowered.data).subgraphs[0]
    (dense,) = graph.operators
    assert [list(graph.tensors[index].shape) for index in dense.inputs] == [[1, 8], [1, 8], [1]]
    refuse_unsafe_tflite("stage.tflite", lowered.data)
