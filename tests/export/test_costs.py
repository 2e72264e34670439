"""What a file costs, against torch's own count and against figures worked out by hand."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import Bounded, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import ExportError
from edgefuse.export.cost_graph import CostGraph, Operation
from edgefuse.export.costs import costs, graph
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered, Target
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.stages.stage import TorchStage


class Everything(nn.Module):
    """Holds each kind of product once: convolutions (one of them depthwise), a linear layer, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.deep(torch.relu(self.wide(x)))).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(y).split(8, dim=2)
        attended: Tensor = torch.softmax(query @ key.transpose(1, 2), dim=2) @ value
        return attended


def stage() -> TorchStage:
    picture, feature = TensorSpec(name="picture", shape=(1, 1, 12, 12)), TensorSpec(name="feature", shape=(1, 36, 8))
    return TorchStage(
        StageSpec(
            name="encoder",
            role="encoder",
            inputs=(StageInput(tensor=picture, source=Source(kind="modality", owner="image", tensor="picture")),),
            outputs=(StageOutput(tensor=feature),),
        ),
        Everything().eval(),
    )


def lowered(text: str) -> Lowered:
    """Return an ONNX file written as text; the dimensions of its inputs that have a name are open."""
    model = onnx.parser.parse_model(text)
    inputs = tuple(
        Binding(
            port=value.name,
            tensor=value.name,
            dtype="float32",
            shape=tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim),
        )
        for value in model.graph.input
    )
    return Lowered(model.SerializeToString(), inputs, (), "20")


HEADER = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'


@pytest.mark.parametrize("target", [OnnxTarget(), TfliteTarget()], ids=["onnx", "tflite"])
def test_products_are_those_that_torch_counts(target: Target) -> None:
    wanted = stage()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        wanted.module(torch.zeros(1, 1, 12, 12))
    found = costs(target.lower(wanted), target.name, wanted.spec)
    assert found.uncounted == ()
    assert found.mac == counter.get_total_flops() // 2 == 36 * (9 * 8 + 9 * 8 + 8 * 24 + 2 * 36 * 8)
    assert found.weight_bytes >= 4 * sum(parameter.numel() for parameter in wanted.module.parameters())
    # The two largest neighbours: what qkv gives and its parts.
    assert 4 * 36 * 24 <= found.activation_bytes <= 4 * (2 * 36 * 24 + 36 * 8 + 36 * 36)


def test_bytes_are_counted_once_per_read_and_write() -> None:
    text = f"""{HEADER} g (float[1, 4] x) => (float[1, 8] y)
        <float[4, 8] w = {{{", ".join(["1"] * 32)}}}> {{ p = MatMul (x, w)  y = Softmax (p) }}"""
    found = costs(lowered(text), "onnx")
    assert found.mac == 32
    assert found.weight_bytes == 4 * 32
    assert found.bytes_moved == 4 * (4 + 32 + 8) + 4 * (8 + 8)
    assert found.activation_bytes == 4 * (8 + 8)


def test_what_a_runtime_fuses_costs_nothing_of_its_own() -> None:
    weights = f"<float[4, 8] w = {{{', '.join(['1'] * 32)}}}, float[8] b = {{0, 0, 0, 0, 0, 0, 0, 0}}>"
    plain = f"{HEADER} g (float[1, 4] x) => (float[1, 8] y) {weights} {{ y = MatMul (x, w) }}"
    fused = (
        f"{HEADER} g (float[1, 4] x) => (float[1, 8] y) {weights} {{ p = MatMul (x, w) q = Add (p, b) y = Relu (q) }}"
    )
    assert costs(lowered(fused), "onnx").bytes_moved == costs(lowered(plain), "onnx").bytes_moved + 4 * 8


def test_quantized_values_count_with_one_byte() -> None:
    text = f"""{HEADER} g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float s = {{0.1}}, uint8 z = {{0}}, int8[2, 1, 1, 1] w = {{1, 2}}, int8 o = {{0}}> {{
        a = QuantizeLinear (x, s, z)  b = DequantizeLinear (a, s, z)  v = DequantizeLinear (w, s, o)
        c = Conv (b, v)  d = Relu (c)  e = QuantizeLinear (d, s, z)  y = DequantizeLinear (e, s, z) }}"""
    found = costs(lowered(text), "onnx")
    assert found.mac == 2 * 16
    scale_and_zero = 4 + 1
    assert found.bytes_moved == (4 * 16 + 16 + scale_and_zero) + (16 + 2 + 2 * 16 + scale_and_zero)
    read = graph(lowered(text), "onnx")
    assert [(operation.kind, operation.integer) for operation in read.operations] == [
        ("QuantizeLinear", False),
        ("Conv", True),
    ]


def test_a_dynamic_product_and_its_scaling_are_one_operation() -> None:
    text = f"""{HEADER} g (float[1, 4] x) => (float[1, 8] y)
        <int8[4, 8] w = {{{", ".join(["1"] * 32)}}}, float[8] s = {{1, 1, 1, 1, 1, 1, 1, 1}}> {{
        q, a, z = DynamicQuantizeLinear (x)  p = MatMulInteger (q, w, z)  f = Cast <to: int = 1> (p)
        b = Mul (a, s)  y = Mul (f, b) }}"""
    read = graph(lowered(text), "onnx")
    product = next(operation for operation in read.operations if operation.kind == "MatMulInteger")
    assert (product.mac, product.integer) == (32, True)
    assert product.writes == ("y",)
    assert [operation.kind for operation in read.operations] == ["DynamicQuantizeLinear", "MatMulInteger", "Mul"]


