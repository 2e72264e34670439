"""ONNX files that refer to other files, or whose bytes parsers could take for something else, are refused."""

from __future__ import annotations

import hashlib
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
from tests.bundle.onnx_models import external, graph_of, inside, model_of


def _with_attribute(value: object) -> onnx.ModelProto:
    graph = graph_of(inside())
    one = value[0] if isinstance(value, list) else value
    operator = "If" if isinstance(one, onnx.GraphProto) else "Identity"
    graph.node.append(helper.make_node(operator, ["x"], ["z"], value=value))
    return model_of(graph)


def _sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], [0, 1, 2, 3])
    return helper.make_sparse_tensor(tensor, indices, [8])


def _sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    graph = graph_of(inside())
    graph.sparse_initializer.append(_sparse(tensor))
    return model_of(graph)


def _function(tensor: TensorProto, *, default: bool) -> onnx.ModelProto:
    model = model_of(graph_of(inside()))
    function = model.functions.add(name="f", domain="example")
    if default:
        function.attribute_proto.append(helper.make_attribute("value", tensor))
    else:
        function.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def _training(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of(graph_of(inside()))
    model.training_info.add().algorithm.CopyFrom(graph_of(tensor))
    return model


def _nested(tensor: TensorProto) -> onnx.ModelProto:
    graph = graph_of(tensor)
    for _ in range(10):
        outer = graph_of(inside())
        outer.node.append(helper.make_node("If", ["x"], ["z"], then_branch=graph))
        graph = outer
    return model_of(graph)


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": lambda tensor: model_of(graph_of(tensor)),
    "sparse initializer": _sparse_initializer,
    "attribute": _with_attribute,
    "attribute list": lambda tensor: _with_attribute([tensor, inside()]),
    "subgraph": lambda tensor: _with_attribute(graph_of(tensor)),
    "subgraph list": lambda tensor: _with_attribute([graph_of(inside()), graph_of(tensor)]),
    "sparse attribute": lambda tensor: _with_attribute(_sparse(tensor)),
    "sparse attribute list": lambda tensor: _with_attribute([_sparse(tensor)]),
    "function": lambda tensor: _function(tensor, default=False),
    "function default": lambda tensor: _function(tensor, default=True),
    "training": _training,
    "deep": _nested,
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_hides(place: str) -> None:
    data = PLACES[place](external()).SerializeToString()
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
    refuse_unsafe_onnx("a.onnx", PLACES[place](inside()).SerializeToString())


@pytest.mark.parametrize("place", UNUSED)
def test_what_no_exporter_of_ours_writes_is_refused(place: str) -> None:
    with pytest.raises(BundleError, match=UNUSED[place]):
        refuse_unsafe_onnx("a.onnx", PLACES[place](inside()).SerializeToString())


@pytest.mark.parametrize("field", [b"\x70\x01", b"\x70\x81\x80\x80\x80\x10", b"\x6a\x00", b"\x70\x02"])
def test_either_mark_of_external_data_is_enough(field: bytes) -> None:
    """Location alone (also beyond 32 bits, which parsers cut), an empty list entry alone, and an unknown location."""
    graph = b"\x2a" + bytes([len(field)]) + field
    with pytest.raises(BundleError, match="outside of the file"):
        refuse_unsafe_onnx("a.onnx", b"\x3a" + bytes([len(graph)]) + graph)


def test_a_compiled_engine_is_refused() -> None:
    graph = graph_of(inside())
    graph.node.append(helper.make_node("EPContext", ["x"], ["z"], ep_cache_context="engine.bin", embed_mode=0))
    with pytest.raises(BundleError, match="has a node 'EPContext', which loads a compiled engine"):
        refuse_unsafe_onnx("a.onnx", model_of(graph).SerializeToString())


@pytest.mark.parametrize("version", [0, -1, 1_001, 2**62])
def test_a_set_of_operators_has_a_version_that_there_may_be(version: int) -> None:
    """OpenVINO counts up to it, for hours."""
    model = model_of(graph_of(inside()))
    model.opset_import[0].version = version
    with pytest.raises(BundleError, match=rf"asks for version {version % 2**64} of a set of operators\. Fix: "):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


@pytest.mark.parametrize("place", ["input", "output", "value_info"])
def test_no_value_is_declared_with_a_size_below_zero(place: str) -> None:
    """OpenVINO divides by the sizes of inputs, and the process ends."""
    graph = graph_of(inside())
    getattr(graph, place).append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, [4, -(2**31)]))
    with pytest.raises(BundleError, match="declares 'odd' with a size below zero"):
        refuse_unsafe_onnx("a.onnx", model_of(graph).SerializeToString())


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


@pytest.mark.parametrize("text", ["node", "tensor", "graph", "input", "size", "metadata"])
def test_text_that_is_no_utf8_is_refused(text: str) -> None:
    model = model_of(graph_of(inside()))
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
    model = model_of(graph_of(inside()))
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
    data = model_of(graph_of(inside())).SerializeToString()
    with pytest.raises(BundleError, match="has two messages in a Model that holds one"):
        refuse_unsafe_onnx("a.onnx", data + data)


def test_messages_in_messages_have_a_bound() -> None:
    kind = onnx.TypeProto()
    for _ in range(60):
        outer = onnx.TypeProto()
        outer.sequence_type.elem_type.CopyFrom(kind)
        kind = outer
    model = model_of(graph_of(inside()))
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
    whole = bytearray(PLACES[place](external()).SerializeToString())
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

    hostile = model_of(graph_of(external())).SerializeToString()
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
