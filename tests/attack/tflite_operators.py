"""TFLite files of one operator made at random: types, shapes, constants and options that its rule lets through.

What a rule takes, a runtime must survive. Shapes come from one another (whole, suffixes, ones), so that many fit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.call import Call
from edgefuse.bundle.tflite.kinds import KINDS, Kind
from edgefuse.bundle.tflite.operators import fields, options_of
from edgefuse.bundle.tflite.schema import read
from tests.attack.tflite_builder import FileBuilder, pack

_ALONE = tuple(sorted(KINDS.keys() - {"WHILE", "STABLEHLO_SCATTER", "STABLEHLO_REDUCE_WINDOW"}))
_ANY = ("float32",) * 8 + (
    "int32",
    "int8",
    "int8",
    "uint8",
    "int16",
    "int64",
    "bool",
    "float16",
    "float64",
    "complex64",
    "int4",
)
_FIXED = {
    "N": ("int32",),
    "I": ("int32", "int64"),
    "J": ("int32", "int64", "int16"),
    "B": ("bool",),
    "F": ("float32",),
    "C": ("complex64",),
}
_SCALES = (0.02, 0.02, 0.02, 1 / 256, 1 / 128, 1.0, 1e-12, 1e12, 1e-29, 1e29)
_OPTIONS = {"b": (0, 0, 0, 1, 1, 2, 3, 4, 5, 9), "?": (0, 1), "f": (1.0, 0.0, -1.0, 1e30, float("nan"), 0.1)}
_NUMBERS = (-1, 0, 1, 1, 1, 2, 2, 3, 4)
# What is rare by chance: operators whose inputs have one rank, or take a number for each axis (or one).
_RANKS = {
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 4,
    "CONV_3D": 5,
    "TRANSPOSE_CONV": 4,
    "FULLY_CONNECTED": 2,
    "BATCH_MATMUL": 3,
}
_LISTS = {"STRIDED_SLICE": True, "SLICE": True, "SPLIT_V": False, "ONE_HOT": False, "GATHER": True, "TOPK_V2": False}
# Types of data (x), weights (b) and bias (*) that products are made of.
_PRODUCTS = (
    {"x": "float32", "b": "float32", "*": "float32"},
    {"x": "int8", "b": "int8", "*": "int32"},
    {"x": "float32", "b": "int8", "*": "float32"},
    {"x": "float32", "b": "int4", "*": "float32"},
    {"x": "int8", "b": "int4", "*": "int32"},
    {"x": "uint8", "b": "uint8", "*": "int32"},
    {"x": "int16", "b": "int8", "*": "int64"},
)
UNIONS = {number: name for name, number in vars(schema.BuiltinOptions).items() if not name.startswith("_")}


def random_operator(source: random.Random, kinds: Sequence[str] = _ALONE) -> tuple[str, bytes]:
    """Return what the operator is and its file; nothing where no attempt fitted."""
    name = source.choice(kinds)
    for _ in range(60):
        file = _Random(source, name, KINDS[name])
        if file.fit():
            return file.said(), file.data()
    return "", b""


class _Random(FileBuilder):
    """A file of one operator, whose inputs are random."""

    def __init__(self, source: random.Random, name: str, kind: Kind) -> None:
        super().__init__()
        self._source, self._name, self._kind = source, name, kind
        self._base = self._shape()
        self._units = source.choice((1, 2, 4, 8))
        products = source.choice(_PRODUCTS) if name in _RANKS and source.random() < 0.9 else {}
        self._bound: dict[str, str] = dict(products)
        before, _, behind = kind.types.partition(">")
        inputs = self._repeat(before)
        places = [self._input(letter, place) for place, letter in enumerate(inputs)]
        outputs = []
        for letter in self._repeat(behind):
            dtype = self._dtype(letter)
            outputs.append(self.tensor([1], dtype, self._scale(dtype)))
        union = UNIONS[kind.union] if kind.union else ""
        options = {_camel(field.name): self._option(field) for field in fields(kind.options)} if union else {}
        self.call(name, places, outputs, union if source.random() < 0.95 else "", **(options if union else {}))
        self.finish(*outputs)

    def fit(self) -> bool:
        """Give the outputs the shapes that the rule says; whether it says any."""
        model = read_or_none(pack(self.model))
        if model is None:
            return False
        graph = model.graphs[0]
        (operator,) = graph.operators
        inputs = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
        outputs = [graph.tensors[index] for index in operator.outputs]
        call = Call(model, self._name, inputs, outputs, options_of(self._name, self._kind, operator))
        try:
            shapes = self._kind.rule(call)
        except RefusedError:
            return False
        if len(shapes) != len(outputs):
            return False
        for index, shape in zip(self.graph.outputs, shapes, strict=True):
            self.graph.tensors[index].shape = np.array(shape, np.int32)
        return True

    def data(self) -> bytes:
        """Return the file."""
        return pack(self.model)

    def said(self) -> str:
        """Say what it is."""
        tensors = [self.graph.tensors[index] for index in (*self.graph.operators[0].inputs, *self.graph.outputs)]
        return f"{self._name} {[(int(t.type), t.shape.tolist(), t.buffer > 0) for t in tensors]}"

    def _repeat(self, letters: str) -> list[str]:
        found = []
        for letter in letters.split(","):
            times = self._source.randint(1, 4) if letter.endswith("+") else 1
            if not (letter.endswith("?") and self._source.random() < 0.3):
                found += [letter[0]] * times
        return found

    def _shape(self) -> list[int]:
        rank = _RANKS.get(self._name) or self._source.choice((0, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 6, 6))
        return [self._source.choice((1, 1, 2, 3, 4, 5, 8)) for _ in range(rank)]

    def _near(self) -> list[int]:
        """Return a shape that may fit the others'."""
        base, kind = self._base, self._source.randrange(8)
        if kind == 0:
            return self._shape()
        if kind == 1:
            return base[self._source.randint(0, len(base)) :]
        if kind == 2:
            return [1 if self._source.random() < 0.4 else size for size in base]
        if kind == 3:
            return base[-1:]
        return list(base)

    def _dtype(self, letter: str) -> str:
        if letter in _FIXED:
            return self._source.choice(_FIXED[letter])
        if letter == "*" and letter not in self._bound:
            return self._source.choice(_ANY)
        return self._bound.setdefault(letter, self._source.choice(_ANY))

    def _scale(self, dtype: str) -> list[float]:
        quantized = dtype in ("int8", "uint8", "int16", "int4", "int32")
        return [self._source.choice(_SCALES)] if quantized and self._source.random() < 0.8 else []

    def _input(self, letter: str, place: int) -> int:
        source, dtype = self._source, self._dtype(letter)
        if letter in "NIJ" and source.random() < 0.9:
            listed = self._listed() if self._name in _LISTS and source.random() < 0.9 else self._numbers()
            return self.constant(listed.astype(dtype))
        weighted = self._name in _RANKS and source.random() < 0.9
        shape = self._weights(place) if weighted else self._near()
        scales = self._scale(dtype)
        if source.random() < 0.4 or dtype == "int4":
            return self._weight(dtype, shape, scales)
        return self.input(shape, dtype, scales)

    def _weights(self, place: int) -> list[int]:
        """Return a shape that may fit as an input, weights or a bias."""
        source, base, units = self._source, self._base, self._units
        kinds = ["data", "weights", "bias"] if self._name != "TRANSPOSE_CONV" else ["", "weights", "data", "bias"]
        kind = kinds[min(place, len(kinds) - 1)]
        if kind == "data":
            return base
        if kind == "bias":
            return [units * base[-1] if self._name == "DEPTHWISE_CONV_2D" else units]
        window, inner = [source.choice((1, 2, 3)) for _ in base[1:-1]], base[-1]
        shapes = {
            "DEPTHWISE_CONV_2D": [1, *window, units * inner],
            "CONV_3D": [*window, inner, units],
            "FULLY_CONNECTED": [units, inner],
            "BATCH_MATMUL": [*base[:-2], inner, units],
        }
        return shapes.get(self._name, [units, *window, inner])

    def _listed(self) -> Any:
        """Return a list of a number for each axis, or one."""
        source, rank = self._source, max(1, len(self._base))
        if _LISTS[self._name]:
            return np.array([source.choice((0, 0, 1, 1, 1, 2, 3, -1)) for _ in range(rank)], np.int64)
        return np.array(source.choice((0, 1, 2, 3)))

    def _weight(self, dtype: str, shape: Sequence[int], scales: list[float]) -> int:
        elements = int(np.prod(shape, dtype=np.int64))
        random_ = np.random.default_rng(self._source.randrange(2**32))
        axis = self._source.randrange(max(1, len(shape)))
        if scales and shape and self._source.random() < 0.5:
            scales = scales * shape[axis]
        if dtype == "int4":
            index = self.constant(
                random_.integers(0, 256, -(-elements // 2), np.uint8), scales, dtype="int4", axis=axis
            )
            self.graph.tensors[index].shape = np.array(shape, np.int32)
            return index
        values = random_.normal(0, 2, shape).astype(dtype) if dtype != "bool" else random_.random(shape) < 0.5
        return self.constant(values, scales, axis=axis if len(scales) > 1 else 0)

    def _numbers(self) -> Any:
        """Return a list of integers that may be a shape, axes, an order, paddings, sizes or places."""
        source, rank = self._source, len(self._base)
        order = list(range(rank))
        source.shuffle(order)
        kind = source.randrange(9)
        if kind == 0:
            return np.array(source.choice(_NUMBERS))
        if kind == 1:
            return np.array(order)
        if kind == 2:
            return np.array([source.choice((0, 0, 1, 2)) for _ in range(2 * rank)]).reshape(rank, 2)
        if kind == 3:
            return np.array(self._near(), np.int64)
        if kind == 4:
            return np.array([source.choice((1, 1, 2, 3)) for _ in range(rank)], np.int64)
        if kind == 5:
            return np.array([source.choice(_NUMBERS) for _ in range(source.randint(0, rank))], np.int64)
        if kind == 6:
            return np.array([source.choice((4, 8, 16)), source.choice((4, 8, 1))])
        if kind == 7:
            return np.array([0] * rank, np.int64)
        return np.array([source.choice(_NUMBERS) for _ in range(rank)], np.int64)

    def _option(self, field: Any) -> Any:
        if field.listed:
            return np.array(self._numbers().ravel(), np.int32)
        if field.name.endswith("_mask"):
            return self._source.choice((0, 0, 0, 0, 1, 2))
        if field.name == "depth_multiplier":
            return self._units
        if field.name.startswith(("stride", "dilation", "filter", "block")):
            return self._source.choice((1, 1, 1, 2, 2, 3))
        if field.kind in _OPTIONS:
            return self._source.choice(_OPTIONS[field.kind])
        return self._source.choice((*_NUMBERS, len(self.graph.inputs)))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def read_or_none(data: bytes) -> Any:
    """Return what a file says, or None where even that is refused (or there is none)."""
    try:
        return read(data) if data else None
    except RefusedError:
        return None
