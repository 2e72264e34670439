"""Take one stage file the way a bundle takes it: hash, checks, runtime, one run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, FileEntry, Manifest, Provenance
from edgefuse.bundle.reader import Bundle
from edgefuse.runtime.backends.backend import Backend, SessionOptions
from tests import tiny


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
        backend=target,
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
