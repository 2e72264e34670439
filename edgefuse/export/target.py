"""The protocol of a target, and the lowered stage that it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.stages.stage import TorchStage


@dataclass(frozen=True)
class Lowered:
    """A stage as a file of some target, with how to call it, and how the device builds an engine if it does."""

    data: bytes
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    opset: str
    plan: BuildPlan | None = None


class Target(Protocol):
    """How stages become files."""

    name: str
    backend: str
    suffix: str

    def unsupported(self, stage: TorchStage) -> tuple[str, ...]:
        """Name the operators of a stage that this target cannot lower, without lowering it."""

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32, or raise `ExportError`."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the tools that decide the bytes of a lowered file."""
