"""The shapes of what a stage gives, found by running it in torch on generated inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from edgefuse.bundle.spec import Bounded, Bucketed, Dim, ModelSpec, spelled
from edgefuse.errors import ModelError, cited
from edgefuse.stages.examples import Mask, chained_feeds, masks_of, sizes_to_show
from edgefuse.stages.repeated import check_repeated
from edgefuse.stages.running import FAILURES, call_torch
from edgefuse.stages.stage import Feeds, TorchStage


def checked_whole(stage: TorchStage, spec: ModelSpec, before: Sequence[TorchStage] = ()) -> TorchStage:
    """Return a stage that gives all outputs of a model, if they have the shapes that the model's spec says.

    Args:
        stage: to check.
        spec: of the model.
        before: the stages that it reads from.

    Raises:
        ModelError: if they do not, or the stage cannot be run.
    """
    for output, shape in zip(stage.spec.outputs, output_shapes(stage, before, masks_of(spec)), strict=True):
        if shape != output.tensor.shape:
            raise ModelError(
                f"the output '{output.tensor.name}' of '{spec.name}' has another shape than its spec says",
                got=spelled(shape),
                expected=spelled(output.tensor.shape),
                fix="correct the labels or size in the spec, or the last layer",
            )
    return stage


def output_shapes(stage: TorchStage, before: Sequence[TorchStage], masks: Sequence[Mask] = ()) -> list[tuple[Dim, ...]]:
    """Run a stage at several sizes and return the shapes of its outputs, dynamic where they follow the input.

    What it reads from stages is what torch makes there of generated inputs: a logarithm may count on its sign.

    Args:
        stage: to run.
        before: the stages that it reads from.
        masks: the absences that the model admits, if the stage is told of them.
    """
    bounded = any(isinstance(dim, Bounded) for port in stage.spec.inputs for dim in port.tensor.shape)
    probed = list(feeds_of_chain(stage, before, masks, count=sizes_to_show(stage.spec, 2)))
    shapes = [_probe(stage, one) for one in probed]
    check_repeated(stage, probed[0])
    again = _probe(stage, next(feeds_of_chain(stage, before, masks, seed=1)))
    if again != shapes[0]:
        raise ModelError(
            f"the output shape of the stage '{stage.spec.name}' depends on the values of its inputs",
            got=f"{spelled(again[0])} after {spelled(shapes[0][0])}",
            expected="one shape for inputs of one shape",
        )
    return [
        tuple(dim_of([sizes[axis] for sizes in probes], bounded) for axis in range(len(probes[0])))
        for probes in zip(*shapes, strict=True)
    ]


def feeds_of_chain(
    stage: TorchStage, before: Sequence[TorchStage], masks: Sequence[Mask], *, count: int = 1, seed: int = 0
) -> Iterator[Feeds]:
    """Generate feeds of a stage that is not run, from what torch makes in the stages before it.

    Args:
        stage: to feed.
        before: the stages that it reads from.
        masks: the absences that the model admits, in turn.
        count: of feeds.
        seed: of the values.
    """
    chain = chained_feeds((*before, stage), count=count, seed=seed, masks=masks, unrun=[stage.spec.name])
    return (feeds[stage.spec.name] for feeds in chain)


def dim_of(sizes: Sequence[int], bounded: bool) -> Dim:
    """Return a dimension that took some sizes: `bounded` if the inputs are, else the sizes are buckets."""
    if len(set(sizes)) == 1:
        return sizes[0]
    return Bounded(max=max(sizes)) if bounded else Bucketed(sizes=tuple(sorted(set(sizes))))


def _probe(stage: TorchStage, feeds: Feeds) -> list[tuple[int, ...]]:
    """Run a stage once, check what it returns and give the shapes."""
    shapes = []
    for name, value in _call(stage, feeds).items():
        where = f"'{name}' of the stage '{stage.spec.name}'"
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise ModelError(f"the output {where} has the wrong type", got=_type_of(value), expected="a float32 tensor")
        if value.dim() == 0 or value.shape[0] != 1:
            raise ModelError(f"the output {where} lost the batch", got=list(value.shape), expected="[1, ...]")
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"the output {where} is not finite on generated inputs",
                got="NaN or infinity",
                expected="finite numbers",
                fix="check the weights, and logarithms and divisions by zero",
            )
        shapes.append(tuple(value.shape))
    return shapes


def _call(stage: TorchStage, feeds: Feeds) -> dict[str, Any]:
    try:
        return call_torch(stage, feeds)
    except FAILURES as error:
        takes = ", ".join(f"{port.tensor.name} {spelled(port.tensor.shape)}" for port in stage.spec.inputs)
        raise ModelError(
            f"the stage '{stage.spec.name}' failed when called with ({takes})", got=cited(error)
        ) from error


def _type_of(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
