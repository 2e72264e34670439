"""What OpenVINO's backend promises beyond what all backends do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from edgefuse.bundle.manifest import Binding, Manifest
from edgefuse.errors import BackendError
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import Array, SessionOptions
from edgefuse.runtime.backends.openvino.backend import OpenvinoBackend
from edgefuse.runtime.backends.openvino.session import OpenvinoSession, core, opened, read
from edgefuse.runtime.processor import Processor, available_processors

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'


def binding(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Binding:
    return Binding(port=name, tensor=name, dtype=dtype, shape=shape)  # type: ignore[arg-type]


def graph(text: str) -> bytes:
    data: bytes = onnx.parser.parse_model(f"{HEAD}\n{text}").SerializeToString()
    return data


def session_of(text: str, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]) -> OpenvinoSession:
    return opened(read(graph(text)), inputs, outputs, SessionOptions())


def test_float_means_float32_and_nothing_is_cached_on_disk() -> None:
    x = (binding("x", (1, 4)),)
    session = session_of("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", x, (binding("y", (1, 4)),))
    assert str(session.compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert session.compiled.get_property("ENABLE_CPU_PINNING") is False
    assert core().get_property("CPU", "CACHE_DIR") == ""


def test_the_caller_keeps_its_denormal_numbers() -> None:
    x = (binding("x", (1, 4)),)
    session = session_of("g (float[1,4] x) => (float[1,4] y) { y = Add(x, x) }", x, (binding("y", (1, 4)),))
    session.run({"x": np.ones((1, 4), np.float32)})
    tiny = np.array([1e-310])
    assert (tiny * 0.5)[0] > 0.0


def test_an_open_size_may_change_from_call_to_call() -> None:
    session = session_of(
        "g (float[1,n] x) => (float[1,n] y) { y = Add(x, x) }", (binding("x", (1, -1)),), (binding("y", (1, -1)),)
    )
    results = [session.run({"x": np.arange(n, dtype=np.float32)[None]})["y"] for n in (5, 1, 7, 5)]
    for n, value in zip((5, 1, 7, 5), results, strict=True):
        np.testing.assert_array_equal(value, 2 * np.arange(n, dtype=np.float32)[None])


def test_an_input_that_nothing_reads_is_one_all_the_same() -> None:
    """As `present` of a fusion that does not look at it: OpenVINO itself leaves it out."""
    bindings = binding("x", (1, -1)), binding("present", (1, 2), "int32")
    session = session_of(
        "g (float[1,n] x, int32[1,2] present) => (float[1,n] y) { y = Add(x, x) }", bindings, (binding("y", (1, -1)),)
    )
    found = session.run({"x": np.ones((1, 3), np.float32), "present": np.ones((1, 2), np.int32)})
    np.testing.assert_array_equal(found["y"], np.full((1, 3), 2, np.float32))


def test_an_input_that_is_an_output_too_is_a_copy() -> None:
    x = np.ones((1, 4), np.float32)
    session = session_of(
        "g (float[1,4] x) => (float[1,4] y) { y = Identity(x) }", (binding("x", (1, 4)),), (binding("y", (1, 4)),)
    )
    first = session.run({"x": x})["y"]
    session.run({"x": 2 * x})
    np.testing.assert_array_equal(first, x)


def test_nothing_but_onnx_is_opened() -> None:
    """OpenVINO takes its own XML wherever it takes bytes, which no check of a bundle has seen."""
    xml = b"<?xml version='1.0'?><net name='m' version='11'><layers></layers><edges></edges></net>"
    with pytest.raises(BackendError, match="got RuntimeError: Error during import of ONNX model"):
        OpenvinoBackend().open(xml, (), (), SessionOptions())


def test_an_error_says_what_is_wrong_and_not_where_in_openvino() -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { y = Nonsense<a = 1>(x) }"
    with pytest.raises(BackendError) as caught:
        session_of(text, (binding("x", (1, 4)),), (binding("y", (1, 4)),))
    said = "OpenVINO cannot open a stage file: got OpConversionFailure: FrontEnd API failed with OpConversionFailure: "
    assert str(caught.value).startswith(said)
    assert "Exception from" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("threads", range(1, min(2, available_processors()) + 1))
def test_a_run_that_fails_is_one_sentence_and_never_the_last_answer(threads: int) -> None:
    """With a stream of one thread OpenVINO 2026.4 would answer as it did before."""
    data = graph("g (float[n,4] x, float[m,4] z) => (float[k,4] y) { y = Add(x, z) }")
    ports = (binding("x", (-1, 4)), binding("z", (-1, 4)))
    session = opened(read(data), ports, (binding("y", (-1, 4)),), SessionOptions(threads=threads))
    two, three = (np.ones((n, 4), np.float32) for n in (2, 3))
    session.run({"x": two, "z": two})
    with pytest.raises(BackendError, match=r"OpenVINO cannot run a stage: got .*mismatch") as caught:
        session.run({"x": two, "z": three})
    assert "Exception from" not in str(caught.value)
    np.testing.assert_array_equal(session.run({"x": three, "z": three})["y"], 2 * three)


def test_one_thread_is_the_callers_own() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("this system does not list threads")
    before = {path.name for path in tasks.iterdir()}
    x = (binding("x", (1, 4)),)
    session = session_of("g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }", x, (binding("y", (1, 4)),))
    session.run({"x": np.ones((1, 4), np.float32)})
    assert {path.name for path in tasks.iterdir()} <= before


def test_two_sessions_give_the_same_bits(tiny_files: Mapping[str, bytes], tiny_manifest: Manifest) -> None:
    candidate = tiny_manifest.candidate("image_encoder.float")
    feeds: dict[str, Array] = {
        b.port: np.random.default_rng(0).normal(size=b.shape).astype(b.dtype) for b in candidate.inputs
    }
    backend = create("backends", "openvino")
    first, second = (
        backend.open(tiny_files[candidate.id], candidate.inputs, candidate.outputs, SessionOptions()).run(feeds)
        for _ in range(2)
    )
    assert {name: value.tobytes() for name, value in first.items()} == {n: v.tobytes() for n, v in second.items()}


def test_placement_counts_what_runs(tiny_files: Mapping[str, bytes], tiny_manifest: Manifest) -> None:
    candidate = tiny_manifest.candidate("image_encoder.float")
    feeds: dict[str, Array] = {b.port: np.zeros(b.shape, b.dtype) for b in candidate.inputs}
    arguments = (tiny_files[candidate.id], candidate.inputs, candidate.outputs, feeds, SessionOptions())
    ours, theirs = (create("backends", name).operators(*arguments) for name in ("openvino", "onnx"))
    assert sum(operator.macs for operator in ours) == sum(operator.macs for operator in theirs) > 0
    assert not any(operator.elsewhere for operator in ours)


def test_placement_names_what_stayed_float() -> None:
    """Weights in int8 whose activations are not: OpenVINO multiplies them in float."""
    weights = ", ".join(["1"] * 4096)
    text = f"""g (float[2,64] x) => (float[2,64] y)
        <int8[64,64] w = {{{weights}}}, float s = {{0.5}}, int8 z = {{0}}> {{
        f = DequantizeLinear(w, s, z)
        y = MatMul(x, f)
    }}"""
    inputs, outputs = (binding("x", (2, 64)),), (binding("y", (2, 64)),)
    feeds: dict[str, Array] = {"x": np.ones((2, 64), np.float32)}
    operators = OpenvinoBackend().operators(graph(text), inputs, outputs, feeds, SessionOptions())
    assert [(o.macs, o.elsewhere) for o in operators if o.macs] == [(2 * 64 * 64, "float after DequantizeLinear")]


@pytest.mark.parametrize(
    ("scheme", "features", "clipped"),
    [
        ("static_wi8_ai8.s8", ("avx2",), True),
        ("nncf_wi8_ai8", ("avx2",), True),
        ("static_wi8_ai8.u8", ("avx2", "avx512_vnni"), False),
        ("static_wi8_ai8.u8", None, False),
        ("fp16", ("avx2",), False),
        ("float", ("avx2",), False),
    ],
)
def test_int8_is_clipped_without_vnni(scheme: str, features: tuple[str, ...] | None, clipped: bool) -> None:
    cpu = Processor("a CPU", "x86_64", 2, 2, features)
    assert OpenvinoBackend().saturates(scheme, cpu) == clipped


@pytest.mark.parametrize(
    "operator", ["GatherND(x, i)", "ScatterElements<axis = 0>(x, i, u)", "GatherND<batch_dims = 1>(x, j)"]
)
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_an_index_that_points_nowhere_ends_no_process(operator: str, kind: str) -> None:
    shape = {"G": (1,), "S": (4, 3)}[operator[0]] if "batch" not in operator else (4,)
    cast = "i = Cast<to = 7>(k)" if kind == "int64" else "i = Identity(k)"
    text = f"""g (float[4,3] x, int32[1,2] k, float[1,2] u) => (float[{",".join(map(str, shape))}] y)
        <float[1] zero = {{0}}, int64[2] turned = {{2, 1}}, int64[2] many = {{2, 1}}> {{
            {cast}
            m = Reshape(i, turned)
            j = Concat<axis = 0>(m, m)
            z = {operator}
            s = ReduceSum<keepdims = 0>(u)
            n = Mul(s, zero)
            y = Add(z, n)
        }}"""
    inputs = binding("x", (4, 3)), binding("k", (1, 2), "int32"), binding("u", (1, 2))
    session = session_of(text, inputs, (binding("y", shape),))
    x, u = np.arange(12, dtype=np.float32).reshape(4, 3), np.full((1, 2), -1, np.float32)
    answers = [
        session.run({"x": x, "k": np.array([[place, 1]], np.int32), "u": u})["y"].tolist()
        for place in (1, -2, 10**9, -(10**9), 2 - 2**31)
    ]
    if operator.startswith("S"):
        assert [np.argwhere(np.array(each) == -1).tolist()[0][0] for each in answers] == [1, 1, 1, 0, 0]
    else:
        assert len(answers) == 5
        assert np.isfinite(answers).all()
        assert answers[3:] == [answers[3]] * 2


def test_indices_within_bounds_stay_what_they_are() -> None:
    text = """g (float[4,3] x, int32[2,2] k) => (float[2] y) { y = GatherND(x, k) }"""
    session = session_of(text, (binding("x", (4, 3)), binding("k", (2, 2), "int32")), (binding("y", (2,)),))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for indices in ([[0, 0], [3, 2]], [[-4, -3], [-1, -1]]):
        assert session.run({"x": x, "k": np.array(indices, np.int32)})["y"].tolist() == [0, 11]
