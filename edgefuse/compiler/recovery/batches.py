"""Samples of a split as torch batches, for recovery: the inputs of a stage, and the outputs of the unpruned model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.bundle.spec import StageSpec, subset_name
from edgefuse.compiler.cache.arrays import ArrayStore
from edgefuse.compiler.evaluation.drops import judgements
from edgefuse.compiler.evaluation.evaluator import Evaluator, is_leaf
from edgefuse.compiler.evaluation.runners import TorchRunner
from edgefuse.compiler.model.splits import TRAIN, SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.workers import report
from edgefuse.datasets.cache import Cache
from edgefuse.graph import Plan, decoding
from edgefuse.graph.decoding import step_ports
from edgefuse.models.fusion import masked
from edgefuse.stages.stage import Array, TorchStage, keyed, outputs_of

_JUDGED_AT_ONCE = 256

Indices: TypeAlias = Sequence[int] | npt.NDArray[np.intp]
Tensors: TypeAlias = tuple[Tensor, ...]
Pool: TypeAlias = dict[str, Tensor]
"""What stages may read, by `Source.key`: tensors of modalities, lengths, features, `present`."""


def stacked(arrays: Sequence[Array]) -> Tensor:
    """Stack samples along the batch; shorter ones are padded with zeros, as no stage may depend on padding."""
    shape = [sum(len(a) for a in arrays), *np.max([a.shape[1:] for a in arrays], axis=0, initial=0)]
    if all(a.shape[1:] == arrays[0].shape[1:] for a in arrays):
        return torch.from_numpy(np.concatenate(arrays))
    whole = np.zeros([int(size) for size in shape], arrays[0].dtype)
    start = 0
    for array in arrays:
        whole[(slice(start, start + len(array)), *(slice(0, size) for size in array.shape[1:]))] = array
        start += len(array)
    return torch.from_numpy(whole)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join blocks of samples along the batch, in the same way."""
    return (
        torch.cat(list(parts)) if len({part.shape[1:] for part in parts}) == 1 else stacked([p.numpy() for p in parts])
    )


def called(spec: StageSpec, module: nn.Module, feeds: Mapping[str, Tensor]) -> Pool:
    """Run a stage's module on its feeds, and return what it gives, both by port.

    Args:
        spec: of the stage.
        module: that computes it.
        feeds: batch first.
    """
    made = outputs_of(module(*(feeds[port.tensor.name] for port in spec.inputs)))
    return {port.tensor.name: value for port, value in zip(spec.outputs, made, strict=True)}


def forced(
    spec: StageSpec, module: nn.Module, feeds: Mapping[str, Tensor]
) -> Iterator[tuple[Pool, Mapping[str, Tensor]]]:
    """Run as many of a decoder's steps as it is given tokens, and yield what each was fed with and gave, by port.

    Args:
        spec: of the decoder.
        module: that computes a step.
        feeds: by port: the tokens, int32 [batch, n], what does not change, and the first value of each state.
    """
    ports = step_ports(spec)
    tokens = feeds[ports.token]

    def position(at: int) -> Tensor:
        return torch.full_like(tokens[:, 0], at)

    return decoding.forced(ports, lambda one: called(spec, module, one), feeds, tokens, position)


def call(spec: StageSpec, module: nn.Module, pool: Mapping[str, Tensor]) -> Pool:
    """Run a stage's module on a pool and return its outputs by key.

    Args:
        spec: of the stage.
        module: that computes it.
        pool: values by key, batch first.
    """
    return keyed(spec, module(*(pool[port.source.key] for port in spec.inputs)))


