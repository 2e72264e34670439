"""Run stages over a split: features of the encoders once per candidate, fusion once per combination and subset.

A stage that belongs to one modality is a *leaf*: its features depend on its own candidate alone and are kept. The other
stages (fusion, or a whole model in one stage) run per combination and subset, whose passes are shared by all
combinations that have the same candidates there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from edgefuse.bundle.spec import StageSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import ArrayStore, Cache, write_arrays
from edgefuse.compiler.candidates.toolchain import Built
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.runtime.backends.backend import Backend, Session
from edgefuse.runtime.graph import absent_features
from edgefuse.stages.examples import run_torch
from edgefuse.stages.stage import Feeds, TorchStage

Array: TypeAlias = npt.NDArray[np.generic]
Outputs: TypeAlias = Mapping[str, Array]
"""Subset name to the first result of every item that has the subset's modalities: [items, ...]."""


class Runner(Protocol):
    """Something that runs a stage: a candidate's file in its runtime, or torch.

    `identity` tells what runs, for cache keys; `batch` is how many samples one call may take (files: the deployed 1).
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def batch(self) -> int: ...  # noqa: D102

    def session(self) -> Session: ...  # noqa: D102


@dataclass(frozen=True)
class FileRunner:
    """A candidate's file in its target's runtime."""

    built: Built
    backend: Backend
    threads: int
    batch: int = 1

    @property
    def identity(self) -> str:
        """The file and the runtime."""
        return f"{self.built.sha256} {sorted(self.backend.versions().items())} {self.threads}"

    def session(self) -> Session:
        """Open the file."""
        return self.built.open(self.backend, self.threads)


@dataclass(frozen=True)
class TorchRunner:
    """A stage in torch at full precision: the reference that accuracy is held against."""

    stage: TorchStage
    batch: int = 32

    @cached_property
    def identity(self) -> str:
        """The stage's weights and code; hashing them takes a while."""
        return fingerprint.of_module(self.stage.module) + torch.__version__

    def session(self) -> Session:
        """Return itself: a module needs no opening."""
        return self

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the module on a whole batch."""
        return run_torch(self.stage, feeds)


def in_torch(subject: Subject) -> dict[str, Runner]:
    """Return what runs each stage of a subject in torch."""
    return {stage.spec.name: TorchRunner(stage) for stage in subject.stages}


def is_leaf(stage: StageSpec) -> bool:
    """Tell whether a stage belongs to one modality."""
    return bool(stage.modality)


def feeds_of(stage: StageSpec, pool: Mapping[str, Array]) -> dict[str, Array]:
    """Pick a stage's inputs from a pool of values."""
    return {port.tensor.name: pool[port.source.key] for port in stage.inputs}


def _keyed(stage: StageSpec, result: Mapping[str, Array]) -> dict[str, Array]:
    return {stage.key(port): value for port, value in result.items()}


def run_batched(session: Session, feeds: Iterable[Feeds], batch: int) -> Iterator[dict[str, Array]]:
    """Run a session over feeds, stacking up to `batch` neighbours of the same shapes; yield one result per feed."""
    pending: list[Feeds] = []
    for feed in feeds:
        if pending and (len(pending) == batch or not _same_shapes(pending[0], feed)):
            yield from _run_stacked(session, pending)
            pending = []
        pending.append(feed)
    yield from _run_stacked(session, pending)


def _same_shapes(one: Feeds, other: Feeds) -> bool:
    return all(one[name].shape == other[name].shape for name in one)


