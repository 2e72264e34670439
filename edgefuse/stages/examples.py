"""Generated inputs, for tracing stages and for golden vectors: no person's voice or picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgefuse.bundle.spec import Bounded, Bucketed, Dim, StageInput, StageSpec, TensorSpec, largest
from edgefuse.errors import ModelError
from edgefuse.graph import StageGraph
from edgefuse.runtime.graph import zeros_of_tensor
from edgefuse.stages.stage import Array, Feeds, TorchStage, outputs_of


def example_feeds(stage: TorchStage, *, count: int = 1, seed: int = 0, fixed: bool = False) -> Iterator[Feeds]:
    """Generate feeds of one stage from its spec alone, the same for the same seed.

    The first is at the largest shape, of full length, with every modality present. Later ones vary the sizes of dynamic
    dimensions (unless `fixed`), the lengths, and which modality is absent.

    Args:
        stage: to feed.
        count: of feeds.
        seed: of the values.
        fixed: whether dynamic dimensions keep their largest size.
    """
    for index in range(count):
        pool = _raw_values(stage.spec, _id_limits([stage]), index, seed, fixed)
        for port in stage.spec.inputs:
            if port.source.kind in ("stage", "state"):
                shape = _shape(port.tensor, 0 if fixed else index)
                pool[port.source.key] = _rng(seed, index, port.source.key).standard_normal(shape, np.float32)
        values = {port.tensor.name: pool[port.source.key] for port in stage.spec.inputs}
        yield _silenced(stage.spec, values, _columns_alone(stage.spec))


def chained_feeds(
    stages: Sequence[TorchStage], *, count: int = 1, seed: int = 0, fixed: bool = False
) -> Iterator[dict[str, Feeds]]:
    """Generate feeds of all stages together, by stage: features are computed by torch.

    So features have the distribution that the model gives them, and golden vectors of fusion mean something. Stages
    come in an order in which they can run; for `seed` and `fixed` see `example_feeds`.

    Args:
        stages: in the order of their dependencies.
        count: of feeds per stage.
        seed: of the values.
        fixed: whether dynamic dimensions keep their largest size.
    """
    limits = _id_limits(stages)
    columns = _columns(stages)
    by_name = {stage.spec.name: stage for stage in stages}
    graph = StageGraph(tuple(stage.spec for stage in stages), ())
    plan = graph.plan(())
    for index in range(count):
        pool: dict[str, Array] = {}
        for stage in stages:
            pool.update(_raw_values(stage.spec, limits, index, seed, fixed))
        feeds: dict[str, Feeds] = {}

        def run_stage(spec: StageSpec, given: dict[str, Array]) -> dict[str, Array]:
            feeds[spec.name] = _silenced(spec, given, columns)  # noqa: B023 - called within this pass of the loop
            return run_torch(by_name[spec.name], feeds[spec.name])  # noqa: B023

        graph.run(plan, run_stage, pool, graph.initial(zeros_of_tensor))
        yield feeds


def run_torch(stage: TorchStage, feeds: Feeds) -> dict[str, Array]:
    """Run a stage in torch fp32 and return its outputs under port names.

    Raises:
        ModelError: if the module returns another number of tensors than its spec names.
    """
    return {name: value.numpy() for name, value in call_torch(stage, feeds).items()}


def call_torch(stage: TorchStage, feeds: Feeds) -> dict[str, Any]:
    """Call a stage's module and return whatever it gives, under port names; errors as those of `run_torch`."""
    tensors = [
        torch.from_numpy(np.require(feeds[port.tensor.name], requirements=["C", "W"])) for port in stage.spec.inputs
    ]
    with torch.inference_mode():
        result = stage.module(*tensors)
    values = outputs_of(result)
    names = [output.tensor.name for output in stage.spec.outputs]
    if len(values) != len(names):
        raise ModelError(
            f"the stage '{stage.spec.name}' returns the wrong number of tensors",
            got=len(values),
            expected=f"{len(names)} ({', '.join(names)})",
        )
    return dict(zip(names, values, strict=True))