class TrainingData:
    """One split through the unpruned model in torch, whose features are kept on disk."""

    def __init__(self, subject: Subject, data: SplitData, evaluator: Evaluator) -> None:
        self.subject = subject
        self.data = data
        self._evaluator = evaluator
        self.teacher = {stage.spec.name: stage for stage in subject.stages}
        self._torch = {name: TorchRunner(stage) for name, stage in self.teacher.items()}
        self._kept: dict[str, ArrayStore] = {}

    def _features(self, leaf: str) -> ArrayStore:
        """Return the outputs of a leaf by key, mapped from disk; it runs when first asked for."""
        if leaf not in self._kept:
            self._kept[leaf] = self._evaluator.features(self.teacher[leaf].spec, self._torch)
        return self._kept[leaf]

    def _feature(self, leaf: str, key: str, indices: Indices) -> Tensor:
        """Return one output of a leaf for some items; of any length, shorter ones are padded."""
        store = self._features(leaf)
        if store.is_even(key):
            return torch.from_numpy(store.stacked(key)[:, 0][np.asarray(indices)])  # each sample is a batch of one
        return stacked([store.get(key, int(i)) for i in indices])

    def feature(self, spec: StageSpec, indices: Indices) -> Pool:
        """Return what the unpruned leaf gives for some items, by key, in the order of its outputs."""
        keys = [spec.key(port.tensor.name) for port in spec.outputs]
        return {key: self._feature(spec.name, key, indices) for key in keys}

    def has_one_shape(self, spec: StageSpec) -> bool:
        """Tell whether what the unpruned leaf gives has the same shape for all items."""
        return all(self._features(spec.name).is_even(spec.key(port.tensor.name)) for port in spec.outputs)

    def leaf_inputs(self, spec: StageSpec, indices: Indices) -> Pool:
        """Return the values that a leaf reads, of some items."""
        pool: Pool = {}
        for port in spec.inputs:
            key = port.source.key
            if port.source.kind == "stage":
                pool[key] = self._feature(port.source.owner, key, indices)
            else:
                pool[key] = stacked([self.data.values.get(key, int(i)) for i in indices])
        return pool

    def run(self, plan: Plan, pool: Mapping[str, Tensor], replaced: Mapping[str, nn.Module]) -> Pool:
        """Run a plan of the unpruned stages, some of them replaced, over a batch of values.

        Args:
            plan: which stages run.
            pool: values by key, batch first.
            replaced: modules by stage, in place of the unpruned ones.
        """

        def run_stage(spec: StageSpec, feeds: dict[str, Tensor]) -> Pool:
            module = replaced.get(spec.name, self.teacher[spec.name].module)
            if spec.role == "decoder":
                logits = [made[step_ports(spec).result] for _, made in forced(spec, module, feeds)]
                return {step_ports(spec).result: torch.stack(logits, dim=1)}
            return called(spec, module, feeds)

        return self.subject.graph.run(plan, run_stage, pool)[0]

    def items_with(self, spec: StageSpec) -> npt.NDArray[np.intp]:
        """Return the items that have a leaf's modality."""
        return self.data.with_subset(self.subject.columns((spec.modality,)))

    def joint_pool(self, indices: Indices, masks: npt.NDArray[np.bool_], features: Mapping[str, Pool]) -> Pool:
        """Return all that the stages after the leaves read.

        Args:
            indices: of items.
            masks: [items, modalities], what is present.
            features: outputs of leaves by stage name, to use instead of those of the unpruned ones.
        """
        present = torch.from_numpy(masks.astype(np.float32))
        columns = {m.name: present[:, i] for i, m in enumerate(self.subject.spec.modalities)}
        joint = [spec for spec in self.subject.specs if not is_leaf(spec)]
        wanted = {port.source.key: port.source for spec in joint for port in spec.inputs}
        start = self.subject.graph.initial(lambda tensor: torch.zeros(len(masks), *tensor.max_shape[1:]))
        pool: Pool = {"present": present, **start}
        for spec in self.subject.specs:
            if is_leaf(spec) and any(spec.key(port.tensor.name) in wanted for port in spec.outputs):
                kept = features.get(spec.name) or self.feature(spec, indices)
                pool |= {key: masked(value, columns[spec.modality]) for key, value in kept.items() if key in wanted}
        for key, source in wanted.items():
            if source.kind in ("modality", "length"):
                value = stacked([self.data.values.get(key, int(i)) for i in indices])
                pool[key] = masked(value, columns[source.owner])
            elif source.kind == "token":
                value = stacked([self.data.values.get(key, int(i)) for i in indices])
                most = self.subject.spec.outputs[0].shape[0]  # so that all blocks of items have one shape
                pool[key] = functional.pad(value, (0, most - value.shape[1]))
        return pool


