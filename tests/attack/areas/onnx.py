"""ONNX files whose hashes are right: edited messages and edited bytes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
from google.protobuf.message import DecodeError

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, cited
from edgefuse.runtime.backends.backend import Backend, SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from tests import tiny
from tests.attack.attempt import Area, Attempt
from tests.attack.converted import converted
from tests.attack.edits import edit_bytes, edit_message
from tests.attack.onnx_files import FILES
from tests.attack.onnx_operators import random_call
from tests.attack.opening import Ports, bombs, check_answer, read_from_bundle, run_once, whole
from tests.attack.stage_bombs import ONNX_BOMBS, ONNX_LARGE

_OPEN_SIZE = 5
_MOST = 2**22  # numbers that are fed to one port
_DTYPES: dict[int, Any] = {1: np.float32, 2: np.uint8, 6: np.int32}
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.training", "mine")


_OWN = 1500  # attempts on files that are built here, before a process of its own converts others


_CALLS = 0.4
"""Of the attempts: one operator, as ONNX Runtime takes it, and then edited. OpenVINO trusts indices, dies of some."""


@cache
def _built() -> dict[str, tuple[bytes, onnx.ModelProto]]:
    return _seeds({**{name: make() for name, make in FILES.items()}, **tiny.files()})


def _seeds(files: Mapping[str, bytes]) -> dict[str, tuple[bytes, onnx.ModelProto]]:
    return {name: (data, onnx.load_model_from_string(data)) for name, data in files.items()}


@cache
def _names() -> tuple[str, ...]:
    """Return what text may become: every operator, domains, and names within the files."""
    operators = {schema.name for schema in onnx.defs.get_all_schemas()}
    return (*sorted(operators), *("EPContext", "FusedConv", "BeamSearch", "QLinearAdd", "Attention"), *_DOMAINS * 10)


def _ports(model: onnx.ModelProto) -> Ports | None:
    """Return what a file says that it is fed and asked for, None where no manifest could say so."""
    source = np.random.default_rng(3)
    feeds = {}
    bindings: list[list[Binding]] = []
    for side in (model.graph.input, model.graph.output):
        bindings.append([])
        for value in side:
            kind = value.type.tensor_type
            sizes = [dim.dim_value if dim.dim_value > 0 else -1 for dim in kind.shape.dim]
            if kind.elem_type not in _DTYPES or math.prod(map(abs, sizes)) > _MOST:
                return None
            name = np.dtype(_DTYPES[kind.elem_type]).name
            bindings[-1].append(Binding(port=value.name, tensor=value.name, dtype=name, shape=tuple(sizes)))
    for binding in bindings[0]:
        sizes = [size if size > 0 else _OPEN_SIZE for size in binding.shape]
        feeds[binding.port] = source.integers(0, 3, sizes).astype(binding.dtype)
    return Ports(tuple(bindings[0]), tuple(bindings[1]), feeds)


def attempts(source: random.Random, folder: Path, backend: type[Backend] = OnnxBackend) -> Iterator[Attempt]:
    """Yield files as they are, bombs, and then edited files without end, each to be opened by a backend."""
    seeds = dict(_built())
    yield from _untouched(seeds, backend)
    yield from bombs("onnx", ONNX_BOMBS, ONNX_LARGE)
    for done in count():
        if done == _OWN:
            made = _seeds(converted(folder, "onnx"))
            seeds |= made
            yield from _untouched(made, backend)
        if backend is OnnxBackend and source.random() < _CALLS:
            what, edited, feeds = random_call(source)
            yield Attempt(what, partial(_run, edited, feeds), "operator")
            continue
        name = source.choice(sorted(seeds))
        data, model = seeds[name]
        if source.random() < 0.25:
            kind, (what, edited) = "bytes", edit_bytes(source, data)
        else:
            kind, (what, edited) = "edit", _edited_message(source, model)
        if edited == data:
            continue
        opens = partial(_open, edited, _ports(model), source.choice((1, 1, 2)), backend)
        yield Attempt(f"{name}: {what}", opens, kind)


def _untouched(seeds: Mapping[str, tuple[bytes, onnx.ModelProto]], backend: type[Backend]) -> Iterator[Attempt]:
    for name, (data, model) in sorted(seeds.items()):
        yield Attempt(f"{name}: untouched", partial(whole, partial(_open, data, _ports(model), 1, backend)), "seed")


def _edited_message(source: random.Random, model: onnx.ModelProto) -> tuple[str, bytes]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    used = [name for node in model.graph.node for name in (*node.input, *node.output)]
    said = [edit_message(source, changed, (*_names(), *used * 3)) for _ in range(source.choice((1, 1, 1, 2, 3)))]
    return ", ".join(said), changed.SerializeToString()


def _open(data: bytes, usual: Ports | None, threads: int, backend: type[Backend]) -> None:
    """Take a file as a bundle does, by the ports that it declares; what is accepted gives what it declares."""
    data = read_from_bundle(data, "onnx")
    try:
        ports = _ports(onnx.load_model_from_string(data)) or usual
    except DecodeError:  # what the walk takes of damaged bytes, protobuf may refuse
        ports = usual
    assert ports is not None
    check_answer(run_once(backend(), data, ports, threads), ports)


def _run(data: bytes, feeds: Mapping[str, Any]) -> None:
    """Run a file of one operator, whatever it answers."""
    data = read_from_bundle(data, "onnx")
    inputs = tuple(
        Binding(port=name, tensor=name, dtype=each.dtype.name, shape=each.shape) for name, each in feeds.items()
    )
    session = OnnxBackend().open(data, inputs, (), SessionOptions())
    try:
        session._run(None, feeds)  # type: ignore[attr-defined]  # all that it makes
    except Exception as error:
        raise BackendError("refused in a run", got=cited(error)) from error


AREA = Area(name="onnx", attempts=attempts, tries=5000, short=120, least=(("edit", 2000), ("operator", 1500)))
