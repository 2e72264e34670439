"""TFLite files whose hashes are right: edited objects, edited bytes, and operators made at random."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.tflite.schema import Model, read
from edgefuse.runtime.backends.tflite import TfliteBackend
from tests.attack.attempt import Area, Attempt
from tests.attack.converted import converted
from tests.attack.edits import edit_bytes, edit_object
from tests.attack.opening import Ports, read_from_bundle, run_once
from tests.attack.tflite_files import FILES, pack, unpack
from tests.attack.tflite_operators import random_operator, read_or_none

_OWN = 1500  # attempts on files that are built here, before a process of its own converts others


@dataclass(frozen=True)
class _Seed:
    """A whole file, as bytes and as the schema's objects, and what it is fed and asked for."""

    data: bytes
    model: Any
    ports: Ports


@cache
def _built() -> dict[str, _Seed]:
    return {name: _seed(make()) for name, make in FILES.items()}


def _seed(data: bytes) -> _Seed:
    model = unpack(data)
    signature = model.signatureDefs[0]
    names = {port.tensorIndex: port.name.decode() for port in (*signature.inputs, *signature.outputs)}
    return _Seed(data, model, ports(read(data), names))


def ports(model: Model, names: Mapping[int, str] = MappingProxyType({})) -> Ports:
    """Return what a file's main graph is fed and asked for, by names or as a `FileBuilder` names its ports."""
    graph = model.graphs[0]

    def bindings(prefix: str, indices: tuple[int, ...]) -> tuple[Binding, ...]:
        named = [(names.get(index, f"{prefix}_{place}"), graph.tensors[index]) for place, index in enumerate(indices)]
        return tuple(
            Binding(port=name, tensor=name, dtype=each.dtype, shape=each.shape)  # type: ignore[arg-type]
            for name, each in named
        )

    def feed(binding: Binding) -> Any:
        source = np.random.default_rng(3)
        values = source.integers(0, 3, binding.shape)
        return (values if binding.dtype != "float32" else source.normal(size=binding.shape)).astype(binding.dtype)

    inputs = bindings("args", graph.inputs)
    return Ports(inputs, bindings("output", graph.outputs), {binding.port: feed(binding) for binding in inputs})


def _attempts(source: random.Random, folder: Path) -> Iterator[Attempt]:
    seeds = dict(_built())
    for done in count():
        if done == _OWN:
            seeds |= {name: _seed(data) for name, data in converted(folder, "tflite").items()}
        kind, name = source.random(), source.choice(sorted(seeds))
        fed = seeds[name].ports
        if kind < 0.25:
            what, data = _edited_bytes(source, seeds[name].data)
        elif kind < 0.7:
            what, data = _edited_objects(source, seeds[name])
        else:
            what, data = random_operator(source)
            model = read_or_none(data)
            if model is None:
                continue
            name, fed = "random", ports(model)
        yield Attempt(f"{name}: {what}", partial(_open, data, fed, source.choice((1, 1, 2))))


def _edited_bytes(source: random.Random, data: bytes) -> tuple[str, bytes]:
    said = []
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        what, data = edit_bytes(source, data) if data else ("", data)
        said.append(what)
    return ", ".join(said), data


def _edited_objects(source: random.Random, seed: _Seed) -> tuple[str, bytes]:
    """Return what was done, and the file."""
    model = copy.deepcopy(seed.model)
    said = [edit_object(source, model) for _ in range(source.choice((1, 1, 1, 1, 2, 3)))]
    try:
        return ", ".join(said), pack(model)
    except Exception:  # noqa: BLE001 - the schema's code writes what its types allow, and fails in many ways
        return "left as it was", seed.data


def _open(data: bytes, fed: Ports, threads: int = 1) -> None:
    """Take a file as a bundle does; what is accepted must give what it declares."""
    data = read_from_bundle(data, "tflite")
    model = read(data)
    graph = model.graphs[0]
    results = run_once(TfliteBackend(), data, fed, threads)
    declared = sorted((graph.tensors[index].shape, graph.tensors[index].dtype) for index in set(graph.outputs))
    found = {(value.shape, value.dtype.name) for value in results.values()}
    assert found <= set(declared), f"{found} is not {declared}"


AREA = Area(name="tflite", attempts=_attempts, tries=3000, short=100)
