"""Generated inputs, for tracing stages and for golden vectors: no person's voice or picture."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    Bounded,
    Bucketed,
    Dim,
    ModelSpec,
    Source,
    StageInput,
    StageSpec,
    TensorSpec,
    largest,
)
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.backend import padded
from edgefuse.runtime.graph import zeros_of_tensor
from edgefuse.stages.decoder import nth_step
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Array, Feeds, InputValues, TorchStage
from edgefuse.stages.values import generated

Mask: TypeAlias = tuple[float, ...]
"""Which modalities are present, 1 or 0 for each in order."""

_SIZES_TRIED = 5


def masks_of(spec: ModelSpec) -> tuple[Mask, ...]:
    """Return the masks of subsets that a model admits, the largest first: as many as there are modalities, and one."""
    names = [modality.name for modality in spec.modalities]
    return tuple(tuple(float(name in subset) for name in names) for subset in spec.subsets()[: 1 + len(names)])


def example_feeds(
    stage: TorchStage, *, count: int = 1, seed: int = 0, fixed: bool = False, masks: Sequence[Mask] = ()
) -> Iterator[Feeds]:
    """Generate feeds of one stage from its spec alone, the same for the same seed.

    The first is at the largest shape, of full length, with every modality present. Later ones vary the sizes of dynamic
    dimensions (unless `fixed`), the lengths, and which modality is absent.

    Args:
        stage: to feed.
        count: of feeds.
        seed: of the values.
        fixed: whether dynamic dimensions keep their largest size.
        masks: which modalities are present, in turn; see `masks_of`. By default all, then all but one.
    """
    for index in range(count):
        yield _example(stage, index, 0 if fixed else index, seed, masks)


def samples_of(
    stage: TorchStage, *, count: int, variant: int, seed: int = 0, masks: Sequence[Mask] = ()
) -> Iterator[Feeds]:
    """Generate feeds of one stage that have one shape: they make a batch. Lengths and absences vary.

    Args:
        stage: to feed.
        count: of feeds.
        variant: of the sizes, from 0 for the largest; see `size_of`.
        seed: of the values.
        masks: as for `example_feeds`.
    """
    for index in range(count):
        yield _example(stage, index, variant, seed, masks)


def _example(stage: TorchStage, index: int, variant: int, seed: int, masks: Sequence[Mask]) -> Feeds:
    pool = outside_values([stage], index, variant=variant, seed=seed, masks=masks)
    for port in stage.spec.inputs:
        if port.source.kind in ("stage", "state"):
            shape, rng = _shape(port.tensor, variant), _rng(seed, index, port.source.key)
            known = _known(stage).get(port.source.key)
            pool[port.source.key] = (
                rng.standard_normal(shape, np.float32) if known is None else generated(known, shape, "float32", rng)
            )
    values = {port.tensor.name: pool[port.source.key] for port in stage.spec.inputs}
    return silenced(stage.spec, values, _columns_alone(stage.spec))


def outside_values(
    stages: Sequence[TorchStage], index: int, *, variant: int = 0, seed: int = 0, masks: Sequence[Mask] = ()
) -> dict[str, Array]:
    """Generate what stages take from outside, by key: tensors, lengths and the mask of one sample.

    Args:
        stages: in the order of their dependencies.
        index: of the sample; the first has every modality and its full length.
        variant: of the sizes, from 0 for the largest: samples of one variant have one shape.
        seed: of the values.
        masks: which modalities are present, in turn; by default all, then all but one.
    """
    limits = _id_limits(stages)
    raw: dict[str, Array] = {}
    for stage in stages:
        raw = _raw_values(stage, limits, index, seed, variant, raw) | raw  # what was padded once stays so
    if masks and "present" in raw:
        raw["present"] = np.array([masks[index % len(masks)]], np.float32)
    return raw


def sizes_to_show(spec: StageSpec, bounded: int) -> int:
    """Return how many feeds show every bucket of a stage's inputs, or so many sizes where one is bounded.

    Args:
        spec: of the stage.
        bounded: how many sizes of what is bounded.
    """
    dims = [dim for port in spec.inputs for dim in port.tensor.shape]
    buckets = max((len(dim.sizes) for dim in dims if isinstance(dim, Bucketed)), default=1)
    return max(buckets, bounded if any(isinstance(dim, Bounded) for dim in dims) else 1)


def variants_of(stages: Sequence[TorchStage]) -> tuple[int, ...]:
    """Return the variants of sizes at which something is worth a trial: the largest and the smallest that there is."""
    ports = [(port, _known(stage)) for stage in stages for port in stage.spec.inputs if port.source.kind == "modality"]

    def elements(variant: int) -> int:
        return sum(math.prod(_shape(port.tensor, variant, known.get(port.source.key))) for port, known in ports)

    smallest = min(range(_SIZES_TRIED), key=elements)
    return (0, smallest) if smallest else (0,)


def chained_feeds(
    stages: Sequence[TorchStage],
    *,
    count: int = 1,
    seed: int = 0,
    fixed: bool = False,
    masks: Sequence[Mask] = (),
    filled: bool = False,
    unrun: Collection[str] = (),
    modalities: Sequence[str] = (),
) -> Iterator[dict[str, Feeds]]:
    """Generate feeds of all stages together, by stage: features are computed by torch.

    So features have the distribution that the model gives them, and golden vectors of fusion mean something. Stages
    come in an order in which they can run; for `seed` and `fixed` see `example_feeds`.

    Args:
        stages: in the order of their dependencies.
        count: of feeds per stage.
        seed: of the values.
        fixed: whether dynamic dimensions keep their largest size.
        masks: which modalities are present, in turn; see `masks_of`. By default all, then all but one.
        filled: whether what comes from outside is padded to its largest shape, as it is for files of fixed shapes.
        unrun: stages that are fed and not run: the last ones, from which no other reads.
        modalities: see `columns_of`.

    Raises:
        ModelError: if a stage fails.
    """
    columns = columns_of(stages, modalities)
    by_name = {stage.spec.name: stage for stage in stages}
    graph = StageGraph(tuple(stage.spec for stage in stages), ())
    plan = graph.plan(())
    for index in range(count):
        raw = outside_values(stages, index, variant=0 if fixed else index, seed=seed, masks=masks)
        pool = {key: value for stage in stages for key, value in _filled(stage.spec, raw).items()} if filled else {}
        pool = raw | pool
        feeds: dict[str, Feeds] = {}

        def run_stage(spec: StageSpec, given: dict[str, Array]) -> dict[str, Array]:
            feeds[spec.name] = silenced(spec, given, columns)  # noqa: B023 - called within this pass of the loop
            if spec.role == "decoder":
                feeds[spec.name] = _at_a_step(by_name[spec.name], given, pool, index, seed)  # noqa: B023
            if spec.name in unrun:
                return {port.tensor.name: np.zeros(0, np.float32) for port in spec.outputs}
            return run_torch(by_name[spec.name], feeds[spec.name])  # noqa: B023

        graph.run(plan, run_stage, pool, graph.initial(zeros_of_tensor))
        yield feeds


def _at_a_step(stage: TorchStage, given: Feeds, pool: Mapping[str, Array], index: int, seed: int) -> Feeds:
    """Return the feeds of a decoder at the position that was generated; of the first sample, at the first."""
    known = _known(stage)

    def value(key: str, at: int) -> Array:
        return generated(known[key], (1,), "int32", _rng(seed, index + 1000 * at, key))

    return nth_step(stage, given, value, int(pool["position"][0]) if index and "position" in pool else 0)


def example_inputs(stage: TorchStage) -> tuple[Tensor, ...]:
    """Return tensors of a stage's largest shapes, one per input."""
    feeds = next(example_feeds(stage))
    return tuple(torch.from_numpy(feeds[port.tensor.name]) for port in stage.spec.inputs)


