"""A candidate: a file that could run a stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgefuse.bundle.manifest import Binding, BuildPlan, Candidate, Pruning, Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.arrays import changed
from edgefuse.export.target import Lowered, Target
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions
from edgefuse.runtime.processor import available_processors

FLOAT = Scheme(name="float")


@dataclass(frozen=True)
class Built:
    """A stage's file for one target, pruning and scheme; `joined` if it stands among files of other targets."""

    target: str
    stage: str
    scheme: Scheme
    path: Path
    sha256: str
    size_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    opset: str
    pruning: Pruning | None = None
    plan: BuildPlan | None = None
    joined: bool = False

    @property
    def id(self) -> str:
        """The candidate's name within its bundle, such as `text_encoder.structured50.dynamic_wi8_af32`."""
        name = candidate_id(self.stage, self.pruning, self.scheme)
        return joined_id(name, self.target) if self.joined else name

    @property
    def is_float(self) -> bool:
        """Whether it is the unpruned stage in float, without which a target has nothing to start from."""
        return self.pruning is None and self.scheme == FLOAT

    @property
    def label(self) -> str:
        """The scheme, with the target where there are several."""
        return joined_id(self.scheme.id, self.target) if self.joined else self.scheme.id

    @property
    def form(self) -> tuple[str, str]:
        """The stage, and how it was pruned: what the file must agree with."""
        return self.stage, self.pruning.id if self.pruning else ""

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            CacheError: if it is not what it was when this compile found or made it.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise changed(self.path, error.strerror) from error
        if (found := fingerprint.of_bytes(data)) != self.sha256:
            raise changed(self.path, f"SHA-256 {found}")
        return data

    def lowered(self) -> Lowered:
        """Read the file; errors are those of `read`."""
        return Lowered(self.read(), self.inputs, self.outputs, self.opset, self.plan)

    def open(self, backend: Backend, threads: int) -> Session:
        """Open the file in its target's runtime; errors are those of `read`, too."""
        # A device that measures may have more processors than this machine, where answers are judged.
        options = SessionOptions(threads=min(threads, available_processors()), plan=self.plan)
        return backend.open(self.read(), self.inputs, self.outputs, options)

    def file(self, target: Target) -> str:
        """Return the path of the file in a bundle."""
        return f"stages/{self.id}{target.suffix}"

    def record(self, target: Target, tolerance: Tolerance) -> Candidate:
        """Return the entry of a bundle's manifest."""
        return Candidate(
            id=self.id,
            stage=self.stage,
            target=self.target,
            backend=target.backend,
            accelerator=target.accelerator,
            scheme=self.scheme.id,
            exclude=self.scheme.exclude,
            file=self.file(target),
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            inputs=self.inputs,
            outputs=self.outputs,
            opset=self.opset,
            tolerance=tolerance,
            pruning=self.pruning,
            plan=self.plan,
        )


@dataclass(frozen=True)
class FileRunner:
    """A candidate's file in its target's runtime."""

    built: Built
    backend: Backend
    threads: int
    batch: int = 1

    @property
    def identity(self) -> str:
        """The file and the runtime."""
        return f"{self.built.sha256} {sorted(self.backend.versions().items())} {self.threads}"

    def session(self) -> Session:
        """Open the file."""
        return self.built.open(self.backend, self.threads)


def joined_id(name: str, target: str) -> str:
    """Return the name of a target's candidate where it stands among those of others."""
    return f"{name}@{target}"


def candidate_id(stage: str, pruning: Pruning | None, scheme: Scheme) -> str:
    """Return the name of a candidate within its target.

    Args:
        stage: its name.
        pruning: of the form; None if it is unpruned.
        scheme: of the file.
    """
    return ".".join([stage, *([pruning.id] if pruning else []), scheme.id])