def _run_stacked(session: Session, feeds: Sequence[Feeds]) -> Iterator[dict[str, Array]]:
    if len(feeds) <= 1:
        yield from (session.run(feed) for feed in feeds)
        return
    results = session.run({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
    for index in range(len(feeds)):
        yield {name: array[index : index + 1] for name, array in results.items()}


class Evaluator:
    """Evaluates combinations of candidates on one split, keeping every pass; `note` is told before each."""

    def __init__(self, subject: Subject, data: SplitData, cache: Cache, note: Callable[[str], None]) -> None:
        self._subject = subject
        self._data = data
        self._cache = cache
        self._note = note

    def features(self, stage: StageSpec, chain: Mapping[str, Runner]) -> ArrayStore:
        """Return a leaf's outputs on every item, by key; `chain` has the runners of it and of the leaves before."""
        before = self._before(stage)
        runner = chain[stage.name]
        key = [self._data.digest, stage, [chain[s.name].identity for s in (*before, stage)]]

        def make(folder: Path) -> None:
            self._note(f"features of {stage.name}")
            results = run_batched(runner.session(), self._leaf_feeds(stage, chain), runner.batch)
            absent = absent_features([stage])
            present = self._data.present[:, self._column(stage)]
            write_arrays(folder, (_keyed(stage, next(results)) if there else absent for there in present))

        return ArrayStore(self._cache.entry("features", key, make))

    def _before(self, stage: StageSpec) -> list[StageSpec]:
        """Return the leaves that a leaf needs, in order."""
        needed = {port.source.owner for port in stage.inputs if port.source.kind == "stage"}
        found: list[StageSpec] = []
        for spec in self._subject.specs:
            if spec.name in needed:
                found += [s for s in self._before(spec) if s not in found] + [spec]
        return found

    def outputs(self, combination: Mapping[str, Runner]) -> Outputs:
        """Return what a combination of candidates answers, for every subset of modalities."""
        return {subset_name(subset): self._subset_outputs(subset, combination) for subset in self._subject.subsets}

    def _subset_outputs(self, subset: tuple[str, ...], combination: Mapping[str, Runner]) -> Array:
        specs = self._subject.specs
        leaves = [stage for stage in specs if is_leaf(stage) and stage.modality in subset]
        joint = [stage for stage in specs if not is_leaf(stage)]
        key = [self._data.digest, subset, [[s, combination[s.name].identity] for s in (*leaves, *joint)]]

        def make(folder: Path) -> None:
            self._note(f"{subset_name(subset)} through {', '.join(stage.name for stage in joint)}")
            pools = self._joint_pools(subset, leaves, combination)
            for stage in joint:
                pools = _through(stage, combination[stage.name], pools)
            result = next(port for port in joint[-1].outputs if port.kind == "result")
            answers = [pool[joint[-1].key(result.tensor.name)] for pool in pools]
            data = io.BytesIO()  # to a file, numpy does not say why it could not write
            np.save(data, np.concatenate(answers), allow_pickle=False)
            (folder / "outputs.npy").write_bytes(data.getvalue())

        answers: Array = np.load(self._cache.entry("outputs", key, make) / "outputs.npy", allow_pickle=False)
        return answers

    def _joint_pools(
        self, subset: tuple[str, ...], leaves: Sequence[StageSpec], combination: Mapping[str, Runner]
    ) -> Iterator[dict[str, Array]]:
        """Yield, per item that has the subset, all that the stages after the leaves may read."""
        columns = self._subject.columns(subset)
        mask = np.zeros((1, len(self._subject.spec.modalities)), np.float32)
        mask[0, columns] = 1
        stores = [self.features(stage, combination) for stage in leaves]
        base = absent_features(s for s in self._subject.specs if is_leaf(s)) | {"present": mask}
        names = tuple(f"{name}." for name in subset)
        for index in self._data.with_subset(columns):
            values = self._data.values[int(index)]
            pool = base | {k: v if k.startswith(names) else np.zeros_like(v) for k, v in values.items()}
            for features in stores:
                pool |= features[int(index)]
            yield pool

    def _leaf_feeds(self, stage: StageSpec, chain: Mapping[str, Runner]) -> Iterator[Feeds]:
        stores = [self._data.values, *(self.features(s, chain) for s in self._before(stage))]
        for index in np.flatnonzero(self._data.present[:, self._column(stage)]):
            yield feeds_of(stage, {k: v for values in stores for k, v in values[int(index)].items()})

    def _column(self, stage: StageSpec) -> int:
        return [modality.name for modality in self._subject.spec.modalities].index(stage.modality)

    def calibration_feeds(
        self, stage: StageSpec, combinations: Sequence[Mapping[str, Runner]], float_joint: Mapping[str, Runner]
    ) -> Iterator[Feeds]:
        """Yield feeds of a stage over this split, for calibration.

        A leaf is fed with what the leaves before it give. Another stage is fed with the union of the features that
        its encoders' candidates really give, every item once in full and once with a subset, in turn.
        """
        if is_leaf(stage):
            yield from self._leaf_feeds(stage, combinations[0])
            return
        leaves = [s for s in self._subject.specs if is_leaf(s)]
        earlier = [s for s in self._subject.specs if not is_leaf(s)]
        earlier = earlier[: earlier.index(stage)]
        subsets = self._subject.subsets
        for number, subset in enumerate((subsets[0], *subsets)):
            # Spread over all of them: neighbours are forms and schemes of the same kind.
            combination = combinations[number * len(combinations) // (len(subsets) + 1)]
            pools_of = [leaf for leaf in leaves if leaf.modality in subset]
            pools = self._joint_pools(subset, pools_of, combination)
            if number > 0:
                pools = islice(pools, number - 1, None, max(len(subsets), 1))
            for before_stage in earlier:
                pools = _through(before_stage, float_joint[before_stage.name], pools)
            yield from (feeds_of(stage, pool) for pool in pools)


def _through(stage: StageSpec, runner: Runner, pools: Iterator[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Add a stage's outputs to every pool, holding at most one batch of pools."""
    session = runner.session()
    while block := list(islice(pools, runner.batch)):
        results = run_batched(session, (feeds_of(stage, pool) for pool in block), runner.batch)
        for pool, result in zip(block, results, strict=True):
            yield pool | _keyed(stage, result)