class LeafExamples:
    """Examples of a leaf: its inputs, and the feature that the unpruned one gives."""

    def __init__(self, data: TrainingData, spec: StageSpec) -> None:
        self._data = data
        self._spec = spec
        self._items = data.items_with(spec)

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Indices) -> tuple[Tensors, Tensors]:
        """Return positional inputs and the unpruned outputs of some examples."""
        items = self._items[np.asarray(indices)]
        pool = self._data.leaf_inputs(self._spec, items)
        inputs = tuple(pool[port.source.key] for port in self._spec.inputs)
        if self._data.has_one_shape(self._spec):
            return inputs, tuple(self._data.feature(self._spec, items).values())
        with (
            torch.no_grad()
        ):  # in padding the student is to give what the teacher gives there, not the zeros of a stack
            return inputs, outputs_of(self._data.teacher[self._spec.name].module(*inputs))


class JointStageExamples:
    """Examples of a stage after the leaves: every item under every subset of the modalities (exhaustive dropout)."""

    def __init__(self, data: TrainingData, spec: StageSpec) -> None:
        self._data = data
        self._spec = spec
        subject = data.subject
        names = [modality.name for modality in subject.spec.modalities]
        self._subsets = np.array([[name in subset for name in names] for subset in subject.subsets])
        joint = [s for s in subject.specs if not is_leaf(s)]
        plan = subject.graph.plan((), names, wanted=[s.name for s in joint[: joint.index(spec)]])
        self._before = plan

    def __len__(self) -> int:
        return len(self._data.data) * len(self._subsets)

    def batch(self, indices: Indices) -> tuple[Tensors, Tensors]:
        """Return positional inputs and the unpruned outputs of some examples."""
        with torch.no_grad():
            pool = self._pool(indices)
            inputs = tuple(pool[port.source.key] for port in self._spec.inputs)
            return inputs, outputs_of(self._data.teacher[self._spec.name].module(*inputs))

    def _pool(self, indices: Indices) -> Pool:
        items, subsets = np.divmod(np.asarray(indices), len(self._subsets))
        present = self._data.data.present[items]
        masks = self._subsets[subsets] & present
        masks = np.where(masks.any(axis=1, keepdims=True), masks, present)
        pool = self._data.joint_pool(items, masks, {})
        return pool | self._data.run(self._before, pool, {})


class StepExamples(JointStageExamples):
    """Examples of a decoder's step: of every item under every subset of the modalities one step, in turn."""

    def batch(self, indices: Indices) -> tuple[Tensors, Tensors]:
        """Return positional inputs and the unpruned outputs of some examples, all of one position."""
        with torch.no_grad():
            pool = self._pool(indices)
            feeds = {port: pool[key] for port, key in self._data.subject.graph.inputs(self._spec)}
            taken = int(np.asarray(indices)[0]) % feeds[step_ports(self._spec).token].shape[1]
            made = forced(self._spec, self._data.teacher[self._spec.name].module, feeds)
            inputs, outputs = next(itertools.islice(made, taken, None))
            return tuple(inputs[port.tensor.name] for port in self._spec.inputs), tuple(outputs.values())


def examples(data: TrainingData, stage: TorchStage) -> LeafExamples | JointStageExamples:
    """Return the training examples of a stage."""
    if stage.spec.role == "decoder":
        return StepExamples(data, stage.spec)
    kind = LeafExamples if is_leaf(stage.spec) else JointStageExamples
    return kind(data, stage.spec)


