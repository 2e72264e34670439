"""Recurrent layers in LiteRT as loops: results against torch, bytes, state, size, errors."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Bounded, DType, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import ExportError
from edgefuse.export.costs import costs
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.export.tflite import costs as costs_tflite
from edgefuse.export.tflite import recurrent as tflite_recurrent
from edgefuse.export.tflite.file import unpack
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.quantize.tflite.quantizer import TfliteQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from edgefuse.stages.stage import TorchStage

STEPS, WIDTH, HIDDEN = 7, 6, 8
Floats = npt.NDArray[np.float32]
Ports = dict[str, tuple[DType, tuple[int | Bounded, ...]]]


def stage_of(module: nn.Module, inputs: Ports, outputs: dict[str, tuple[int, ...]]) -> TorchStage:
    def source(name: str) -> Source:
        if name == "length":
            return Source(kind="length", owner="sound")
        return Source(kind="modality", owner="sound", tensor=name)

    spec = StageSpec(
        name="ears",
        role="encoder",
        inputs=tuple(
            StageInput(tensor=TensorSpec(name=name, dtype=dtype, shape=shape), source=source(name))
            for name, (dtype, shape) in inputs.items()
        ),
        outputs=tuple(StageOutput(tensor=TensorSpec(name=name, shape=shape)) for name, shape in outputs.items()),
    )
    return TorchStage(spec, module.eval())


def opened(file: Lowered) -> Callable[..., dict[str, Floats]]:
    session = TfliteBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    return lambda **feeds: {name: value.astype(np.float32) for name, value in session.run(feeds).items()}


def kinds(file: Lowered, graph: int = 0) -> Counter[str]:
    model = unpack(file.data)
    return Counter(
        str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))
        for operator in model.subgraphs[graph].operators
    )


class All(nn.Module):
    """Gives everything that a recurrent layer gives, and takes initial states if there are any."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = (states if len(states) > 1 else states[0]) if states else None
        y, last = self.layer(x, given)
        return (y, *last) if isinstance(last, tuple) else (y, last)


