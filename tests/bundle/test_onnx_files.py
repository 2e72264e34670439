"""ONNX files that refer to other files, loop without a bound or ask for endless memory are refused; others pass."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.onnx import messages, refuse_unsafe_onnx
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError
from tests.attack.stage_bombs import ONNX_BOMBS as BOMBS
from tests.attack.stage_bombs import ONNX_LARGE


def _external() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def _inside() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])


def _graph(tensor: TensorProto) -> onnx.GraphProto:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], initializer=[tensor])


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def _with_attribute(value: object) -> onnx.ModelProto:
    graph = _graph(_inside())
    one = value[0] if isinstance(value, list) else value
    operator = "If" if isinstance(one, onnx.GraphProto) else "Identity"
    graph.node.append(helper.make_node(operator, ["x"], ["z"], value=value))
    return _model(graph)


def _with_nodes(*nodes: onnx.NodeProto, **constants: object) -> bytes:
    """Return a model of these nodes (and one that adds) with constants."""
    graph = _graph(_inside())
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items())
    return bytes(_model(graph).SerializeToString())


def _sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], [0, 1, 2, 3])
    return helper.make_sparse_tensor(tensor, indices, [8])


def _sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    graph = _graph(_inside())
    graph.sparse_initializer.append(_sparse(tensor))
    return _model(graph)


def _function(tensor: TensorProto, *, default: bool) -> onnx.ModelProto:
    model = _model(_graph(_inside()))
    function = model.functions.add(name="f", domain="example")
    if default:
        function.attribute_proto.append(helper.make_attribute("value", tensor))
    else:
        function.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def _training(tensor: TensorProto) -> onnx.ModelProto:
    model = _model(_graph(_inside()))
    model.training_info.add().algorithm.CopyFrom(_graph(tensor))
    return model


def _nested(tensor: TensorProto) -> onnx.ModelProto:
    graph = _graph(tensor)
    for _ in range(10):
        outer = _graph(_inside())
        outer.node.append(helper.make_node("If", ["x"], ["z"], then_branch=graph))
        graph = outer
    return _model(graph)


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": lambda tensor: _model(_graph(tensor)),
    "sparse initializer": _sparse_initializer,
    "attribute": _with_attribute,
    "attribute list": lambda tensor: _with_attribute([tensor, _inside()]),
    "subgraph": lambda tensor: _with_attribute(_graph(tensor)),
    "subgraph list": lambda tensor: _with_attribute([_graph(_inside()), _graph(tensor)]),
    "sparse attribute": lambda tensor: _with_attribute(_sparse(tensor)),
    "sparse attribute list": lambda tensor: _with_attribute([_sparse(tensor)]),
    "function": lambda tensor: _function(tensor, default=False),
    "function default": lambda tensor: _function(tensor, default=True),
    "training": _training,
    "deep": _nested,
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_hides(place: str) -> None:
    data = PLACES[place](_external()).SerializeToString()
    with pytest.raises(BundleError) as caught:
        refuse_unsafe_onnx("stages/a.onnx", data)
    if place in UNUSED:  # refused as a whole
        return
    assert str(caught.value) == (
        "the ONNX file 'stages/a.onnx' has a tensor whose data lies outside of the file. Fix: compile the bundle again."
    )


UNUSED = {
    "sparse initializer": "has a sparse tensor",
    "sparse attribute": "has a sparse tensor",
    "sparse attribute list": "has a sparse tensor",
    "function": "has functions of its own",
    "function default": "has functions of its own",
    "training": "has functions of its own, or says how it is trained",
}


@pytest.mark.parametrize("place", sorted(PLACES.keys() - UNUSED.keys()))
def test_data_inside_passes(place: str) -> None:
    refuse_unsafe_onnx("a.onnx", PLACES[place](_inside()).SerializeToString())


@pytest.mark.parametrize("place", UNUSED)
def test_what_no_exporter_of_ours_writes_is_refused(place: str) -> None:
    with pytest.raises(BundleError, match=UNUSED[place]):
        refuse_unsafe_onnx("a.onnx", PLACES[place](_inside()).SerializeToString())


@pytest.mark.parametrize("field", [b"\x70\x01", b"\x70\x81\x80\x80\x80\x10", b"\x6a\x00", b"\x70\x02"])
def test_either_mark_of_external_data_is_enough(field: bytes) -> None:
    """Location alone (also beyond 32 bits, which parsers cut), an empty list entry alone, and an unknown location."""
    graph = b"\x2a" + bytes([len(field)]) + field
    with pytest.raises(BundleError, match="outside of the file"):
        refuse_unsafe_onnx("a.onnx", b"\x3a" + bytes([len(graph)]) + graph)


def test_a_compiled_engine_is_refused() -> None:
    graph = _graph(_inside())
    graph.node.append(helper.make_node("EPContext", ["x"], ["z"], ep_cache_context="engine.bin", embed_mode=0))
    with pytest.raises(BundleError, match="has a node 'EPContext', which loads a compiled engine"):
        refuse_unsafe_onnx("a.onnx", _model(graph).SerializeToString())


@pytest.mark.parametrize("version", [0, -1, 1_001, 2**62])
def test_a_set_of_operators_has_a_version_that_there_may_be(version: int) -> None:
    """OpenVINO counts up to it, for hours."""
    model = _model(_graph(_inside()))
    model.opset_import[0].version = version
    with pytest.raises(BundleError, match=rf"asks for version {version % 2**64} of a set of operators\. Fix: "):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_no_value_is_declared_with_a_size_below_zero(place: str) -> None:
    """OpenVINO divides by the sizes of inputs, and the process ends."""
    graph = _graph(_inside())
    getattr(graph, place).append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, [4, -(2**31)]))
    with pytest.raises(BundleError, match="declares 'odd' with a size below zero"):
        refuse_unsafe_onnx("a.onnx", _model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x3a", "is cut short inside a field"),
        (b"\x3a\x05\x00", "is malformed"),
        (b"\x0b\x0c", "is malformed: wire type 3"),
        (b"\x00\x00", "is malformed: tag 0"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "is malformed: a varint of more than 10 bytes"),
        (b"\xba\x80\x80\x80\x80\x01\x00", "is malformed: tag"),
        (b"\x3a\x02\x2a\x05" + b"\x00" * 9, "is malformed"),
        (b"\x09\x00", "is malformed"),
    ],
)
def test_a_malformed_file_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        refuse_unsafe_onnx("a.onnx", data)


def test_a_file_of_too_many_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_FIELDS", 100)
    with pytest.raises(BundleError, match="has more than 100 fields"):
        refuse_unsafe_onnx("a.onnx", b"\x08\x01" * 101)


def _body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    return helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), *nodes], "body", [step, going], [going])


def _loop(steps: str, *nodes: onnx.NodeProto, name: str = "z") -> onnx.NodeProto:
    return helper.make_node("Loop", [steps, ""], [name], body=_body(*nodes))


def _scan(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node("Scan", ["x"], ["z"], num_scan_inputs=1, body=_body(*nodes))


REFUSED = {
    "engine": (helper.make_node("EPContext", ["x"], ["z"]), "loads a compiled engine"),
    "another domain": (helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml"), "'Scaler' of the unknown domain"),
    "loop without a count": (_loop(""), "a Loop whose number of steps does not stand in the file"),
    "loop of a computed count": (_loop("y"), "a Loop whose number of steps does not stand in the file"),
    "endless loop": (_loop("many"), "a Loop of 1000000000000 steps"),
    "loop of no integer": (_loop("scales"), "a Loop whose number of steps does not stand in the file"),
    "more than a float holds": (helper.make_node("Expand", ["x", "sizes"], ["z"]), "writes 4.61169e\\+18 numbers"),
    "loop in a loop": (_loop("some", _loop("some", name="v")), "a Loop of 1000000 steps"),
    "scan in a loop": (_loop("some", _scan()), "a Scan within a loop"),
    "loop in a scan": (_scan(_loop("some")), "a Loop of 1000 steps, or within a Scan"),
    "graph elsewhere": (helper.make_node("BeamSearch", ["x"], ["z"], decoder=_body()), "'BeamSearch' that runs graphs"),
    "expand": (
        helper.make_node("Expand", ["x", "huge"], ["z"]),
        "'Expand' that writes 1e\\+12 numbers",
    ),
    "constant of shape": (helper.make_node("ConstantOfShape", ["huge"], ["z"]), "writes 1e\\+12 numbers"),
    "tile": (helper.make_node("Tile", ["x", "huge"], ["z"]), "writes 4e\\+12 numbers"),
    "range": (helper.make_node("Range", ["some", "many", "some"], ["z"]), "writes 1e\\+09 numbers"),
    "endless range": (
        helper.make_node("Range", ["some", "many", "none"], ["z"]),
        "'Range' which counts without an end",
    ),
    "resize": (helper.make_node("Resize", ["x", "", "scales"], ["z"]), "'Resize' that writes 4e\\+12 numbers"),
    "sizes": (helper.make_node("Resize", ["x", "", "", "far"], ["z"]), "writes 1e\\+12 numbers"),
    "pad": (helper.make_node("Pad", ["x", "far"], ["z"]), "'Pad' that writes 2e\\+12 numbers"),
    "stride": (helper.make_node("Conv", ["x", "w"], ["z"], strides=[10**9, 1]), "'Conv' whose strides is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_bound_is_refused(case: str) -> None:
    node, reason = REFUSED[case]
    huge = np.array([10**6, 10**6])
    scales = np.array([1e12], np.float32)
    sizes = np.full(16, 2**62)
    single = {"many": 10**12, "some": 1000, "none": 0}
    lists = {"huge": huge, "scales": scales, "sizes": sizes, "far": np.array([10**12, 10**12])}
    data = _with_nodes(node, **lists, **{k: np.array(v) for k, v in single.items()})
    with pytest.raises(BundleError, match=reason):
        refuse_unsafe_onnx("a.onnx", data)


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_would_take_all_time_or_memory_is_refused_at_once(case: str) -> None:
    make, reason = BOMBS[case]
    data = make()
    begin = time.process_time()
    with pytest.raises(BundleError, match=reason):
        refuse_unsafe_onnx("a.onnx", data)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("case", ONNX_LARGE)
def test_a_large_file_costs_what_its_bytes_cost(case: str) -> None:
    data = ONNX_LARGE[case]()
    begin = time.process_time()
    refuse_unsafe_onnx("a.onnx", data)
    assert time.process_time() - begin < 1


def test_a_clip_may_be_padded_far() -> None:
    pads = np.array([0, 480_000])
    refuse_unsafe_onnx("a.onnx", _with_nodes(helper.make_node("Pad", ["x", "pads"], ["z"]), pads=pads))


@pytest.mark.parametrize("kind", ["initializer", "node"])
def test_what_has_no_name_is_no_count(kind: str) -> None:
    """An input that is left out is written as an empty name."""
    made = helper.make_node("Constant", [], [""], value_int=3)
    data = _with_nodes(made, _loop("")) if kind == "node" else _with_nodes(_loop(""), **{"": np.array(3)})
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", data)


def test_a_count_that_may_be_fed_does_not_stand_in_the_file() -> None:
    model = onnx.load_model_from_string(_with_nodes(_loop("some"), some=np.array(3)))
    model.graph.input.append(helper.make_tensor_value_info("some", TensorProto.INT64, []))
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


def test_an_output_that_an_operator_does_not_make_is_no_constant_of_its_name() -> None:
    body = _body(helper.make_node("Add", ["x", "x"], ["n", "some"]), _loop("some", name="v"))
    loop = helper.make_node("Loop", ["few", ""], [], body=body)
    with pytest.raises(BundleError, match="reads 'some' before it is made"):
        refuse_unsafe_onnx("a.onnx", _with_nodes(loop, few=np.array(2), some=np.array(3)))


def test_what_is_read_before_it_is_made_is_refused() -> None:
    """A runtime sorts operators; a constant outside of that name must not stand in for what is made later."""
    late = [helper.make_node("ConstantOfShape", ["k"], ["z"]), helper.make_node("Shape", ["x"], ["k"])]
    branch = helper.make_graph(late, "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None])])
    choice = helper.make_node("If", ["go"], ["y2"], then_branch=branch, else_branch=branch)
    with pytest.raises(BundleError, match="reads 'k' before it is made"):
        refuse_unsafe_onnx("a.onnx", _with_nodes(choice, go=np.array(True), k=np.array([1])))


def test_a_constant_node_says_as_much_as_an_initializer() -> None:
    made = helper.make_node("Constant", [], ["huge"], value_ints=[10**6, 10**6])
    with pytest.raises(BundleError, match="that writes"):
        refuse_unsafe_onnx("a.onnx", _with_nodes(made, helper.make_node("Expand", ["x", "huge"], ["z"])))


def test_what_hides_a_constant_is_not_it() -> None:
    """The steps of the inner loop are what the outer one hands it, not the constant outside of that name."""
    inner = _body(_loop("some", name="v"))
    inner.input.append(helper.make_tensor_value_info("some", TensorProto.INT64, []))
    loop = helper.make_node("Loop", ["few", "", "y"], ["z"], body=inner)
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", _with_nodes(loop, few=np.array(2), some=np.array(3)))


def test_counted_loops_pass() -> None:
    node = _loop("some", _loop("few", name="v"))
    refuse_unsafe_onnx("a.onnx", _with_nodes(node, some=np.array(1000), few=np.array(3)))


@pytest.mark.parametrize("text", ["node", "tensor", "graph", "input", "size", "metadata"])
def test_text_that_is_no_utf8_is_refused(text: str) -> None:
    model = _model(_graph(_inside()))
    model.graph.node[0].name = model.graph.initializer[0].name = model.graph.name = "mark"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = model.graph.input[0].name = "mark"
    model.metadata_props.add(key="mark")
    places = {"node": 0, "graph": 1, "tensor": 2, "input": 3, "size": 4, "metadata": 5}
    data = model.SerializeToString()
    assert data.count(b"mark") == len(places)
    parts = data.split(b"mark")
    place = places[text] + 1
    hostile = b"mark".join(parts[:place]) + b"m\xffrk" + b"mark".join(parts[place:])
    with pytest.raises(BundleError, match=r"has a name at byte \d+ that is not UTF-8"):
        refuse_unsafe_onnx("a.onnx", hostile)


@pytest.mark.parametrize("change", ["raw", "listed", "packed", "four bits", "negative", "type"])
def test_a_tensor_has_as_many_values_as_its_shape_says(change: str) -> None:
    model = _model(_graph(_inside()))
    tensor = model.graph.initializer[0]
    refuse_unsafe_onnx("a.onnx", model.SerializeToString())
    if change == "raw":
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
        tensor.raw_data = tensor.raw_data[:-1]
    elif change == "listed":
        del tensor.float_data[-1]
    elif change == "packed":
        tensor.CopyFrom(helper.make_tensor("w", TensorProto.INT64, [4], [1, -2, 300, 2**62]))
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())
        tensor.dims[0] = 5
    elif change == "four bits":
        tensor.CopyFrom(helper.make_tensor("w", TensorProto.INT4, [5], [1, 2, 3, -4, 5]))
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())
        tensor.dims[0] = 7
    elif change == "negative":
        tensor.dims[0] = -4
    else:
        tensor.data_type = TensorProto.STRING
    with pytest.raises(BundleError, match="has a tensor 'w' of the"):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


def test_messages_that_parsers_merge_are_refused() -> None:
    data = _model(_graph(_inside())).SerializeToString()
    with pytest.raises(BundleError, match="has two messages in a Model that holds one"):
        refuse_unsafe_onnx("a.onnx", data + data)


def test_messages_in_messages_have_a_bound() -> None:
    kind = onnx.TypeProto()
    for _ in range(60):
        outer = onnx.TypeProto()
        outer.sequence_type.elem_type.CopyFrom(kind)
        kind = outer
    model = _model(_graph(_inside()))
    model.graph.input[0].type.CopyFrom(kind)
    with pytest.raises(BundleError, match="has more than 48 messages in messages"):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_input_does_anything_else(data: bytes) -> None:
    with suppress(BundleError):
        refuse_unsafe_onnx("a.onnx", data)


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(sorted(PLACES)), data=st.data())
def test_a_damaged_reference_is_refused_or_gone(place: str, data: st.DataObject) -> None:
    """Whatever bytes change: if the onnx package still finds external data in it, so do we."""
    whole = bytearray(PLACES[place](_external()).SerializeToString())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        refuse_unsafe_onnx("a.onnx", bytes(whole))
    except BundleError:
        return
    try:
        model = onnx.load_model_from_string(bytes(whole))
    except Exception:  # noqa: BLE001 - the package gives no class for a parse error
        return
    assert "external_data" not in str(model)
    assert "data_location: EXTERNAL" not in str(model)


@pytest.mark.parametrize("suffix", [".onnx", ".ONNX"])
def test_bundles_with_external_data_are_neither_written_nor_read(
    suffix: str,
    tmp_path: Path,
    manifest: Manifest,
    contents: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(data: bytes) -> tuple[Manifest, dict[str, bytes]]:
        candidates = tuple(
            msgspec.structs.replace(
                c,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                file=f"stages/a{suffix}",
            )
            for c in manifest.candidates
        )
        files = {name: each for name, each in contents.items() if not name.startswith("stages/")}
        return (
            msgspec.structs.replace(manifest, candidates=candidates),
            {**files, f"stages/a{suffix}": data},
        )

    hostile = _model(_graph(_external())).SerializeToString()
    with pytest.raises(BundleError, match=f"the ONNX file 'stages/a{suffix}' has a tensor whose data lies outside"):
        write_bundle(tmp_path / "b", *changed(hostile))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("edgefuse.bundle.writer.checks", lambda manifest: {})
    write_bundle(tmp_path / "b", *changed(hostile))
    with (
        open_bundle(tmp_path / "b") as bundle,
        pytest.raises(BundleError, match="has a tensor whose data lies outside"),
    ):
        bundle.read(f"stages/a{suffix}")
