"""The seam between torch and the targets: a stage that can be lowered, and the protocol of a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from edgefuse.bundle.manifest import Pruning
from edgefuse.bundle.spec import StageSpec

TORCH, ONNX = "torch", "onnx"
"""What a stage may have been made of."""

Array: TypeAlias = npt.NDArray[np.generic]
Feeds: TypeAlias = Mapping[str, Array]
"""Port name to array, with the batch dimension."""

FeedSource: TypeAlias = Callable[[], Iterator[Feeds]]
"""Starts a fresh pass over feeds; a pass holds one sample at a time."""


@dataclass(frozen=True)
class InputValues:
    """What the values of an input look like, for generated ones that are to look alike.

    Attributes:
        key: of the input, as `Source.key` spells it.
        low: the smallest, along the last axis, or one number for all.
        high: the largest.
        mean: in the same way.
        deviation: the standard deviation.
        whole: whether all are whole numbers.
        steps: the fewest and the most along axis 1.
        ordered: columns of which the first is never more than the second, as in boxes of two corners.
    """

    key: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    whole: bool
    steps: tuple[int, int]
    ordered: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class TorchStage:
    """A stage's wiring and the module that computes it.

    `module.forward` takes the stage's inputs as positional tensors in the order of `spec.inputs` and returns one
    tensor, or a tuple in the order of `spec.outputs`. The module is in eval mode. A pruned variant of a stage is a
    stage with the same wiring, another module, and `pruning`. `values` says what inputs from outside look like, as far
    as that is known. `alike` is the name of the first stage that is the same module with the same ports, if there is an
    earlier one: files of both bear its name, so that what is equal is stored once. `lines` says which lines of
    the user's code asked for the operators of a graph that was cut out of a model's: see `lines.py`.
    """

    spec: StageSpec
    module: nn.Module
    pruning: Pruning | None = None
    values: tuple[InputValues, ...] = ()
    alike: str = ""
    lines: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The name that a file of the stage bears inside."""
        return self.alike or self.spec.name

    @property
    def origin(self) -> str:
        """What the stage was made of, as targets name it: `torch`, or `onnx` for a graph of an ONNX file."""
        return TORCH if runtime_of(self.module) is None else ONNX

    @property
    def reference(self) -> str:
        """What files of the stage are held to, in the words of an error."""
        return "torch" if self.origin == TORCH else "the ONNX file that it is of"

    @property
    def said(self) -> str:
        """The stage in the words of an error."""
        return f"the stage '{self.spec.name}'" + (f", pruned by {self.pruning.id}," if self.pruning else "")


def runtime_of(module: nn.Module) -> str | None:
    """Return what runs a module in place of torch, with its version; None if torch does."""
    return next((str(part.edgefuse_runtime) for part in module.modules() if hasattr(part, "edgefuse_runtime")), None)


def with_twins(stages: Sequence[TorchStage]) -> tuple[TorchStage, ...]:
    """Return stages that know which of them are one module, as a shared encoder is."""
    found: list[TorchStage] = []
    for stage in stages:
        first = next(
            (other for other in found if other.module is stage.module and _ports(other) == _ports(stage)), None
        )
        found.append(replace(stage, alike=first.file_name) if first else stage)
    return tuple(found)


def _ports(stage: TorchStage) -> tuple[object, ...]:
    return tuple(port.tensor for port in stage.spec.inputs), stage.spec.outputs


def parameters_of(module: nn.Module) -> int:
    """Return how many numbers there are in a module's weights, those that are shared once."""
    return sum(parameter.numel() for parameter in module.parameters())


def outputs_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the result of a module as a tuple: stages with one output return the bare tensor."""
    return result if isinstance(result, tuple) else (result,)


def keyed(spec: StageSpec, result: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the results of a stage's module by key, as `Source.key` spells them."""
    names = [port.tensor.name for port in spec.outputs]
    return {spec.key(name): value for name, value in zip(names, outputs_of(result), strict=True)}