class SubsetTable:
    """How good the model is in torch with some stages replaced: what early stopping looks at, greater is better.

    Of one judged output it is the metric by subset; an error has a minus. Of several, each in a unit of its own, it is
    what is kept of each in each subset: 1 less what was lost against the unpruned model, in points of a metric that is
    a share of the items, else as a share of what the unpruned model reaches.
    """

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._judgements = judgements(data.subject, "validation")

    def __call__(self, replaced: Mapping[str, nn.Module]) -> dict[str, float]:
        """Return it by `key_of`, with other modules for some stages (in eval mode)."""
        figures = self._figures(replaced)
        if len(self._data.subject.judged) == 1:
            return {key: -one if self._judgements[key].metric.lower_is_better else one for key, one in figures.items()}
        return {key: 1 - self._lost(key, figure) for key, figure in figures.items()}

    def _lost(self, key: str, figure: float) -> float:
        metric, reference = self._judgements[key].metric, self._reference[key]
        return metric.lost(reference, figure) / (1.0 if metric.share else abs(reference) or 1.0)

    @functools.cached_property
    def _reference(self) -> dict[str, float]:
        """What the unpruned model reaches."""
        return self._figures({})

    def _figures(self, replaced: Mapping[str, nn.Module]) -> dict[str, float]:
        with torch.no_grad():
            features = self._features(replaced)
            return dict(
                itertools.chain.from_iterable(
                    self._of(subset, features, replaced) for subset in self._data.subject.subsets
                )
            )

    def _features(self, replaced: Mapping[str, nn.Module]) -> dict[str, Pool]:
        found: dict[str, Pool] = {}
        for spec in self._data.subject.specs:
            if is_leaf(spec) and spec.name in replaced:
                parts = [call(spec, replaced[spec.name], self._data.leaf_inputs(spec, i)) for i in self._blocks()]
                found[spec.name] = {key: _joined([part[key] for part in parts]) for key in parts[0]}
        return found

    def _blocks(self, items: npt.NDArray[np.intp] | None = None) -> Iterator[npt.NDArray[np.intp]]:
        items = np.arange(len(self._data.data)) if items is None else items
        return iter(np.split(items, range(_JUDGED_AT_ONCE, len(items), _JUDGED_AT_ONCE)))

    def _of(
        self, subset: tuple[str, ...], features: Mapping[str, Pool], replaced: Mapping[str, nn.Module]
    ) -> Iterator[tuple[str, float]]:
        judged = {key: one for key, one in self._judgements.items() if one.subset == subset_name(subset)}
        if not judged:
            return
        found = self._answers(subset, features, replaced)
        compared = any(one.metric.against == "reference" for one in judged.values())
        whole = self._answers(subset, {}, {}) if compared else found
        for key, one in judged.items():
            yield key, one.metric.figure(one.rows(found, whole))

    def _answers(
        self, subset: tuple[str, ...], features: Mapping[str, Pool], replaced: Mapping[str, nn.Module]
    ) -> dict[str, dict[str, Array]]:
        subject, data = self._data.subject, self._data.data
        columns = subject.columns(subset)
        items = data.with_subset(columns)
        plan = subject.graph.plan((), [modality.name for modality in subject.spec.modalities])
        answers: dict[str, list[Array]] = {output.name: [] for output in subject.spec.outputs}
        for block in self._blocks(items):
            masks = np.zeros((len(block), data.present.shape[1]), bool)
            masks[:, columns] = True
            here = {name: {key: value[block] for key, value in pool.items()} for name, pool in features.items()}
            results = self._data.run(plan, self._data.joint_pool(block, masks, here), replaced)
            for name, of_output in answers.items():
                of_output.append(results[name].numpy())
        return {name: {subset_name(subset): np.concatenate(of_output)} for name, of_output in answers.items()}


@dataclass(frozen=True)
class ThroughTorch:
    """What recoveries learn from and are judged by: splits through the unpruned model, opened when first needed."""

    subject: Subject
    cache: Cache

    @functools.cached_property
    def training(self) -> TrainingData:
        """The training samples."""
        return self._of(TRAIN)

    @functools.cached_property
    def table(self) -> SubsetTable:
        """The validation accuracy by subset, with some stages replaced."""
        return SubsetTable(self._of("validation"))

    def stage(self, name: str) -> TorchStage:
        """Return an unpruned stage by name."""
        return next(stage for stage in self.subject.stages if stage.spec.name == name)

    def _of(self, split: str) -> TrainingData:
        data = self.subject.splits[split]
        note = lambda what: report(0, 0, f"{split}: {what}")  # noqa: E731
        return TrainingData(self.subject, data, Evaluator(self.subject, data, self.cache, note))
