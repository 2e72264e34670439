"""A contender: a system with its file made and judged, or the reason why it has none. Both are kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers.catalogue import System
from benchmarks.peers.environment import PROJECT, REQUIREMENTS, interpreter, versions
from benchmarks.peers.protocol import Worker, build
from benchmarks.peers.subject import Array, Subject
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler.search.frontier import reduced

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """A system that takes part.

    Attributes:
        name: as it stands in the table.
        runtime: the module in `runtimes/` that opens the file.
        version: of the tools.
        note: what the setting is.
        python: the interpreter that runs it.
        file: what is opened.
        size_bytes: of all its files, frontends included.
        folder: where its log and answers lie.
        kind: `peer`, `pruned` or `unpruned` (edgefuse's own).
    """

    name: str
    runtime: str
    version: str
    note: str
    python: Path
    file: Path
    size_bytes: int
    folder: Path
    kind: str = "peer"

    def worker(self, subject: Subject) -> Worker:
        """Start a process that has the file open."""
        module = "edgefuse" if self.kind != "peer" else self.runtime
        return Worker(self.python, module, self.file, subject.folder, self.folder / "serve.log")

    def answers(self, subject: Subject, items: int) -> Mapping[str, Array]:
        """Return the answers to the test split by subset, from disk if this very file has been judged."""
        key = _digest(subject.about.digest, str(items), self.version, str(self.file), *_stamps([self.file]))
        file, note = self.folder / "answers.npz", self.folder / "answers.key"
        if not (note.is_file() and note.read_text(encoding="utf-8") == key):
            with self.worker(subject) as worker:
                worker.judge(file, items)
            note.write_text(key, encoding="utf-8")
        with np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}


def prepare(system: System, subject: Subject, work: Path, environments: Path, seconds: float) -> Contender:
    """Make a peer's file in its environment, unless it is there already.

    Raises:
        MeasureError: if the environment or the file cannot be made.
    """
    folder = (work / system.name.replace(" ", "-").replace(",", "")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = interpreter(system.environment, environments)
    found = versions(python, system.packages)
    sources = [_HERE / "quantizers" / f"{system.quantizer}.py", REQUIREMENTS / f"{system.environment}.txt"]
    texts = [path.read_text(encoding="utf-8") for path in sources if path.is_file()]
    key = _digest(subject.about.digest, system.setting, found, *texts)
    record = folder / "built.json"
    if not record.is_file() or json.loads(record.read_text(encoding="utf-8"))["key"] != key:
        arguments = [system.quantizer, system.setting, str(subject.folder), str(folder)]
        files = build(python, arguments, folder / "build.log", seconds)
        record.write_text(json.dumps({"key": key, "files": [str(path) for path in files]}), encoding="utf-8")
    files = [Path(path) for path in json.loads(record.read_text(encoding="utf-8"))["files"]]
    return Contender(
        name=system.name,
        runtime=system.runtime,
        version=found,
        note=system.note,
        python=interpreter(system.runs_in or system.environment, environments),
        file=files[0],
        size_bytes=sum(path.stat().st_size for path in files),
        folder=folder,
    )


_RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}
_PACKAGES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}


def from_bundle(path: Path, subject: Subject, work: Path) -> Iterator[Contender]:
    """Yield the fastest rung of a bundle without a pruned stage, the fastest with one, and the reduced rungs.

    What a reduced rung loses was beyond the budget on validation data; the table says what it is on the test split. A
    bundle of another model has none of them. `BundleError` if it cannot be read.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
    if manifest.model.name != subject.about.model:
        return
    seen: set[str] = set()
    for rung in manifest.rungs:
        candidates = [manifest.candidate(id_) for id_ in rung.candidates.values()]
        kind = "pruned" if any(candidate.pruning is not None for candidate in candidates) else "unpruned"
        if kind in seen and not reduced(rung.name):
            continue
        seen.add(kind)
        name = f"edgefuse {manifest.target}{' pruned' * (kind == 'pruned')}{f' {rung.name}' * reduced(rung.name)}"
        folder = (work / name.replace(" ", "-")).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        yield Contender(
            name=name,
            runtime="+".join(_RUNTIMES.get(name, name) for name in manifest.backends),
            version=versions(
                interpreter(PROJECT, work),
                ("edgefuse", *(_PACKAGES.get(name, name) for name in manifest.backends)),
            ),
            note=f"the rung '{rung.name}' of {path.name}",
            python=interpreter(PROJECT, work),
            file=Path(f"{path.resolve()}@{rung.name}"),
            size_bytes=sum({candidate.sha256: candidate.size_bytes for candidate in candidates}.values()),
            folder=folder,
            kind=kind,
        )


def _stamps(files: Sequence[Path]) -> list[str]:
    """Return the hashes of files (a rung's is its bundle's)."""
    paths = [Path(str(path).rpartition("@")[0]) if "@" in path.name else path for path in files]
    return [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
