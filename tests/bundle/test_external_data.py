"""ONNX files that refer to other files are refused wherever the reference hides; whole ones pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefuse.bundle import external_data
from edgefuse.bundle.external_data import refuse_external_data
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError


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
    graph.node.append(helper.make_node("If", ["x"], ["z"], value=value))
    return _model(graph)


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
        outer.node.append(helper.make_node("Loop", ["x"], ["z"], body=graph))
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
        refuse_external_data("stages/a.onnx", data)
    assert str(caught.value) == (
        "the ONNX file 'stages/a.onnx' has a tensor whose data lies outside of the file. "
        "Fix: export the model with all data inside."
    )


@pytest.mark.parametrize("place", PLACES)
def test_data_inside_passes(place: str) -> None:
    refuse_external_data("a.onnx", PLACES[place](_inside()).SerializeToString())


@pytest.mark.parametrize("field", [b"\x70\x01", b"\x70\x81\x80\x80\x80\x10", b"\x6a\x00", b"\x70\x02"])
def test_either_mark_of_external_data_is_enough(field: bytes) -> None:
    """Location alone (also beyond 32 bits, which parsers cut), an empty list entry alone, and an unknown location."""
    graph = b"\x2a" + bytes([len(field)]) + field
    with pytest.raises(BundleError, match="outside of the file"):
        refuse_external_data("a.onnx", b"\x3a" + bytes([len(graph)]) + graph)


def test_a_compiled_engine_is_refused() -> None:
    graph = _graph(_inside())
    graph.node.append(helper.make_node("EPContext", ["x"], ["z"], ep_cache_context="engine.bin", embed_mode=0))
    with pytest.raises(BundleError, match="has a node 'EPContext', which loads a compiled engine"):
        refuse_external_data("a.onnx", _model(graph).SerializeToString())


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
        refuse_external_data("a.onnx", data)


def test_a_file_of_too_many_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "MAX_FIELDS", 100)
    with pytest.raises(BundleError, match="has more than 100 fields"):
        refuse_external_data("a.onnx", b"\x08\x01" * 101)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_input_does_anything_else(data: bytes) -> None:
    with suppress(BundleError):
        refuse_external_data("a.onnx", data)


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(sorted(PLACES)), data=st.data())
def test_a_damaged_reference_is_refused_or_gone(place: str, data: st.DataObject) -> None:
    """Whatever bytes change: if the onnx package still finds external data in it, so do we."""
    whole = bytearray(PLACES[place](_external()).SerializeToString())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        refuse_external_data("a.onnx", bytes(whole))
    except BundleError:
        return
    try:
        model = onnx.load_model_from_string(bytes(whole))
    except Exception:  # noqa: BLE001 - the package gives no class for a parse error
        return
    assert "external_data" not in str(model)
    assert "data_location: EXTERNAL" not in str(model)


@pytest.mark.parametrize(("target", "suffix"), [("onnx", ".bin"), ("nothing", ".onnx")])
def test_bundles_with_external_data_are_neither_written_nor_read(
    target: str,
    suffix: str,
    tmp_path: Path,
    manifest: Manifest,
    contents: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both a file that is called ONNX and one that an ONNX backend will open."""

    def changed(data: bytes) -> tuple[Manifest, dict[str, bytes]]:
        candidates = tuple(
            msgspec.structs.replace(
                c,
                target=target,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                file=f"stages/a{suffix}",
            )
            for c in manifest.candidates
        )
        files = {name: each for name, each in contents.items() if not name.startswith("stages/")}
        return (
            msgspec.structs.replace(manifest, target=target, candidates=candidates),
            {**files, f"stages/a{suffix}": data},
        )

    hostile = _model(_graph(_external())).SerializeToString()
    with pytest.raises(BundleError, match=f"the ONNX file 'stages/a{suffix}' has a tensor whose data lies outside"):
        write_bundle(tmp_path / "b", *changed(hostile))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("edgefuse.bundle.writer.refuse_external_data", lambda name, data: None)
    write_bundle(tmp_path / "b", *changed(hostile))
    with (
        open_bundle(tmp_path / "b") as bundle,
        pytest.raises(BundleError, match="has a tensor whose data lies outside"),
    ):
        bundle.read(f"stages/a{suffix}")
