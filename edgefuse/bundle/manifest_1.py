"""Manifests of schema 1, read as what they mean in schema 2.

Schema 1 named one backend for the whole bundle, and kept a scheme as a record of fields.
"""

from __future__ import annotations

from typing import Literal

from edgefuse.bundle.manifest import (
    Binding,
    BuildPlan,
    Candidate,
    FileEntry,
    GoldenCase,
    Manifest,
    Provenance,
    Pruning,
    Rung,
    Tolerance,
)
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import ModelSpec, Record, StageSpec

_GPU = frozenset({"tensorrt"})
"""The backends of schema 1 whose files ran on a GPU."""


class Scheme1(Scheme, frozen=True, kw_only=True):
    """A scheme of schema 1; `aware` if biases and norms were trained on through the rounding before."""

    name: Literal["float", "fp16", "dynamic_wi4_af32", "dynamic_wi8_af32", "static_wi8_ai8"]
    aware: bool = False

    def spelled(self) -> str:
        """Return the scheme as schema 2 spells it."""
        return self.id + ".aware" * self.aware


class Candidate1(Record, frozen=True, kw_only=True):
    """A candidate of schema 1."""

    id: str
    stage: str
    target: str
    scheme: Scheme1
    file: str
    sha256: str
    size_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    opset: str
    tolerance: Tolerance
    pruning: Pruning | None = None
    plan: BuildPlan | None = None

    def upgraded(self, backend: str) -> Candidate:
        """Return the candidate in schema 2.

        Args:
            backend: of its bundle.
        """
        same = {name: getattr(self, name) for name in self.__struct_fields__}
        return Candidate(
            **same
            | {
                "backend": backend,
                "accelerator": "gpu" if backend in _GPU else "cpu",
                "scheme": self.scheme.spelled(),
                "exclude": self.scheme.exclude,
            }
        )


class Manifest1(Record, frozen=True, kw_only=True):
    """A manifest of schema 1."""

    schema: tuple[int, int]
    target: str
    backend: str
    model: ModelSpec
    stages: tuple[StageSpec, ...]
    candidates: tuple[Candidate1, ...]
    rungs: tuple[Rung, ...]
    default_rung: str
    golden: tuple[GoldenCase, ...]
    files: tuple[FileEntry, ...]
    provenance: Provenance

    def upgraded(self) -> Manifest:
        """Return the manifest in schema 2; `schema` still says what was read."""
        same = {name: getattr(self, name) for name in self.__struct_fields__ if name != "backend"}
        return Manifest(**same | {"candidates": tuple(one.upgraded(self.backend) for one in self.candidates)})
