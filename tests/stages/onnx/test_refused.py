"""What an ONNX file cannot be is told in one sentence, before anything runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgefuse.bundle import spec
from edgefuse.bundle.spec import ModelSpec
from edgefuse.errors import ModelError
from edgefuse.stages.onnx import find
from edgefuse.stages.onnx.file import converted, read
from tests.stages.onnx import files


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"m\.onnx is no ONNX file, or damaged"):
        read(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"cannot read the ONNX file .*: got No such file"):
        read(tmp_path / "absent.onnx")


def with_external(tmp_path: Path, location: str, length: int = 64 * 128 * 4) -> Path:
    """Write a file whose first weights lie elsewhere."""
    model = onnx.load(files.by_hand(tmp_path / "m.onnx"))
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_stay_in_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64 * 128 * 4))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(
        ModelError, match=r"external data of the ONNX file .* cannot be read.*(outside the base|via symlink)"
    ):
        read(with_external(folder, location))


def test_external_data_that_are_not_there_or_short(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"external data .*'w\.bin': No such file.* Fix: put them beside m\.onnx"):
        read(with_external(tmp_path, "w.bin"))
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"external data of the ONNX file .* cannot be read: got 'w\.bin'"):
        read(with_external(tmp_path, "w.bin"))


def test_operators_of_an_unknown_domain(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    nodes = [node("Fuse", ["a", "b"], ["sum"], domain="com.acme"), node("MatMul", ["sum", "head"], ["score"])]
    path = files.by_hand(tmp_path / "m.onnx", nodes, extra=(onnx.helper.make_opsetid("com.acme", 1),))
    with pytest.raises(ModelError, match=r"an operator 'Fuse' of the unknown domain 'com\.acme'"):
        find(read(path), files.BY_HAND)


def test_a_file_that_was_quantized_before(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("DynamicQuantizeLinear", ["a"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["near"]),
        node("Add", ["near", "b"], ["sum"]),
        node("MatMul", ["sum", "head"], ["score"]),
    ]
    with pytest.raises(ModelError, match=r"no float32 model: got the operators DequantizeLinear, DynamicQuantize"):
        read(files.by_hand(tmp_path / "m.onnx", nodes))


def test_operator_sets_that_are_too_old(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"got operator set 11, expected 13 or newer\. Fix: export it with opset"):
        converted(read(files.by_hand(tmp_path / "m.onnx", opset=11)))


def described(*modalities: spec.Modality, output: str = "score") -> ModelSpec:
    outputs = (spec.ValuesOutput(name=output, labels=("a", "b", "c")),)
    return ModelSpec(name="m", modalities=modalities, outputs=outputs, metric="mse")


SOUND, MOTION = files.BY_HAND.modalities


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (described(SOUND), r"do not match the modalities of 'm': got motion, expected only sound"),
        (described(SOUND, spec.tensor("light", shape=(1, 3))), r"got motion, expected light_values or light\."),
        (
            described(SOUND, spec.tensor("motion", shape=(1, 7))),
            r"'motion' .* has another shape .*32.*expected \[1, 7\]",
        ),
        (
            described(SOUND, spec.tensor("motion", shape=(1, 32), dtype="uint8")),
            r"another type .*got float, expected uint8",
        ),
        (described(SOUND, MOTION, output="logits"), r"does not give an output of its spec: got score, expected logits"),
    ],
)
def test_descriptions_that_do_not_match(tmp_path: Path, given: ModelSpec, message: str) -> None:
    file = read(files.by_hand(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=message):
        find(file, given)


def test_a_batch_that_is_no_sample(tmp_path: Path) -> None:
    model = onnx.load(files.by_hand(tmp_path / "m.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"takes batches of another size than one: got 8"):
        find(read(tmp_path / "m.onnx"), files.BY_HAND)


def test_an_output_of_another_size(tmp_path: Path) -> None:
    outputs = (spec.ValuesOutput(name="score", labels=("a", "b")),)
    with pytest.raises(ModelError, match=r"another shape than its spec says: got \[1, 3\], expected \[1, 2\]"):
        find(read(files.by_hand(tmp_path / "m.onnx")), described(SOUND, MOTION).__class__(
            name="m", modalities=(SOUND, MOTION), outputs=outputs, metric="mse"
        ))  # fmt: skip


def test_nothing_is_changed_by_reading(tmp_path: Path) -> None:
    path = files.by_hand(tmp_path / "m.onnx")
    before = path.read_bytes()
    file = read(path)
    names = [value.name for value in file.model.graph.inputs]
    find(file, files.BY_HAND)
    assert [value.name for value in file.model.graph.inputs] == names
    assert path.read_bytes() == before
    held = file.model.graph.initializers["head"].const_value
    assert held is not None
    assert np.array_equal(held.numpy(), onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[-1]))
