"""The tables that TFLite files are walked by are those of the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgefuse.bundle.tflite.kinds import KINDS
from edgefuse.bundle.tflite.operators import fields
from edgefuse.bundle.tflite.schema import TYPES, read
from tests.attack.tflite_builder import unpack
from tests.bundle.tflite_edits import (
    SEEDS,
)


def _slot(name: str, table: str) -> int:
    """Return the number of a field, as the schema's own reader finds it."""
    source = Path(schema.__file__).read_text(encoding="utf-8").split(f"class {table}(object)")[1].split("\nclass ")[0]
    camel = "".join(part.capitalize() for part in name.split("_"))
    body = source.split(f"def {camel}(self")[1]
    return (int(body.split("self._tab.Offset(")[1].split(")")[0]) - 4) // 2


@pytest.mark.parametrize("name", KINDS)
def test_operators_and_their_options_are_those_of_the_schema(name: str) -> None:
    kind = KINDS[name]
    assert getattr(schema.BuiltinOperator, name) == kind.code
    unions = schema.BuiltinOptions2 if kind.second else schema.BuiltinOptions
    tables = {number: table for table, number in vars(unions).items() if isinstance(number, int)}
    for field in fields(kind.options):
        assert _slot(field.name, tables[kind.union]) == field.number, field
    if kind.union:
        camel = {field.name: _camel(field.name) for field in fields(kind.options)}
        made = vars(getattr(schema, f"{tables[kind.union]}T")())
        for field in fields(kind.options):
            assert field.listed or made[camel[field.name]] == field.default, field


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def test_types_are_those_of_the_schema() -> None:
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    assert {number: names[number].lower() for number in TYPES} == {number: name for number, (name, _) in TYPES.items()}


@pytest.mark.parametrize(
    ("table", "numbers"),
    [
        (
            "Model",
            {"Version": 0, "OperatorCodes": 1, "Subgraphs": 2, "Description": 3, "Buffers": 4, "MetadataBuffer": 5},
        ),
        ("Model", {"Metadata": 6, "SignatureDefs": 7, "ExternalBufferGroups": 8, "ExternalBuffers": 9}),
        ("OperatorCode", {"DeprecatedBuiltinCode": 0, "CustomCode": 1, "Version": 2, "BuiltinCode": 3}),
        ("SubGraph", {"Tensors": 0, "Inputs": 1, "Outputs": 2, "Operators": 3, "Name": 4}),
        ("Tensor", {"Shape": 0, "Type": 1, "Buffer": 2, "Name": 3, "Quantization": 4, "IsVariable": 5, "Sparsity": 6}),
        ("Tensor", {"ShapeSignature": 7, "VariantTensors": 9, "ExternalBuffer": 10}),
        (
            "QuantizationParameters",
            {"Scale": 2, "ZeroPoint": 3, "DetailsType": 4, "Details": 5, "QuantizedDimension": 6},
        ),
        ("BlockwiseQuantization", {"Scales": 0, "ZeroPoints": 1, "BlockSize": 2}),
        ("Buffer", {"Data": 0, "Offset": 1, "Size": 2}),
        ("Operator", {"OpcodeIndex": 0, "Inputs": 1, "Outputs": 2, "BuiltinOptionsType": 3, "BuiltinOptions": 4}),
        ("Operator", {"CustomOptions": 5, "MutatingVariableInputs": 7, "Intermediates": 8}),
        ("Operator", {"LargeCustomOptionsOffset": 9, "BuiltinOptions2Type": 11, "BuiltinOptions2": 12}),
        ("Metadata", {"Name": 0, "Buffer": 1}),
        ("SignatureDef", {"Inputs": 0, "Outputs": 1, "SignatureKey": 2, "SubgraphIndex": 4}),
        ("TensorMap", {"Name": 0, "TensorIndex": 1}),
    ],
)
def test_fields_are_those_of_the_schema(table: str, numbers: dict[str, int]) -> None:
    """The numbers that `schema.py` and `quantization.py` read by."""
    source = Path(schema.__file__).read_text(encoding="utf-8").split(f"class {table}(object)")[1].split("\nclass ")[0]
    for name, number in numbers.items():
        body = source.split(f"def {name}(self")[1]
        assert (int(body.split("self._tab.Offset(")[1].split(")")[0]) - 4) // 2 == number, name


def test_values_are_read_as_they_are() -> None:
    model = read(SEEDS["int8 net"])
    weights = model.graphs[0].tensors[model.graphs[0].operators[1].inputs[1]]
    assert (weights.dtype, weights.shape, weights.quantization.axis) == ("int8", (8, 3, 3, 3), 0)
    values = model.values(weights)
    assert values is not None
    assert values.tobytes() == unpack(SEEDS["int8 net"]).buffers[2].data.tobytes()