def test_of_a_table_only_the_rows_looked_up_are_read() -> None:
    text = f"""{HEADER} g (int64[1, 2] ids) => (float[1, 2, 4] y)
        <float[8, 4] table = {{{", ".join(["1"] * 32)}}}> {{ y = Gather (table, ids) }}"""
    assert costs(lowered(text), "onnx").bytes_moved == 2 * 8 + 2 * (2 * 4 * 4)


@pytest.mark.parametrize(
    ("shape", "body", "mac"),
    [
        ("m, n", "y = com.microsoft.FusedMatMul <transA: int = 1> (x, x)", 6 * 6 * 5),
        ("m, n", "y = com.microsoft.DynamicQuantizeMatMul (x, w8, s)", 5 * 6 * 8),
        ("m, n", "y = com.microsoft.MatMulNBits <K: int = 6, N: int = 8, block_size: int = 16> (x, n4, s)", 240),
        ("m, n", "t = com.microsoft.FastGelu (x)  y = MatMul (t, w)", 5 * 6 * 8),
        ("m, n, o, p", "u = Unsqueeze (x, axis)  y, h, c = LSTM <hidden_size: int = 2> (u, W, R)", 5 * (8 * 6 + 8 * 2)),
    ],
)
def test_operators_of_the_runtime_are_counted(shape: str, body: str, mac: int) -> None:
    def constant(name: str, shape: str, count: int, kind: str = "float") -> str:
        return f"{kind}[{shape}] {name} = {{{', '.join(['1'] * count)}}}"

    constants = ", ".join(
        (
            constant("w", "6, 8", 48),
            constant("w8", "6, 8", 48, "int8"),
            constant("s", "8", 8),
            constant("n4", "8, 1, 8", 64, "uint8"),
            constant("W", "1, 8, 6", 48),
            constant("R", "1, 8, 2", 16),
            "int64[1] axis = {1}",
        )
    )
    found = costs(lowered(f"{HEADER} g (float[5, 6] x) => (float[{shape}] y) <{constants}> {{ {body} }}"), "onnx")
    assert found.mac == mac
    assert found.uncounted == ()


@pytest.mark.parametrize(("bound", "rows"), [(50, 50), (None, 1)])
def test_an_open_dimension_counts_with_its_bound(bound: int | None, rows: int) -> None:
    text = f"""{HEADER} g (float[1, n, 4] x) => (float[1, n, 8] y)
        <float[4, 8] w = {{{", ".join(["1"] * 32)}}}> {{ y = MatMul (x, w) }}"""
    frames = TensorSpec(name="x", shape=(1, Bounded(max=bound or 1), 4))
    port = StageInput(tensor=frames, source=Source(kind="modality", owner="audio", tensor="x"))
    spec = StageSpec(name="encoder", role="encoder", inputs=(port,), outputs=())
    assert costs(lowered(text), "onnx", spec if bound else None).mac == rows * 32


def test_shapes_worked_out_in_the_graph_follow_from_the_bound() -> None:
    """A mask by length: the steps are counted from the input's own shape."""
    text = f"""{HEADER} g (float[1, n, 4] x, int64[1] length) => (float[1, n, 4] y)
        <int64[1] axes = {{0}}, int64 zero = {{0}}, int64 one = {{1}}, int64[1] last = {{1}}> {{
        s = Shape <start: int = 1, end: int = 2> (x)  n0 = Squeeze (s, axes)  r = Range (zero, n0, one)
        m = Less (r, length)  f = Cast <to: int = 1> (m)  u = Unsqueeze (f, last)  y = Mul (x, u) }}"""
    frames = TensorSpec(name="x", shape=(1, Bounded(max=50), 4))
    port = StageInput(tensor=frames, source=Source(kind="modality", owner="audio", tensor="x"))
    found = costs(lowered(text), "onnx", StageSpec(name="encoder", role="encoder", inputs=(port,), outputs=()))
    assert found.uncounted == ()
    assert found.weight_bytes == 4 * 8
    assert found.activation_bytes >= 2 * 4 * 50 * 4


def test_what_cannot_be_counted_is_named() -> None:
    text = f"""{HEADER} g (float[4] x) => (float[n] y) {{ i = NonZero (x)  y = Gather (x, i) }}"""
    assert costs(lowered(text), "onnx").uncounted == ("NonZero", "Gather")


def test_the_peak_is_over_all_that_is_alive() -> None:
    """`a` must live on beside `b` and `c` until it is added."""
    chain = CostGraph(
        sizes={"x": 10, "a": 20, "b": 30, "c": 5, "y": 20, "w": 1000},
        constants=frozenset({"w"}),
        inputs=("x",),
        outputs=("y",),
        operations=(
            Operation("Conv", "1", ("x", "w"), ("a",)),
            Operation("Conv", "2", ("a", "w"), ("b",)),
            Operation("Conv", "3", ("b", "w"), ("c",)),
            Operation("Add", "4", ("a", "c"), ("y",)),
        ),
        weight_bytes=1000,
    )
    assert chain.peak_activation_bytes == 20 + 30 + 5


def test_a_target_without_files_is_refused() -> None:
    with pytest.raises(ExportError, match="unknown target 'paper': expected onnx or "):
        costs(Lowered(b"", (), (), ""), "paper")
