"""Calls of ONNX operators that are right, and edits of the numbers, shapes and attributes that they are made with.

What the walk takes, a runtime must survive: kernels index, divide and count by these numbers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
_INTEGERS = (
    *(-(2**63), 2**63 - 1, -(2**40), 2**33 + 1, 2**32, -(2**31) - 1, -(2**31), 2**31 - 1, 2**31, 10**6, -(10**6)),
    *(100, -100, -2, -1, 0, 1, 2, 3, 7),
)
_REALS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e30, -1e30, 3e38, 1e-45, -1.0, 1e9, -1e9, 2.0**63)
_TEXTS = (
    *("", "x", "NOTSET", "VALID", "SAME_UPPER", "linear", "nearest", "cubic", "bidirectional", "Affine", "Elu"),
    *("HardSigmoid", "ii->i", "->", "i,i->", "...ij->...ji", "a" * 60),
)
_OLD = {"Scatter": 9, "Upsample": 9}


@dataclass(frozen=True)
class OperatorCall:
    """An operator with its inputs (None where one is left out), the number of its outputs and its attributes."""

    kind: str
    domain: str
    inputs: tuple[Array | None, ...]
    outputs: int
    attributes: Mapping[str, Any]


def random_call(source: random.Random) -> tuple[str, bytes, dict[str, Array]]:
    """Return what was done to a call, the file of it, and what it is fed."""
    call = source.choice(_calls())
    inputs, attributes, outputs, said = list(call.inputs), dict(call.attributes), call.outputs, []
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        chance = source.random()
        if chance < 0.6 and inputs:
            place = _place(source, inputs)
            inputs[place] = _edited(source, inputs[place])
            said.append(f"input {place}")
        elif chance < 0.9 and attributes:
            name = source.choice(sorted(attributes))
            attributes[name] = _edited_attribute(source, attributes[name])
            said.append(f"{name} = {str(attributes[name])[:40]}")
        elif chance < 0.95 and inputs:
            place = source.randrange(len(inputs))
            inputs[place] = None
            said.append(f"no input {place}")
        elif source.random() < 0.5:
            inputs = inputs[:-1]
            said.append("an input less")
        else:
            outputs = source.choice((1, 2, 3, 4))
            said.append(f"{outputs} outputs")
    data, feeds = _file(source, OperatorCall(call.kind, call.domain, tuple(inputs), outputs, attributes))
    return f"{call.domain} {call.kind}: {', '.join(said)}", data, feeds


def _place(source: random.Random, inputs: list[Array | None]) -> int:
    """Return the place of an input to edit: mostly of integers, which name places and sizes."""
    whole = [place for place, each in enumerate(inputs) if each is not None and each.dtype.kind == "i"]
    return source.choice(whole) if whole and source.random() < 0.6 else source.randrange(len(inputs))


def _file(source: random.Random, call: OperatorCall) -> tuple[bytes, dict[str, Array]]:
    names, constants, ports, feeds = [], [], [], {}
    for place, each in enumerate(call.inputs):
        names.append("" if each is None else f"i{place}")
        if each is None:
            continue
        if source.random() < (0.75 if each.dtype.kind == "i" else 0.4):
            constants.append(numpy_helper.from_array(each, names[-1]))
        else:
            kind = helper.np_dtype_to_tensor_dtype(each.dtype)
            ports.append(helper.make_tensor_value_info(names[-1], kind, list(each.shape)))
            feeds[names[-1]] = each
    made = [f"o{place}" for place in range(call.outputs)]
    node = helper.make_node(call.kind, names, made, domain=call.domain, **call.attributes)
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name=name) for name in made], constants)
    version = _OLD.get(call.kind) or source.choice((24, 24, 23, 23, 21, 20, 18, 13, 11))
    versions = [helper.make_opsetid("", version), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()), feeds


def _edited(source: random.Random, value: Array | None) -> Array | None:
    """Return an input with other numbers, or of another shape."""
    if value is None:
        return None
    kind = source.choice(("value",) * 6 + ("all", "shape", "shape", "empty", "rank", "long", "one"))
    if kind in ("value", "all"):
        flat = value.reshape(-1).copy()
        places = slice(None) if kind == "all" or not flat.size else slice(source.randrange(flat.size), None, flat.size)
        flat[places] = _number(source, value.dtype)
        return flat.reshape(value.shape)
    shape = list(value.shape)
    if kind == "rank" and shape and source.random() < 0.5:
        del shape[source.randrange(len(shape))]
    elif kind == "rank" or not shape:
        shape.insert(source.randrange(len(shape) + 1), source.choice((0, 1, 1, 2)))
    else:
        axis = source.randrange(len(shape))
        near = max(0, shape[axis] + source.choice((-2, -1, 1, 2)))
        shape[axis] = {"shape": near, "empty": 0, "one": 1, "long": shape[axis] * source.choice((2, 16))}[kind]
    return np.resize(value, shape) if value.size else np.zeros(shape, value.dtype)


def _number(source: random.Random, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return source.choice([each for each in _INTEGERS if bounds.min <= each <= bounds.max])
    return source.random() < 0.5 if dtype.kind == "b" else source.choice(_REALS)


def _edited_attribute(source: random.Random, value: Any) -> Any:
    if isinstance(value, list):
        kind = source.choice(("one", "one", "one", "less", "more", "all"))
        if kind == "one":
            place = source.randrange(len(value))
            return [*value[:place], _edited_attribute(source, value[place]), *value[place + 1 :]]
        if kind == "all":
            return [_edited_attribute(source, value[0])] * len(value)
        return value[:-1] or value if kind == "less" else value + value[:1]
    if isinstance(value, int):
        return max(-(2**63), min(source.choice((*_INTEGERS, value + 1, value - 1, value * 2)), 2**63 - 1))
    return source.choice(_REALS) if isinstance(value, float) else source.choice((*_TEXTS, value + value))


@cache
def _calls() -> tuple[OperatorCall, ...]:
    """Return calls that ONNX Runtime takes, nearly all of them."""
    lines = (Path(__file__).parent / "onnx_calls.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_call(json.loads(line)) for line in lines)


def _call(said: Mapping[str, Any]) -> OperatorCall:
    inputs = tuple(_array(each) if each else None for each in said["inputs"])
    return OperatorCall(
        said["kind"], said.get("domain", ""), inputs, said.get("outputs", 1), said.get("attributes", {})
    )


def _array(said: Mapping[str, Any]) -> Array:
    """Return an input: of the values that are said, or of any of its type and shape."""
    dtype = np.dtype(said["type"])
    if "values" in said:
        return np.array(said["values"], dtype).reshape(said.get("shape", [-1]))
    source = np.random.default_rng(0)
    values: Array
    if dtype.kind == "f":
        values = source.normal(0, 1, said["shape"])
        values = np.abs(values) if said.get("positive") else values
    else:
        values = source.integers(-127 if dtype.kind == "i" else 0, 128, said["shape"])
    return values.astype(dtype)
