"""The protocol of a target, and the lowered stage that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.export.cost_graph import CostGraph, Roofline
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
    """How stages become files.

    Attributes:
        name: that it is registered under.
        title: the format as its makers call it.
        backend: the name of what opens the files.
        suffix: the end of the files' names.
        accelerator: where the files run: `cpu`, or `gpu`.
        pads: whether the files have fixed shapes, to which the runtime pads inputs of variable size.
        reads: what it lowers stages from: `torch` modules, and `onnx` if also graphs of an ONNX file.
    """

    name: str
    title: str
    backend: str
    suffix: str
    accelerator: str
    pads: bool
    reads: tuple[str, ...]

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32, or raise `ExportError`, which names the operators that cannot be lowered."""

    def operations(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
        """Return the operations of a file with what they read and write, from which costs are counted.

        Args:
            data: the file's bytes.
            shapes: the largest shape of every input, by its name in the file.

        Raises:
            ExportError: if the file cannot be read.
        """

    def versions(self) -> dict[str, str]:
        """Return the versions of the tools that decide the bytes of a lowered file."""


@runtime_checkable
class Rated(Protocol):
    """A target of devices that are not everywhere: costs are counted for one of them where there is none.

    Attributes:
        roofline: of that one.
    """

    roofline: Roofline


@runtime_checkable
class Mending(Protocol):
    """A target that pads, and lowers some stages that depend on padding in a form that does not."""

    def mended(self, stage: TorchStage) -> TorchStage:
        """Return what is lowered in place of a stage: it answers alike at every true size, or is the stage itself."""


@runtime_checkable
class Preparing(Protocol):
    """A target whose tools take long to load."""

    def load_tools(self) -> None:
        """Load them ahead of the first stage, in one thread: processes are forked from the one that does."""


def as_lowered(target: Target, stages: Sequence[TorchStage]) -> tuple[TorchStage, ...]:
    """Return what a target lowers in place of stages.

    Args:
        target: that may have another form of some of them.
        stages: unpruned or pruned.
    """
    return tuple(target.mended(stage) if isinstance(target, Mending) else stage for stage in stages)
