"""Take one stage file the way a bundle takes it: hash, checks, runtime, one run."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, FileEntry, Manifest, Provenance
from edgefuse.bundle.reader import Bundle
from edgefuse.errors import EdgefuseError
from edgefuse.runtime.backends.backend import Backend, SessionOptions
from tests import tiny
from tests.attack.attempt import Attempt
from tests.attack.stage_bombs import Bombs

MAX_CPU_SECONDS = 1.5
"""Of the check of a file that is small, or ends early."""
MAX_TAKEN_BYTES = 200 << 20
"""Of memory that such a check may take, beyond what is there before."""


class Memory:
    """The one file of a bundle, where others have a folder or an archive."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.sizes = {name: len(data) for name, data in files.items()}
        self.size_bytes = sum(self.sizes.values())
        self._files = files

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self._files[name]

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True)
class Ports:
    """What a file is fed and asked for."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    feeds: Mapping[str, npt.NDArray[Any]]


def read_from_bundle(data: bytes, target: str) -> bytes:
    """Return a stage file as a bundle whose hashes are right hands it to a runtime."""
    path = f"stages/edited.{target}"
    entry = FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    manifest = Manifest(
        target=target,
        model=tiny.spec(),
        stages=(),
        candidates=(),
        rungs=(),
        default_rung="",
        golden=(),
        files=(entry,),
        provenance=Provenance(weights_sha256="", data_sha256="", recipe_sha256="", tools={}),
    )
    return Bundle(Path("edited"), Memory({path: data}), manifest, "").read(path)


def run_once(backend: Backend, data: bytes, ports: Ports, threads: int = 1) -> dict[str, npt.NDArray[np.generic]]:
    """Open a file and run it once."""
    session = backend.open(data, ports.inputs, ports.outputs, SessionOptions(threads=threads))
    return session.run(ports.feeds)


def check_answer(results: Mapping[str, npt.NDArray[np.generic]], ports: Ports) -> None:
    """Check that a run gave an array for each port, of the type and shape that were declared."""
    assert set(results) == {binding.port for binding in ports.outputs}, sorted(results)
    for binding in ports.outputs:
        value = results[binding.port]
        assert value.dtype.name == binding.dtype, f"{value.dtype} is not {binding.dtype}"
        fits = len(value.shape) == len(binding.shape)
        fits = fits and all(size in (-1, found) for size, found in zip(binding.shape, value.shape, strict=False))
        assert fits, f"{value.shape} is not {binding.shape}"


def whole(open_: Callable[[], object]) -> None:
    """Open a file that nothing was done to: it must be taken."""
    try:
        open_()
    except EdgefuseError as error:
        raise AssertionError(f"refused, untouched: {error}") from error


def bombs(target: str, made: Bombs, large: Mapping[str, Callable[[], bytes]]) -> Iterator[Attempt]:
    """Yield files that would take all time or memory, and such as may be much: each is judged at once."""
    for name, make in {**{name: make for name, (make, _) in made.items()}, **large}.items():
        yield Attempt(f"bomb: {name}", partial(_judged, make(), target, taken=name in large), kind="bomb")


def _judged(data: bytes, target: str, *, taken: bool) -> None:
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = None
    try:
        read_from_bundle(data, target)
    except EdgefuseError as error:
        said = error
    seconds = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert seconds < MAX_CPU_SECONDS, f"took {seconds:.1f} s of CPU"
    assert grown < MAX_TAKEN_BYTES, f"took {grown} bytes"
    assert taken == (said is None), said or "was taken"
    if said is not None:
        raise said
