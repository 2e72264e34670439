"""An entry of the zoo: a factory, made-up data in clusters, and heads fitted to tell the clusters apart."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import (
    Bounded,
    ClassOutput,
    Dim,
    DType,
    ImagePreprocess,
    Modality,
    ModelSpec,
    Output,
    TensorSpec,
    largest,
    tensors,
)
from edgefuse.datasets import Sample, Splits
from edgefuse.stages.found import Found, find
from edgefuse.stages.found.calling import Called, called
from edgefuse.stages.found.naming import keywords, values_of

Array: TypeAlias = npt.NDArray[Any]
Random: TypeAlias = np.random.Generator

LABELS = ClassOutput(labels=tuple("abcdefgh"))
# A budget of one point needs more than a hundred samples; all are drawn from the clusters in turn.
_FITTED, _CALIBRATION, _VALIDATION, _TEST = 96, 40, 104, 104
_SETTLED = 32
_CLUSTERS = 8
_RIDGE = 1e-2


def described(name: str, *modalities: Modality, outputs: Sequence[Output] = (LABELS,)) -> ModelSpec:
    """Describe a model; where its first output is no classes, its mean squared error is what counts."""
    metric = "accuracy" if isinstance(outputs[0], ClassOutput) else "mse"
    return ModelSpec(name=name, modalities=modalities, outputs=tuple(outputs), metric=metric)


def arrays(name: str, *described: tuple[str, DType, tuple[Dim, ...]]) -> Modality:
    """Describe a modality of several arrays: the name, type and shape of one sample of each."""
    return tensors(name, *(TensorSpec(name=array, dtype=dtype, shape=(1, *shape)) for array, dtype, shape in described))


def words(length: int) -> Modality:
    """Describe a text as tokenizers give it: ids and a mask."""
    return arrays("text", ("input_ids", "int32", (length,)), ("attention_mask", "int32", (length,)))


@dataclass(frozen=True)
class Floats:
    """Numbers around 0, or, with `low` and `high`, within limits."""

    low: float | None = None
    high: float | None = None

    def first(self, random: Random, shape: tuple[int, ...]) -> Array:
        """Draw the middle of a cluster."""
        if self.low is None or self.high is None:
            return random.standard_normal(shape, np.float32)
        return random.uniform(self.low, self.high, shape).astype(np.float32)

    def near(self, random: Random, middle: Array) -> Array:
        """Draw a sample of the cluster."""
        if self.low is None or self.high is None:
            noise = random.standard_normal(middle.shape, np.float32)
            near: Array = np.add(middle, 0.5 * noise, dtype=np.float32)
            return near
        limited: Array = random.normal(middle, 0.05 * (self.high - self.low)).clip(self.low, self.high)
        return limited.astype(np.float32)


@dataclass(frozen=True)
class Ids:
    """Indices from 1 to `below`, of which some differ from sample to sample; `last` stands at the end of each."""

    below: int
    last: int | None = None

    def first(self, random: Random, shape: tuple[int, ...]) -> Array:
        """Draw the middle of a cluster."""
        return self._ended(random.integers(1, self.below, shape, np.int32))

    def near(self, random: Random, middle: Array) -> Array:
        """Draw a sample of the cluster."""
        others = random.integers(1, self.below, middle.shape, np.int32)
        return self._ended(np.where(random.random(middle.shape) < 0.1, others, middle))

    def _ended(self, ids: Array) -> Array:
        if self.last is not None:
            ids[..., -1] = self.last
        return ids


@dataclass(frozen=True)
class Mask:
    """Ones up to the end of a text, of which at least half is there; `whole`: ones."""

    whole: bool = False

    def first(self, random: Random, shape: tuple[int, ...]) -> Array:
        """Draw the middle of a cluster."""
        steps = shape[-1]
        end = steps if self.whole else int(random.integers(steps // 2, steps + 1))
        return np.broadcast_to((np.arange(steps) < end).astype(np.int32), shape).copy()

    def near(self, random: Random, middle: Array) -> Array:
        """Return the same: texts of a cluster are equally long."""
        return middle.copy()


@dataclass(frozen=True)
class Pixels:
    """Bytes of a picture."""

    def first(self, random: Random, shape: tuple[int, ...]) -> Array:
        """Draw the middle of a cluster: patches, as pictures have areas."""
        *many, height, width, channels = shape
        coarse = random.integers(0, 256, (*many, -(-height // 8), -(-width // 8), channels))
        return coarse.repeat(8, -3).repeat(8, -2)[..., :height, :width, :].astype(np.uint8)

    def near(self, random: Random, middle: Array) -> Array:
        """Draw a sample of the cluster."""
        return (middle + random.normal(0, 25, middle.shape)).clip(0, 255).astype(np.uint8)


Draw: TypeAlias = Floats | Ids | Mask | Pixels


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        factory: makes the module, with random weights, and its spec.
        draws: what its tensors hold, by their names; numbers around 0 where nothing is said.
        heads: the linear layers that are fitted to tell the clusters of the data apart.
    """

    factory: Callable[[], tuple[nn.Module, ModelSpec]]
    draws: Mapping[str, Draw] = field(default_factory=dict)
    heads: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the model: that of its factory."""
        return self.factory.__name__

    def build(self) -> tuple[nn.Module, ModelSpec]:
        """Return module and spec: what a recipe names as its model."""
        return self._made

    def data(self) -> Splits:
        """Return samples whose targets are the module's own answers: what a recipe names as its data."""
        return self._splits

    def max_drop(self) -> float:
        """Return the budget: one point of accuracy, or a hundredth of the variance of the answers."""
        return self._budget

    @cached_property
    def found(self) -> Found:
        """How edgefuse takes the module apart; `ModelError` if it cannot."""
        return find(*self.build())

    @cached_property
    def _splits(self) -> Splits:
        runs = [self.sample(index) for index in range(_FITTED, _FITTED + _CALIBRATION + _VALIDATION + _TEST)]
        items = [Sample(inputs, self._target(inputs)) for inputs in runs]
        calibration, rest = items[:_CALIBRATION], items[_CALIBRATION:]
        return Splits(calibration, rest[:_VALIDATION], rest[_VALIDATION:], digest=f"zoo-3 {self.name}")

    @cached_property
    def _budget(self) -> float:
        spec = self.build()[1]
        if spec.metric == "accuracy":
            return 0.01
        answers = np.concatenate([self.answers(self.sample(index))[0] for index in range(_FITTED)])
        return max(1e-6, 0.01 * float(answers.var(axis=0).mean()))

    def answers(self, inputs: Mapping[str, Any]) -> tuple[Array, ...]:
        """Return the outputs of the module for raw inputs, in the order of the spec."""
        module, spec = self.build()
        return tuple(output.numpy() for output in _run(_callable(module, spec, inputs), spec, inputs))

    @cached_property
    def _made(self) -> tuple[nn.Module, ModelSpec]:
        torch.manual_seed(zlib.crc32(self.name.encode()))
        module, spec = self.factory()
        module.requires_grad_(False)
        module.eval()
        self.__dict__["_spec"] = spec
        _settle(module, spec, [self.sample(i) for i in range(_SETTLED)])
        for head in self.heads:
            _fit(module, head, spec, [(self.sample(i), i % self._clusters) for i in range(_FITTED)])
        return module, spec

    @property
    def _clusters(self) -> int:
        output = self.__dict__["_spec"].outputs[0]
        return min(_CLUSTERS, len(output.labels)) if isinstance(output, ClassOutput) else _CLUSTERS

    def _target(self, inputs: Mapping[str, Any]) -> Any:
        answer = self.answers(inputs)[0][0]
        return int(answer.argmax()) if self.build()[1].metric == "accuracy" else answer

    def sample(self, index: int) -> dict[str, Any]:
        """Return raw inputs, a pure function of the index: that of a cluster by turns."""
        spec: ModelSpec = self.__dict__["_spec"] if "_spec" in self.__dict__ else self.build()[1]
        cluster = index % self._clusters
        found: dict[str, Any] = {}
        for modality in spec.modalities:
            made = {t.name: self._array(t, f"{cluster} {modality.name}", index) for t in modality.tensors}
            one = next(iter(made.values()))
            picture = isinstance(modality.preprocess, ImagePreprocess)
            found[modality.name] = one[0] if picture else (made if len(made) > 1 else one)
        return found

    def _array(self, tensor: TensorSpec, cluster: str, index: int) -> Array:
        key = f"{self.name} {cluster} {tensor.name}"
        draw = self.draws.get(tensor.name) or (Pixels() if tensor.dtype == "uint8" else Floats())
        middle = draw.first(np.random.default_rng(zlib.crc32(key.encode())), tensor.max_shape)
        random = np.random.default_rng(zlib.crc32(f"{key} {index}".encode()))
        cut = tuple(
            slice(int(random.integers(largest(dim) // 2, largest(dim) + 1)) if isinstance(dim, Bounded) else None)
            for dim in tensor.shape
        )
        return np.ascontiguousarray(draw.near(random, middle)[cut])


def _feeds(spec: ModelSpec, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return raw inputs as the values of a pipeline: every tensor, length and the mask, by port."""
    found: dict[str, Array] = {}
    for value in values_of(spec):
        source = value.source
        if source.kind == "present":
            found[value.port] = np.array([[float(m.name in inputs) for m in spec.modalities]], np.float32)
            continue
        raw = inputs[source.owner]
        array = raw[source.tensor] if isinstance(raw, Mapping) else raw
        if isinstance(spec.modality(source.owner).preprocess, ImagePreprocess):
            array = array[None]
        found[value.port] = np.array([array.shape[1]], np.int32) if source.kind == "length" else array
    return found


def _callable(module: nn.Module, spec: ModelSpec, inputs: Mapping[str, Any]) -> Called:
    """Return the module as edgefuse calls it: by keyword, with the types that it wants."""
    names = keywords(module, spec)
    if names is None:
        raise ValueError(f"{type(module).__name__}.forward does not name the tensors of its spec")
    return called(module, spec, names, _feeds(spec, inputs))


def _run(module: Called, spec: ModelSpec, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        answers = module(*(torch.from_numpy(array) for array in _feeds(spec, inputs).values()))
    return answers if isinstance(answers, tuple) else (answers,)


def _settle(module: nn.Module, spec: ModelSpec, samples: Sequence[dict[str, Any]]) -> None:
    """Let batch normalizations learn what comes to them, as training would: else signals fade from layer to layer."""
    layers = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    run = _callable(module, spec, samples[0])
    for layer in layers:
        layer.train().momentum = None  # the mean of what was seen
    feeds = [_feeds(spec, inputs) for inputs in samples]
    batch = [torch.from_numpy(np.concatenate([feed[port] for feed in feeds])) for port in feeds[0]]
    with torch.no_grad():
        run(*batch)
    module.eval()


def _fit(module: nn.Module, head: str, spec: ModelSpec, samples: Sequence[tuple[dict[str, Any], int]]) -> None:
    """Set a linear layer to what tells the clusters apart: ridge regression onto a code for each, in closed form."""
    layer = module.get_submodule(head)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"the head '{head}' is no linear layer")
    run = _callable(module, spec, samples[0][0])
    seen = torch.cat(list(_taken(layer, run, spec, [inputs for inputs, _ in samples]))).double()
    codes = _codes(layer.out_features, spec)[[cluster for _, cluster in samples]]
    middle, wanted = seen.mean(0), codes.mean(0) * (layer.bias is not None)
    seen = seen - middle * (layer.bias is not None)
    scale = seen.square().mean()
    gram = seen @ seen.T + _RIDGE * scale * len(seen) * torch.eye(len(seen), dtype=torch.float64)
    weight = (seen.T @ torch.linalg.solve(gram, codes - wanted)).T
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(wanted - weight @ middle)


def _codes(size: int, spec: ModelSpec) -> Tensor:
    """Return what a head answers for each cluster: its class, or a direction of its own."""
    classes = any(isinstance(output, ClassOutput) and len(output.labels) == size for output in spec.outputs)
    if classes:
        return 6 * torch.eye(_CLUSTERS, size, dtype=torch.float64)
    return torch.randn(_CLUSTERS, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _taken(layer: nn.Linear, run: Called, spec: ModelSpec, samples: Sequence[dict[str, Any]]) -> Iterator[Tensor]:
    """Yield what a layer reads for each sample, [1, features]."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].reshape(-1, layer.in_features)))
    try:
        for inputs in samples:
            seen.clear()
            _run(run, spec, inputs)
            yield seen[-1][:1].clone()
    finally:
        hook.remove()
