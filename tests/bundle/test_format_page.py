"""docs/bundle-format.md names every field and every limit, and the tables of the code fit their source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import onnx
import pytest

from edgefuse.bundle import layout, validation, wiring
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.onnx import messages
from edgefuse.bundle.tokenizer import charsmap, check, excerpt, parts, steps

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


def _parts() -> list[type[parts.Part]]:
    """Return the parts of a tokenizer."""
    return [each for each in vars(parts).values() if isinstance(each, type) and issubclass(each, parts.Part)][1:]


def test_every_limit_is_on_the_page() -> None:
    limits = {
        **{name: value for name, value in vars(layout).items() if name.startswith("MAX_")},
        **{name: value for name, value in vars(wiring).items() if name.startswith("MAX_")},
        **{name: value for name, value in vars(validation).items() if name.startswith("MAX_")},
    }
    spelled = {2**31 - 1: "2³¹ − 1", 2**28: "2²⁸", 4 * 2**20: "4 MiB", 2.0**63: "2⁶³"}
    missing = [name for name, value in limits.items() if spelled.get(value, f"{value:,}") not in PAGE]
    assert missing == []


@pytest.mark.parametrize("part", sorted(_parts(), key=str))
def test_every_part_of_a_tokenizer_is_on_the_page(part: type[parts.Part]) -> None:
    assert f"`{part.__struct_config__.tag}`" in PAGE


def test_every_limit_of_a_tokenizer_is_on_the_page() -> None:
    values = {name: value for name, value in vars(parts).items() if name.startswith("MAX_")}
    values |= {"growth": steps.MAX_GROWTH, "texts": charsmap.MAX_REPLACEMENT_CHARACTERS, "margin": excerpt.MARGIN}
    values |= {"per token": excerpt.CHARACTERS_PER_TOKEN, "more": excerpt.CHARACTERS_MORE}
    spelled = {64 * 2**20: "64 MiB", 2**22: "4 MiB", 2**30: "2³⁰"}
    values |= {"trie": check.MAX_TRIE_BYTES, "search": steps.MAX_SEARCH_STEPS}
    values |= {"character": steps.MAX_STEPS_PER_CHARACTER}
    missing = [name for name, value in values.items() if spelled.get(value, f"{value:,}") not in PAGE]
    assert missing == []


# What the walk calls the messages of onnx.proto.
_NAMES = {
    "DeviceConfigurationProto": "Configuration",
    "StringStringEntryProto": "Entry",
    "TensorAnnotation": "Annotation",
    "NodeDeviceConfigurationProto": "Placement",
    "ShardingSpecProto": "Sharding",
    "TypeProto.Tensor": "TensorType",
    "TypeProto.SparseTensor": "TensorType",
    "TypeProto.Sequence": "ListType",
    "TypeProto.Optional": "ListType",
    "TypeProto.Map": "MapType",
    "TypeProto.Opaque": "Opaque",
    "TensorProto.Segment": "Segment",
    "TensorShapeProto": "Shape",
    "TensorShapeProto.Dimension": "Dimension",
}


def test_the_walk_knows_every_message_and_text_of_onnx() -> None:
    pending, found = [onnx.ModelProto.DESCRIPTOR], {}
    while pending:
        message = pending.pop()
        found[message.full_name] = list(message.fields)
        pending += [f.message_type for f in message.fields if f.message_type and f.message_type.full_name not in found]

    def called(full_name: str) -> str:
        name = full_name.removeprefix("onnx.")
        return _NAMES.get(name, name.removesuffix("Proto"))

    fields = {called(name): each for name, each in found.items()}
    nested = {
        kind: {f.number: called(f.message_type.full_name) for f in f_ if f.message_type} for kind, f_ in fields.items()
    }
    assert nested == messages.NESTED
    texts = {kind: {f.number for f in f_ if f.type == f.TYPE_STRING} for kind, f_ in fields.items()}
    assert {kind: numbers for kind, numbers in texts.items() if numbers} == messages.TEXT
    single = {kind: {f.number for f in f_ if f.message_type and not f.is_repeated} for kind, f_ in fields.items()}
    assert {kind: numbers for kind, numbers in single.items() if numbers} == messages.SINGLE
