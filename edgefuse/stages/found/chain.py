"""Found stages run one after the other in torch, and held to the module that they were found in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import Bounded, Bucketed, ModelSpec, StageSpec
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import dim_of
from edgefuse.stages.found.parts import Unsplittable
from edgefuse.stages.stage import Feeds, TorchStage, outputs_of

_TOLERANCE = 1e-5
"""Of the largest answer, and of 1 where that is smaller."""

Shapes = dict[str, list[tuple[int, ...]]]
"""The shapes that an output of a stage had, by its key."""


def held_to_module(stages: Sequence[tuple[StageSpec, nn.Module]], whole: TorchStage, *, batched: bool) -> Shapes:
    """Run stages and the module on generated inputs of several sizes, in batches, and with modalities absent.

    Args:
        stages: in order; of what passes between them, names alone are known.
        whole: the module as one stage.
        batched: whether the stages take several samples at a time.

    Returns:
        The shapes that the outputs of stages had.

    Raises:
        Unsplittable: if the stages do not answer as the module does.
    """
    shapes: Shapes = {}
    for feeds in feeds_of_all_sizes(whole):
        pool = {port.source.key: torch.from_numpy(feeds[port.tensor.name].copy()) for port in whole.spec.inputs}
        found = _through(stages, pool, shapes)
        _compare(_call(whole.module, list(pool.values())), found, whole, "")
    if batched:
        _in_a_batch(stages, whole)
    return shapes


def feeds_of_all_sizes(whole: TorchStage) -> Iterator[Feeds]:
    """Yield generated inputs of a model: every size, several lengths, each modality absent if it may be."""
    dims = [dim for port in whole.spec.inputs for dim in port.tensor.shape]
    buckets = max((len(dim.sizes) for dim in dims if isinstance(dim, Bucketed)), default=1)
    bounded = any(isinstance(dim, Bounded) for dim in dims)
    masks = [port.tensor.max_shape[1] for port in whole.spec.inputs if port.source.kind == "present"]
    yield from example_feeds(whole, count=max(buckets, 4 if bounded else 2, *(1 + columns for columns in masks)))


def dims(shapes: Sequence[tuple[int, ...]], spec: ModelSpec) -> tuple[int | Bounded | Bucketed, ...]:
    """Return the shape of a tensor that had some shapes."""
    every = [dim for modality in spec.modalities for tensor in modality.tensors for dim in tensor.shape]
    bounded = any(isinstance(dim, Bounded) for dim in every)
    return tuple(dim_of(sizes, bounded) for sizes in zip(*shapes, strict=True))


def _in_a_batch(stages: Sequence[tuple[StageSpec, nn.Module]], whole: TorchStage) -> None:
    """Compare stages and module on three samples at a time."""
    samples = [next(example_feeds(whole, seed=seed)) for seed in range(3)]
    pool = {
        port.source.key: torch.from_numpy(np.concatenate([sample[port.tensor.name] for sample in samples]))
        for port in whole.spec.inputs
    }
    _compare(_call(whole.module, list(pool.values())), _through(stages, pool, {}), whole, " in a batch of three")


def _through(
    stages: Sequence[tuple[StageSpec, nn.Module]], pool: Mapping[str, Tensor], shapes: Shapes
) -> dict[str, Tensor]:
    """Run the stages; what belongs to absent modalities is zeros, as on a device."""
    values, results = dict(pool), {}
    present = pool.get("present")
    columns = {owner: column for column, owner in enumerate(_owners(pool))}
    for spec, module in stages:
        made = _call(module, [values[port.source.key] for port in spec.inputs])
        for port, value in zip(spec.outputs, made, strict=True):
            key = spec.key(port.tensor.name)
            shapes.setdefault(key, []).append(tuple(value.shape))
            if port.kind == "result":
                results[port.tensor.name] = value
            if present is not None and spec.modality:
                here = present[:, columns[spec.modality]].reshape(-1, *[1] * (value.dim() - 1)) > 0
                value = torch.where(here, value, torch.zeros_like(value))
            values[key] = value
    return results


def _owners(pool: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(key.split(".")[0] for key in pool if "." in key))


def _call(module: nn.Module, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return outputs_of(module(*tensors))


def _compare(expected: tuple[Tensor, ...], found: Mapping[str, Tensor], whole: TorchStage, where: str) -> None:
    for port, value in zip(whole.spec.outputs, expected, strict=True):
        name = port.tensor.name
        if found[name].shape != value.shape:
            shapes = f"{list(found[name].shape)} instead of {list(value.shape)}"
            raise Unsplittable(f"the stages give '{name}' as {shapes}{where}")
        difference = float((found[name] - value).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(value.abs().max())):
            raise Unsplittable(f"the stages and the module differ by {difference:.2g} in '{name}'{where}")