def size_of(dim: Dim, variant: int) -> int:
    """Return a size that a dimension may take: the largest for variant 0, smaller ones for later variants."""
    if variant == 0:
        return largest(dim)
    if isinstance(dim, Bounded):
        return max(1, dim.max - (variant % 3) * (dim.max // 4))
    return dim.sizes[-1 - variant % len(dim.sizes)] if isinstance(dim, Bucketed) else dim


def _shape(tensor: TensorSpec, variant: int) -> tuple[int, ...]:
    return tuple(size_of(dim, variant) for dim in tensor.shape)


def _rng(seed: int, index: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, index, zlib.crc32(key.encode())])


def _raw_values(spec: StageSpec, limits: Mapping[str, int], index: int, seed: int, fixed: bool) -> dict[str, Array]:
    """Return the values from outside that a stage takes, under `Source.key`."""
    pool: dict[str, Array] = {}
    steps: dict[str, int] = {}
    for port in spec.inputs:
        if port.source.kind == "modality":
            shape = _shape(port.tensor, 0 if fixed else index)
            pool[port.source.key] = _modality_value(port, shape, limits, _rng(seed, index, port.source.key))
            steps.setdefault(port.source.owner, shape[1] if len(shape) > 1 else 1)
        elif port.source.kind == "present":
            pool[port.source.key] = _present(port.tensor.max_shape[1], index)
        elif port.source.kind == "length":
            size = steps.get(port.source.owner) or _first_axis(spec.inputs[0].tensor, 0 if fixed else index)
            pool[port.source.key] = _length(size, index, _rng(seed, index, port.source.key))
    return pool


def _first_axis(tensor: TensorSpec, variant: int) -> int:
    shape = _shape(tensor, variant)
    return shape[1] if len(shape) > 1 else 1


def _modality_value(
    port: StageInput, shape: tuple[int, ...], limits: Mapping[str, int], rng: np.random.Generator
) -> Array:
    """Return grey levels, token ids below the model's vocabulary, or noise within PCM's -1..1."""
    if port.tensor.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if port.tensor.dtype == "int32":
        return rng.integers(0, limits.get(port.source.key, 2), shape, np.int32)
    noise: Array = np.clip(0.3 * rng.standard_normal(shape, np.float32), -1.0, 1.0)
    return noise


def _length(size: int, index: int, rng: np.random.Generator) -> Array:
    value = size if index == 0 else int(rng.integers(max(1, size // 2), size + 1))
    return np.array([value], np.int32)


def _present(modalities: int, index: int) -> Array:
    """Return the mask: all present first, then all but one, in turn."""
    mask = np.ones((1, modalities), np.float32)
    if index > 0 and modalities > 1:
        mask[0, (index - 1) % modalities] = 0.0
    return mask


def _silenced(spec: StageSpec, feeds: Feeds, columns: Mapping[str, int]) -> Feeds:
    """Return the feeds of a stage with zeros for what comes from an absent modality, if the stage takes `present`.

    Args:
        spec: of the stage.
        feeds: by port.
        columns: of `present`, by the names of the modalities and of their stages.
    """
    present = next((feeds[port.tensor.name] for port in spec.inputs if port.source.kind == "present"), None)
    if present is None:
        return feeds
    owned = [port for port in spec.inputs if port.source.kind in ("modality", "stage") and port.source.owner in columns]
    absent = {port.tensor.name for port in owned if present[0, columns[port.source.owner]] == 0}
    return {name: np.zeros_like(value) if name in absent else value for name, value in feeds.items()}


def _columns(stages: Sequence[TorchStage]) -> dict[str, int]:
    """Return the columns of `present` by modality and by stage; the stages take the modalities in their order."""
    ports = [port for stage in stages for port in stage.spec.inputs]
    names = dict.fromkeys(port.source.owner for port in ports if port.source.kind == "modality")
    columns = {name: column for column, name in enumerate(names)}
    return columns | {s.spec.name: columns[s.spec.modality] for s in stages if s.spec.modality in columns}


def _columns_alone(spec: StageSpec) -> dict[str, int]:
    """Return the columns of `present` for a stage of which no other is known: it takes a tensor per modality."""
    owners = dict.fromkeys(port.source.owner for port in spec.inputs if port.source.kind in ("modality", "stage"))
    width = next((port.tensor.max_shape[1] for port in spec.inputs if port.source.kind == "present"), 0)
    return {owner: column for column, owner in enumerate(owners)} if len(owners) <= width else {}


def _id_limits(stages: Sequence[TorchStage]) -> dict[str, int]:
    """Return how many ids each int32 input may hold: the smallest embedding table of the stage that takes it."""
    limits: dict[str, int] = {}
    for stage in stages:
        tables = [module.num_embeddings for module in stage.module.modules() if isinstance(module, nn.Embedding)]
        for port in stage.spec.inputs:
            if port.source.kind == "modality" and tables:
                limits[port.source.key] = min(tables)
    return limits