def size_of(dim: Dim, variant: int, fewest: int = 1) -> int:
    """Return a size that a dimension may take: the largest for variant 0, smaller ones for later variants.

    Args:
        dim: the dimension.
        variant: from 0; a negative one is the size itself, or the next smaller that there is.
        fewest: the smallest size to return, where the dimension allows it; nothing to a negative variant.
    """
    if variant == 0:
        return largest(dim)
    if isinstance(dim, Bounded) and variant < 0:
        return min(dim.max, -variant)
    if isinstance(dim, Bucketed) and variant < 0:
        return max((size for size in dim.sizes if size <= -variant), default=dim.sizes[0])
    if isinstance(dim, Bounded):
        return min(dim.max, max(fewest, dim.max - (variant % 3) * (dim.max // 4)))
    return dim.sizes[-1 - variant % len(dim.sizes)] if isinstance(dim, Bucketed) else dim


def _shape(tensor: TensorSpec, variant: int, values: InputValues | None = None) -> tuple[int, ...]:
    """Return a shape; the fourth variant is as short as anything that was observed."""
    shape = [size_of(dim, variant) for dim in tensor.shape]
    as_seen = values is not None and variant > 0 and variant % 4 == 3
    if values is not None and as_seen and len(shape) > 1 and isinstance(tensor.shape[1], Bounded):
        shape[1] = min(values.steps[0], shape[1])
    return tuple(shape)


def _known(stage: TorchStage) -> dict[str, InputValues]:
    return {values.key: values for values in stage.values}


def _rng(seed: int, index: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, index, zlib.crc32(key.encode())])


def _raw_values(
    stage: TorchStage, limits: Mapping[str, int], index: int, seed: int, variant: int, given: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the values from outside that a stage takes, under `Source.key`; `given` has what earlier stages took."""
    spec, known = stage.spec, _known(stage)
    pool: dict[str, Array] = {}
    for port in spec.inputs:
        key = port.source.key
        if port.source.kind == "modality":
            shape = _shape(port.tensor, variant, known.get(key))
            pool[key] = _modality_value(port, shape, limits, known.get(key), _rng(seed, index, key))
        elif port.source.kind == "present":
            pool[key] = _present(port.tensor.max_shape[1], index)
        elif port.source.kind in ("token", "position"):
            pool[key] = generated(known[key], (1,), "int32", _rng(seed, index, key))
    for port in (port for port in spec.inputs if port.source.kind == "length" and port.source.key not in given):
        pool[port.source.key] = _length(spec, port.source.owner, {**given, **pool}, index, variant, seed)
        _clear_padding(spec, port.source, pool)
    return pool


def _filled(spec: StageSpec, pool: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values from outside that a stage takes, with zeros up to their largest shapes."""
    ports = [port for port in spec.inputs if port.source.kind == "modality"]
    return {port.source.key: padded(pool[port.source.key], port.tensor.max_shape) for port in ports}


def _modality_value(
    port: StageInput,
    shape: tuple[int, ...],
    limits: Mapping[str, int],
    known: InputValues | None,
    rng: np.random.Generator,
) -> Array:
    """Return values like those observed, or else grey levels, ids below the model's vocabulary, noise within PCM's."""
    if known is not None:
        return generated(known, shape, port.tensor.dtype, rng)
    if port.tensor.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    if port.tensor.dtype == "int32":
        return rng.integers(0, limits.get(port.source.key, 2), shape, np.int32)
    noise: Array = np.clip(0.3 * rng.standard_normal(shape, np.float32), -1.0, 1.0)
    return noise


def _length(
    spec: StageSpec, owner: str, pool: Mapping[str, Array], index: int, variant: int, seed: int
) -> npt.NDArray[np.int32]:
    """Return how many steps of a modality are valid: all of a bounded axis, which is never padded, else at random."""
    owned = [port.tensor for port in spec.inputs if port.source.owner == owner and port.source.kind == "modality"]
    tensor = (owned or [spec.inputs[0].tensor])[0]  # a frontend before this stage keeps whether its axis is bounded
    taken = next((value for key, value in pool.items() if key.startswith(f"{owner}.") and value.ndim > 1), None)
    shape = _shape(tensor, variant) if taken is None else taken.shape
    size = shape[1] if len(shape) > 1 else 1
    if index == 0 or (len(shape) > 1 and isinstance(tensor.shape[1], Bounded)):
        return np.array([size], np.int32)
    return np.array([_rng(seed, index, f"{owner}.length").integers(max(1, size // 2), size + 1)], np.int32)


def _clear_padding(spec: StageSpec, source: Source, pool: dict[str, Array]) -> None:
    """Put zeros behind the valid steps of a modality's first tensor."""
    keys = [p.source.key for p in spec.inputs if p.source.kind == "modality" and p.source.owner == source.owner]
    if keys and pool[keys[0]].ndim > 1:
        pool[keys[0]][:, int(pool[source.key][0]) :] = 0


def _present(modalities: int, index: int) -> Array:
    """Return the mask: all present first, then all but one, in turn."""
    mask = np.ones((1, modalities), np.float32)
    if index > 0 and modalities > 1:
        mask[0, (index - 1) % modalities] = 0.0
    return mask


def silenced(spec: StageSpec, feeds: Feeds, columns: Mapping[str, int]) -> Feeds:
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


def columns_of(stages: Sequence[TorchStage], modalities: Sequence[str] = ()) -> dict[str, int]:
    """Return the columns of `present` by modality and by stage.

    Args:
        stages: of a model.
        modalities: the names of all, in order; by default as the stages take them, which is another order where one
            that nothing is done to enters a found fusion.
    """
    ports = [port for stage in stages for port in stage.spec.inputs]
    names = modalities or dict.fromkeys(port.source.owner for port in ports if port.source.kind == "modality")
    columns = {name: column for column, name in enumerate(names)}
    return columns | {s.spec.name: columns[s.spec.modality] for s in stages if s.spec.modality in columns}


def _columns_alone(spec: StageSpec) -> dict[str, int]:
    """Return the columns of `present` for a stage of which no other is known: it takes a tensor per modality.

    Where it takes some from stages and others from outside, their order is not known: it is a found one.
    """
    taken = [port.source for port in spec.inputs if port.source.kind in ("modality", "stage")]
    owners = dict.fromkeys(source.owner for source in taken)
    if len({source.kind for source in taken}) > 1:
        return {}
    width = next((port.tensor.max_shape[1] for port in spec.inputs if port.source.kind == "present"), 0)
    return {owner: column for column, owner in enumerate(owners)} if len(owners) <= width else {}


def _id_limits(stages: Sequence[TorchStage]) -> dict[str, int]:
    """Return how many ids each int32 input may hold: the smallest embedding table of the stage that takes it."""
    limits: dict[str, int] = {}
    for stage in stages:
        modules = list(stage.module.modules())
        tables = [module.num_embeddings for module in modules if isinstance(module, nn.Embedding)]
        tables += [rows for module in modules for rows in getattr(module, "rows_looked_up", ())]  # of an ONNX graph
        for port in stage.spec.inputs:
            if port.source.kind == "modality" and tables:
                limits[port.source.key] = min(tables)
    return limits
