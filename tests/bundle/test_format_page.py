"""docs/bundle-format.md names every field and every limit, and the tables of the code fit their source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import onnx
import pytest

from edgefuse.bundle import external_data, layout, validation, wiring
from edgefuse.bundle.manifest import Manifest

PAGE = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")


def _structs(kind: object, seen: set[type]) -> Iterator[type[msgspec.Struct]]:
    """Yield a struct type and all that its fields can hold."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _structs(hint, seen)
    for argument in get_args(kind):
        yield from _structs(argument, seen)


STRUCTS = sorted(_structs(Manifest, set()), key=lambda struct: struct.__name__)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_on_the_page(struct: type[msgspec.Struct]) -> None:
    tag = struct.__struct_config__.tag
    missing = [field for field in struct.__struct_fields__ if f"`{field}`" not in PAGE and f'"{field}"' not in PAGE]
    assert missing == []
    assert tag is None or f'"{tag}"' in PAGE


def test_every_limit_is_on_the_page() -> None:
    limits = {
        **{name: value for name, value in vars(layout).items() if name.startswith("MAX_")},
        **{name: value for name, value in vars(wiring).items() if name.startswith("MAX_")},
        **{name: value for name, value in vars(validation).items() if name.startswith("MAX_")},
    }
    spelled = {2**31 - 1: "2³¹ − 1", 2**28: "2²⁸", 4 * 2**20: "4 MiB", 2.0**63: "2⁶³"}
    missing = [name for name, value in limits.items() if spelled.get(value, f"{value:,}") not in PAGE]
    assert missing == []


def test_the_walk_knows_every_message_that_can_hold_a_tensor_or_a_node() -> None:
    names = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "GraphProto": "graph",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }
    pending, found = [onnx.ModelProto.DESCRIPTOR], {}
    while pending:
        message = pending.pop()
        nested = [field for field in message.fields if field.message_type is not None]
        found[message.name] = {f.number: f.message_type.name for f in nested}
        pending += [f.message_type for f in nested if f.message_type.name not in found]
    table = {
        kind: {number: names[inner] for number, inner in found[name].items() if inner in names}
        for name, kind in names.items()
    }
    assert table == external_data._NESTED
    # What is not in the table leads nowhere that matters.
    others = {name: set(inner.values()) & set(names) for name, inner in found.items() if name not in names}
    assert not any(others.values())
