"""Stages run in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import EdgefuseError, ModelError
from edgefuse.stages.silence import at, first_words, user_line
from edgefuse.stages.stage import Array, Feeds, TorchStage, outputs_of

FAILURES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)
"""What a module raises where its inputs are of another size or type than it takes."""


def run_torch(stage: TorchStage, feeds: Feeds) -> dict[str, Array]:
    """Run a stage in torch fp32 and return its outputs under port names.

    Raises:
        ModelError: if the module fails, with its own line and the shapes, or returns another number of tensors than
            its spec names.
    """
    try:
        return {name: value.numpy() for name, value in call_torch(stage, feeds).items()}
    except EdgefuseError:
        raise
    except Exception as error:  # a user's own code may raise anything
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise ModelError(
            f"{stage.said} fails on inputs that its spec allows, {shapes}{at(user_line(error))}",
            got=first_words(error),
            expected="answers at every size from the smallest to the largest, whichever inputs are absent",
            fix="mend that line of the model, or correct the sizes in its spec",
        ) from error


def call_torch(stage: TorchStage, feeds: Feeds) -> dict[str, Any]:
    """Call a stage's module and return whatever it gives, under port names.

    Raises:
        ModelError: if the module returns another number of tensors than its spec names; else whatever it raises.
    """
    with torch.inference_mode():
        result = stage.module(*tensors_of(stage.spec, feeds))
    values = outputs_of(result)
    names = [output.tensor.name for output in stage.spec.outputs]
    if len(values) != len(names):
        raise ModelError(
            f"the stage '{stage.spec.name}' returns the wrong number of tensors",
            got=len(values),
            expected=f"{len(names)} ({', '.join(names)})",
        )
    return dict(zip(names, values, strict=True))


def tensors_of(spec: StageSpec, feeds: Feeds) -> tuple[Tensor, ...]:
    """Return the feeds of a stage as torch's, in the order of its inputs: copies, as a module may change its inputs."""
    return tuple(torch.from_numpy(np.array(feeds[port.tensor.name], order="C")) for port in spec.inputs)
