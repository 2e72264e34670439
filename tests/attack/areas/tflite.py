"""TFLite files whose hashes are right: edited objects, edited bytes, and operators made at random."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.tflite.schema import Model, Tensor, read
from edgefuse.runtime.backends.tflite import TfliteBackend
from tests.attack.attempt import Area, Attempt
from tests.attack.edits import edit_bytes, edit_object
from tests.attack.opening import Ports, read_from_bundle, run_once
from tests.attack.tflite_files import FILES, pack, unpack
from tests.attack.tflite_operators import random_operator, read_or_none


@cache
def _seeds() -> dict[str, tuple[bytes, Any]]:
    files = {name: make() for name, make in FILES.items()}
    return {name: (data, unpack(data)) for name, data in files.items()}


def ports(model: Model) -> Ports:
    """Return what a file's main graph is fed and asked for, by the names that its signature gives them."""
    graph = model.graphs[0]

    def bindings(prefix: str, indices: tuple[int, ...]) -> tuple[Binding, ...]:
        tensors = [graph.tensors[index] for index in indices]
        return tuple(
            Binding(port=f"{prefix}_{i}", tensor=f"{prefix}_{i}", dtype=each.dtype, shape=each.shape)  # type: ignore[arg-type]
            for i, each in enumerate(tensors)
        )

    def feed(tensor: Tensor) -> Any:
        random_ = np.random.default_rng(tensor.elements)
        values = (
            random_.integers(0, 3, tensor.shape) if tensor.dtype != "float32" else random_.normal(size=tensor.shape)
        )
        return values.astype(tensor.dtype)

    feeds = {f"args_{i}": feed(graph.tensors[index]) for i, index in enumerate(graph.inputs)}
    return Ports(bindings("args", graph.inputs), bindings("output", graph.outputs), feeds)


def _attempts(source: random.Random, folder: Path) -> Iterator[Attempt]:
    while True:
        kind, name = source.random(), source.choice(sorted(_seeds()))
        untouched = _seeds()[name][0]
        if kind < 0.25:
            what, data = _edited_bytes(source, name)
        elif kind < 0.7:
            what, data = _edited_objects(source, name)
        else:
            what, data = random_operator(source)
            name, untouched = "random", data
        model = read_or_none(untouched)
        if model:
            yield Attempt(f"{name}: {what}", partial(_open, data, ports(model)))


def _edited_bytes(source: random.Random, name: str) -> tuple[str, bytes]:
    data, said = _seeds()[name][0], []
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        what, data = edit_bytes(source, data) if data else ("", data)
        said.append(what)
    return ", ".join(said), data


def _edited_objects(source: random.Random, name: str) -> tuple[str, bytes]:
    """Return what was done, and the file."""
    model = copy.deepcopy(_seeds()[name][1])
    said = [edit_object(source, model) for _ in range(source.choice((1, 1, 1, 1, 2, 3)))]
    try:
        return ", ".join(said), pack(model)
    except Exception:  # noqa: BLE001 - the schema's code writes what its types allow, and fails in many ways
        return "left as it was", _seeds()[name][0]


def _open(data: bytes, fed: Ports) -> None:
    """Take a file as a bundle does; what is accepted must give what it declares."""
    data = read_from_bundle(data, "tflite")
    model = read(data)
    graph = model.graphs[0]
    results = run_once(TfliteBackend(), data, fed)
    declared = sorted((graph.tensors[index].shape, graph.tensors[index].dtype) for index in set(graph.outputs))
    found = {(value.shape, value.dtype.name) for value in results.values()}
    assert found <= set(declared), f"{found} is not {declared}"


AREA = Area(name="tflite", attempts=_attempts, tries=3000, short=100)