CASES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], int, bool]] = {
    # layer, options, batch, initial states given
    "lstm": (nn.LSTM, {}, 1, False),
    "lstm two layers, both ways, batch first, states": (
        nn.LSTM,
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        3,
        True,
    ),
    "lstm without biases": (nn.LSTM, {"bias": False}, 2, False),
    "gru": (nn.GRU, {"batch_first": True}, 1, False),
    "gru two layers, both ways, states": (nn.GRU, {"num_layers": 2, "bidirectional": True}, 2, True),
    "gru without biases": (nn.GRU, {"bias": False}, 1, False),
    "rnn": (nn.RNN, {"bidirectional": True}, 1, True),
    "rnn with relu": (nn.RNN, {"nonlinearity": "relu"}, 2, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loop_gives_what_torch_gives(name: str) -> None:
    kind, options, batch, given = CASES[name]
    torch.manual_seed(0)
    module = All(kind(WIDTH, HIDDEN, **options))
    directions = 2 if options.get("bidirectional") else 1
    state = (directions * options.get("num_layers", 1), batch, HIDDEN)
    sequence = (batch, STEPS) if options.get("batch_first") else (STEPS, batch)
    names = ["h", "c"] if kind is nn.LSTM else ["h"]
    inputs: Ports = {"x": ("float32", (*sequence, WIDTH))}
    inputs |= {f"{name}0": ("float32", state) for name in names} if given else {}
    outputs = {"y": (*sequence, HIDDEN * directions)} | dict.fromkeys(names, state)
    file = TfliteTarget().lower(stage_of(module, inputs, outputs))
    assert kinds(file)["WHILE"] == state[0]
    random = np.random.default_rng(0)
    feeds = {port: random.standard_normal(shape, np.float32) for port, (_, shape) in inputs.items()}  # type: ignore[arg-type]
    with torch.no_grad():
        expected = module(*map(torch.from_numpy, feeds.values()))
    for got, wanted in zip(opened(file)(**feeds).values(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


class Ears(nn.Module):
    """A convolution, a recurrent layer, one that runs both ways, and a score per step."""

    def __init__(self, kind: Callable[..., nn.Module] = nn.LSTM, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.stem = nn.Conv1d(width, width, 3, padding=1)
        self.first = kind(width, hidden, batch_first=True)
        self.second = kind(hidden, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.second(self.first(self.stem(x).transpose(1, 2))[0])[0])
        return y


def ears(steps: int = 20, width: int = WIDTH, hidden: int = HIDDEN) -> TorchStage:
    torch.manual_seed(0)
    shapes: Ports = {"x": ("float32", (1, width, steps))}
    return stage_of(Ears(nn.LSTM, width, hidden), shapes, {"y": (1, steps, 3)})


@pytest.fixture(scope="module")
def file() -> Lowered:
    return TfliteTarget().lower(ears(hidden=32))


def samples(count: int, steps: int = 20, width: int = WIDTH) -> Floats:
    return np.random.default_rng(1).standard_normal((count, 1, width, steps), np.float32)


def test_fifty_inputs_in_a_row_leak_no_state(file: Lowered) -> None:
    run, module = opened(file), ears(hidden=32).module
    inputs = samples(50)
    with torch.no_grad():
        expected = [module(torch.from_numpy(x)) for x in inputs]
    for x, wanted in zip(inputs, expected, strict=True):
        np.testing.assert_allclose(run(x=x)["y"], wanted, atol=1e-5)
    again = run(x=inputs[0])["y"]
    np.testing.assert_array_equal(again, opened(file)(x=inputs[0])["y"])


def test_the_same_stage_gives_the_same_bytes(file: Lowered) -> None:
    assert TfliteTarget().lower(ears(hidden=32)).data == file.data


def test_names_are_unique_in_all_graphs_and_constants_are_stored_once(file: Lowered) -> None:
    model = unpack(file.data)
    names = [tensor.name for graph in model.subgraphs for tensor in graph.tensors]
    assert len(set(names)) == len(names)
    assert [graph.name for graph in model.subgraphs[:3]] == [b"main", b"loop_0_condition", b"loop_0"]
    weights = sum(parameter.numel() for parameter in ears(hidden=32).module.parameters()) * 4
    # Two biases of each gate became one; dozens of operators take 10 kB.
    assert len(file.data) < weights + 15_000
    assert kinds(file)["CUSTOM"] == 0
    used = {int(i) for operator in model.subgraphs[0].operators for i in (*operator.inputs, *operator.outputs)}
    assert used == set(range(len(model.subgraphs[0].tensors)))


@pytest.mark.slow
def test_150_steps_of_a_real_size_are_a_small_file_equal_to_torch() -> None:
    stage = ears(150, 40, 128)
    file = TfliteTarget().lower(stage)
    weights = sum(parameter.numel() for parameter in stage.module.parameters()) * 4
    assert len(file.data) <= 1.3 * weights
    run = opened(file)
    for x in samples(5, 150, 40):
        with torch.no_grad():
            np.testing.assert_allclose(run(x=x)["y"], stage.module(torch.from_numpy(x)), atol=1e-4)


def test_products_in_loops_get_int8_weights_and_stay_close(file: Lowered) -> None:
    quantizer, inputs = TfliteQuantizer(), samples(8)
    expected = [opened(file)(x=x)["y"] for x in inputs]
    for scheme in (
        Scheme(name="dynamic_wi8_af32"),
        Scheme(name="static_wi8_ai8", activation="s8"),
        Scheme(name="dynamic_wi4_af32"),
        Scheme(name="fp16"),
    ):
        small = quantizer.apply(file, scheme, lambda: ({"x": x} for x in inputs))
        assert len(small.data) < len(file.data) * (0.65 if scheme.name == "fp16" else 0.5)
        run = opened(small)
        noise = np.concatenate([(run(x=x)["y"] - y).ravel() for x, y in zip(inputs, expected, strict=True)])
        assert np.abs(noise).max() < (0.3 if "wi4" in scheme.name else 0.05)
    names = quantizer.layers(file, Scheme(name="dynamic_wi8_af32"))
    assert sum(name.startswith("loop_") for name in names) == 3


def test_an_excluded_loop_stays_float(file: Lowered) -> None:
    scheme = Scheme(name="dynamic_wi8_af32", exclude=("loop_*",))
    assert not any(name.startswith("loop_") for name in TfliteQuantizer().layers(file, scheme))
    small = TfliteQuantizer().apply(file, scheme, lambda: iter(()))
    assert len(small.data) < len(file.data)


def test_a_loop_costs_its_body_times_its_steps(file: Lowered) -> None:
    found = costs(file, "tflite")
    steps, hidden = 20, 32
    products = 3 * hidden * 4 * hidden + 4 * hidden * WIDTH + 2 * 4 * hidden * hidden
    assert found.mac == steps * (products + 3 * WIDTH * WIDTH + 2 * hidden * 3)
    assert found.uncounted == ()
    assert found.mac == costs(OnnxTarget().lower(ears(hidden=32)), "onnx").mac
    (loop, *_) = [o for o in costs_tflite.read(file.data, {}).operations if o.kind == "WHILE"]
    assert loop.mac == steps * hidden * 4 * hidden
    small = TfliteQuantizer().apply(file, Scheme(name="dynamic_wi8_af32"), lambda: iter(()))
    assert costs(small, "tflite").mac == found.mac
    assert costs(small, "tflite").bytes_moved < found.bytes_moved


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(WIDTH, HIDDEN, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.layer(pack_padded_sequence(x, torch.tensor([STEPS]), batch_first=True))
        y: Tensor = last[-1]
        return y


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(WIDTH, HIDDEN, batch_first=True)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        steps = length.max().item()
        torch._check(steps >= 1)  # type: ignore[no-untyped-call]
        torch._check(steps <= STEPS)  # type: ignore[no-untyped-call]
        y: Tensor = self.layer(x[:, :steps])[1][-1]
        return y


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Packed(),
            r"the stage 'ears' packs a sequence, which LiteRT cannot: got pack_padded_sequence.*Fix: flip the valid",
        ),
        (
            Cut(),
            r"number of steps depends on the input: got u0 steps, expected a fixed number.*Fix: run the layer over",
        ),
    ],
    ids=["packed", "steps"],
)
def test_what_loops_cannot_do_is_one_sentence(module: nn.Module, message: str) -> None:
    inputs: Ports = {"x": ("float32", (1, STEPS, WIDTH))}
    inputs |= {"length": ("int32", (1,))} if isinstance(module, Cut) else {}
    with pytest.raises(ExportError, match=message):
        TfliteTarget().lower(stage_of(module, inputs, {"y": (1, HIDDEN)}))


def test_another_litert_torch_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ears()
    TfliteTarget().load_tools()
    monkeypatch.delattr(sys.modules["litert_torch.backend.lowerings"], "lower")
    with pytest.raises(ExportError, match=r"cannot hand recurrent layers.*got litert-torch 0\.10.*Fix: install the"):
        TfliteTarget().lower(stage)


def test_the_operator_holds_what_torch_demands_of_operators() -> None:
    states = [torch.zeros(2, HIDDEN), torch.zeros(2, HIDDEN)]
    arguments = ("lstm", torch.randn(STEPS, 2, 4 * HIDDEN), torch.randn(4 * HIDDEN, HIDDEN), None, states, True)
    torch.library.opcheck(tflite_recurrent.OPERATOR, arguments)


class Listener(nn.Module):
    """An encoder whose feature does not depend on padding: how to use a bidirectional layer with lengths.

    One layer reads the sequence as it is; what it says of padding is masked. The other reads it with its valid steps
    flipped to the front (a gather), so that padding comes last there, too, and is flipped back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forwards = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.backwards = nn.LSTM(WIDTH, HIDDEN, batch_first=True)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], dtype=torch.int32).unsqueeze(0)
        valid = (steps < length.unsqueeze(1)).unsqueeze(2)
        flipped = (length.unsqueeze(1) - 1 - steps).clamp(min=0).unsqueeze(2)
        back, _ = self.backwards(x.gather(1, flipped.expand(-1, -1, x.shape[2]).long()))
        back = back.gather(1, flipped.expand(-1, -1, HIDDEN).long())
        y = torch.cat([self.forwards(x)[0], back], dim=2)
        return torch.where(valid, y, torch.zeros_like(y)).sum(dim=1) / length.unsqueeze(1)


def test_a_bidirectional_encoder_need_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    module = Listener().eval()
    ports: Ports = {"x": ("float32", (1, Bounded(max=STEPS), WIDTH)), "length": ("int32", (1,))}
    run = opened(TfliteTarget().lower(stage_of(module, ports, {"y": (1, 2 * HIDDEN)})))
    reference = nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
    own = {**module.forwards.state_dict()} | {f"{key}_reverse": v for key, v in module.backwards.state_dict().items()}
    reference.load_state_dict(own)
    for valid in (1, 4, STEPS):
        x = np.random.default_rng(valid).standard_normal((1, STEPS, WIDTH), np.float32)
        with torch.no_grad():
            expected = reference(torch.from_numpy(x[:, :valid]))[0].mean(dim=1)
        for padding in (0.0, 9.0):
            x[:, valid:] = padding
            got = run(x=x, length=np.array([valid], np.int32))["y"]
            np.testing.assert_allclose(got, expected, atol=1e-5)
