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
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from tests.attack.attempt import Area, Attempt
from tests.attack.converted import converted
from tests.attack.edits import edit_bytes, edit_object
from tests.attack.opening import Ports, bombs, check_answer, read_from_bundle, run_once, whole
from tests.attack.stage_bombs import TFLITE_BOMBS, TFLITE_LARGE
from tests.attack.tflite_builder import pack, unpack
from tests.attack.tflite_files import FILES
from tests.attack.tflite_operators import random_operator, read_or_none

_OWN = 1500  # attempts on files that are built here, before a process of its own converts others
_MOST_EDITS = 20  # tries to make one that the schema's code can write


@dataclass(frozen=True)
class _Seed:
    """A whole file, as bytes and as the schema's objects, and the names of its ports."""

    data: bytes
    model: Any
    names: Mapping[int, str]


@cache
def _built() -> dict[str, _Seed]:
    return {name: _seed(make()) for name, make in FILES.items()}


def _seed(data: bytes) -> _Seed:
    model = unpack(data)
    signature = model.signatureDefs[0]
    names = {port.tensorIndex: port.name.decode() for port in (*signature.inputs, *signature.outputs)}
    return _Seed(data, model, names)


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
    yield from _untouched(seeds)
    yield from bombs("tflite", TFLITE_BOMBS, TFLITE_LARGE)
    for done in count():
        if done == _OWN:
            made = {name: _seed(data) for name, data in converted(folder, "tflite").items()}
            seeds |= made
            yield from _untouched(made)
        chance, name = source.random(), source.choice(sorted(seeds))
        seed: _Seed | None = seeds[name]
        if chance < 0.15:
            kind, (what, data) = "bytes", _edited_bytes(source, seeds[name].data)
        elif chance < 0.8:
            kind, (what, data) = "edit", _edited_objects(source, seeds[name])
        else:
            kind, name, seed, (what, data) = "operator", "random", None, random_operator(source)
            if read_or_none(data) is None:
                continue
        if seed is not None and data == seed.data:
            continue
        yield Attempt(f"{name}: {what}", partial(_open, data, seed, source.choice((1, 1, 2))), kind)


def _untouched(seeds: Mapping[str, _Seed]) -> Iterator[Attempt]:
    for name, seed in sorted(seeds.items()):
        yield Attempt(f"{name}: untouched", partial(whole, partial(_open, seed.data, seed)), "seed")


def _edited_bytes(source: random.Random, data: bytes) -> tuple[str, bytes]:
    said = []
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        what, data = edit_bytes(source, data) if data else ("", data)
        said.append(what)
    return ", ".join(said), data


def _edited_objects(source: random.Random, seed: _Seed) -> tuple[str, bytes]:
    """Return what was done, and the file; the seed's own where the schema's code could not write any edit."""
    for _ in range(_MOST_EDITS):
        model = copy.deepcopy(seed.model)
        said = [edit_object(source, model) for _ in range(source.choice((1, 1, 1, 1, 2, 3)))]
        try:
            data = pack(model)
        except Exception:  # noqa: BLE001 - the schema's code writes what its types allow, and fails in many ways
            continue
        if data != seed.data:
            return ", ".join(said), data
    return "", seed.data


def _open(data: bytes, seed: _Seed | None, threads: int = 1) -> None:
    """Take a file as a bundle does, by the ports that it declares; what is accepted must give what it declares."""
    data = read_from_bundle(data, "tflite")
    fed = ports(read(data), seed.names if seed else {})
    check_answer(run_once(TfliteBackend(), data, fed, threads), fed)


AREA = Area(name="tflite", attempts=_attempts, tries=3400, short=100, least=(("edit", 2000),))
