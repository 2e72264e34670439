"""Run stages over a split: features of the encoders once per candidate, fusion once per combination and subset.

A stage that belongs to one modality is a *leaf*: its features depend on its own candidate alone and are kept. The other
stages (fusion, or a whole model in one stage) run per combination and subset, whose passes are shared by all
combinations that have the same candidates there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgefuse.bundle.spec import StageSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.arrays import ArrayStore, write_arrays
from edgefuse.compiler.evaluation.runners import Array, Block, Runner, over_blocks
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.datasets.cache import Cache
from edgefuse.graph import Plan
from edgefuse.graph.decoding import step_ports
from edgefuse.runtime.backends.backend import Session
from edgefuse.runtime.decoding import NO_TOKENS, TOKEN, forced
from edgefuse.runtime.graph import constants_of, zeros_of_tensor
from edgefuse.stages.stage import Feeds

Answers: TypeAlias = Mapping[str, Mapping[str, Array]]
"""Name of an output, then of a subset, to the results of every item that has the subset's modalities: [items, ...]."""

_SOURCES = (
    "runtime/backends",
    "runtime/graph.py",
    "runtime/decoding.py",
    "graph",
    "stages/examples.py",
    "stages/stage.py",
    *(f"compiler/{name}.py" for name in ("evaluation/evaluator", "evaluation/runners", "cache/arrays")),
)
"""What runs a stage over samples, besides its file and the runtime."""

_BLOCK = 32
"""Samples that are in memory at a time."""

_STEPS_APART = 3
"""Of a decoder that is calibrated: steps that follow each other are alike."""


def is_leaf(stage: StageSpec) -> bool:
    """Tell whether a stage belongs to one modality."""
    return bool(stage.modality)


def leaves_of(specs: Sequence[StageSpec], stage: StageSpec) -> list[str]:
    """Return the names of the stages that belong to the same modality as a leaf."""
    return [spec.name for spec in specs if is_leaf(spec) and spec.modality == stage.modality]


class Evaluator:
    """Evaluates combinations of candidates on one split, keeping every pass; `note` is told before each."""

    def __init__(self, subject: Subject, data: SplitData, cache: Cache, note: Callable[[str], None]) -> None:
        self._subject = subject
        self._data = data
        self._cache = cache
        self._note = note
        self._leaves = [stage for stage in subject.specs if is_leaf(stage)]
        self._joint = [stage for stage in subject.specs if not is_leaf(stage)]

    def features(self, stage: StageSpec, chain: Mapping[str, Runner]) -> ArrayStore:
        """Return a leaf's outputs on every item, by key; `chain` has the runners of it and of the leaves before."""
        plan = self._subject.graph.plan([stage.modality], wanted=[stage.name])
        stages = [step.stage for step in plan.steps]
        identities = [chain[one.name].identity for one in stages]
        key = [self._data.digest, stage, identities, fingerprint.of_source(*_SOURCES)]

        def make(folder: Path) -> None:
            self._note(f"features of {stage.name}")
            found = self._through(self._alone(stage), chain, self._leaf_pools(stage, chain))
            absent = {stage.key(port.tensor.name): zeros_of_tensor(port.tensor) for port in stage.outputs}
            present = self._data.present[:, self._column(stage)]
            write_arrays(folder, (next(found) if there else absent for there in present))

        return ArrayStore(self._cache.entry("features", key, make))

    def answers(self, combination: Mapping[str, Runner]) -> Answers:
        """Return the outputs of a combination of candidates, for every subset of modalities that an item has."""
        found: dict[str, dict[str, Array]] = {output.name: {} for output in self._subject.spec.outputs}
        for subset in (one for one in self._subject.subsets if len(self._data.with_subset(self._subject.columns(one)))):
            folder = self.run(subset, combination)
            given = self._subject.given_by(subset)
            for number, (name, by_subset) in enumerate(found.items()):
                if name in given:  # mapped: maps of depths, which nothing judges, may be larger than memory
                    by_subset[subset_name(subset)] = np.load(folder / _file(number), mmap_mode="r")
        return found

    def spoken(self, combination: Mapping[str, Runner]) -> Array:
        """Return the logits of a decoder that goes on from its own tokens, of the items with all modalities."""
        whole = self._subject.subsets[0]
        identities = [[name, runner.identity] for name, runner in combination.items()]
        key = [self._data.digest, "greedy", identities, fingerprint.of_source(*_SOURCES)]

        def make(folder: Path) -> None:
            self._note("sentences")
            pools = (pool | {TOKEN: NO_TOKENS} for pool in self._joint_pools(whole, combination))
            results = self._through(self._after(whole), combination, pools)
            np.save(folder / _file(0), np.concatenate([next(iter(result.values())) for result in results]))

        return np.load(self._cache.entry("outputs", key, make) / _file(0))  # type: ignore[no-any-return]

    def run(self, subset: tuple[str, ...], combination: Mapping[str, Runner]) -> Path:
        """Run what comes after the leaves, once, and return the folder that has a file per output."""
        plan = self._after(subset)
        leaves = [stage for stage in self._leaves if stage.modality in subset]
        first, *others = (output.name for output in self._subject.spec.outputs)
        identities = [[s.name, combination[s.name].identity] for s in (*leaves, *self._joint)]
        key = [self._data.digest, subset, identities, fingerprint.of_source(*_SOURCES)]

        def make(folder: Path) -> None:
            self._note(f"{subset_name(subset)} through {', '.join(stage.name for stage in self._joint)}")
            results = list(self._through(plan, combination, self._joint_pools(subset, combination)))
            for number, name in enumerate((first, *others)):
                if name in results[0]:
                    np.save(folder / _file(number), np.concatenate([result[name] for result in results]))

        return self._cache.entry("outputs", [*key, *others], make)

    def calibration_feeds(
        self, stage: StageSpec, combinations: Sequence[Mapping[str, Runner]], float_joint: Mapping[str, Runner]
    ) -> Iterator[Feeds]:
        """Yield feeds of a stage over this split, for calibration.

        A leaf is fed with what the leaves before it give. Another stage is fed with the union of the features that
        its encoders' candidates really give, every item once in full and once with a subset, in turn.

        Args:
            stage: to be calibrated.
            combinations: of runners by stage: the candidates of the stages before it, a combination per entry.
            float_joint: runners of the float files of the other stages.
        """
        pools: Iterator[dict[str, Array]]
        if is_leaf(stage):
            yield from (feeds_of(stage, pool) for pool in self._leaf_pools(stage, combinations[0]))
            return
        earlier = [one.name for one in self._joint[: self._joint.index(stage)]]
        subsets = self._subject.subsets
        for number, (subset, combination) in enumerate(self._calibrating(combinations)):
            pools = self._joint_pools(subset, combination)
            if number > 0:
                pools = islice(pools, number - 1, None, max(len(subsets), 1))
            if earlier:
                pools = self._through(self._after(subset, wanted=earlier), float_joint, pools, whole=True)
            if stage.role == "decoder":
                yield from self._steps(stage, float_joint[stage.name].session(), pools)
            else:
                yield from (feeds_of(stage, pool) for pool in pools)

    def calibration_chains(
        self, combinations: Sequence[Mapping[str, Runner]]
    ) -> Iterator[tuple[StageSpec, Mapping[str, Runner]]]:
        """Yield the leaves whose features calibrate a stage behind them, each with what runs it."""
        for subset, combination in self._calibrating(combinations):
            yield from ((leaf, combination) for leaf in self._leaves if leaf.modality in subset)

    def _calibrating(
        self, combinations: Sequence[Mapping[str, Runner]]
    ) -> Iterator[tuple[tuple[str, ...], Mapping[str, Runner]]]:
        """Yield all modalities, then every subset, each with one of the combinations.

        They are spread over all of them: neighbours are forms and schemes of the same kind.
        """
        subsets = self._subject.subsets
        for number, subset in enumerate((subsets[0], *subsets)):
            yield subset, combinations[number * len(combinations) // (len(subsets) + 1)]

    def _steps(self, stage: StageSpec, step: Session, pools: Iterator[dict[str, Array]]) -> Iterator[Feeds]:
        """Yield feeds of a decoder's step, given the tokens that are right: of each item every third step, in turn."""
        graph, ports = self._subject.graph, step_ports(stage)
        start = graph.initial(zeros_of_tensor)
        for number, pool in enumerate(pools):
            feeds = {port: (pool if key in pool else start)[key] for port, key in graph.inputs(stage)}
            given = feeds.pop(ports.token)
            for at, (one, _) in enumerate(forced(ports, step.run, feeds, given)):
                if at % _STEPS_APART == number % min(_STEPS_APART, given.shape[1]):
                    yield dict(one)

    def _alone(self, stage: StageSpec) -> Plan:
        """Plan a leaf alone: what it reads of other leaves is kept."""
        others = [leaf.name for leaf in self._leaves if leaf != stage]
        return self._subject.graph.plan([stage.modality], given=others, wanted=[stage.name])

    def _after(self, subset: tuple[str, ...], wanted: Sequence[str] | None = None) -> Plan:
        """Plan the stages after the leaves, whose features are kept, for a subset of the modalities."""
        return self._subject.graph.plan((), subset, wanted=wanted)

    def _joint_pools(self, subset: tuple[str, ...], combination: Mapping[str, Runner]) -> Iterator[dict[str, Array]]:
        """Yield, per item that has the subset, all that the stages after the leaves may read."""
        stores = [self.features(leaf, combination) for leaf in self._leaves if leaf.modality in subset]
        constants = constants_of(self._after(subset))
        for index in self._data.with_subset(self._subject.columns(subset)):
            pool = self._data.values[int(index)]
            for features in stores:
                pool |= features[int(index)]
            yield pool | constants

    def _leaf_pools(self, stage: StageSpec, chain: Mapping[str, Runner]) -> Iterator[dict[str, Array]]:
        """Yield, per item that has a leaf's modality, all that the leaf may read."""
        needed = {port.source.owner for port in stage.inputs if port.source.kind == "stage"}
        stores = [self._data.values, *(self.features(one, chain) for one in self._leaves if one.name in needed)]
        for index in np.flatnonzero(self._data.present[:, self._column(stage)]):
            yield {key: value for store in stores for key, value in store[int(index)].items()}

    def _through(
        self, plan: Plan, runners: Mapping[str, Runner], pools: Iterator[dict[str, Array]], *, whole: bool = False
    ) -> Iterator[dict[str, Array]]:
        """Yield a plan's results for every pool, added to the pool if `whole`, holding one block of pools at a time."""
        run_stage = over_blocks(runners, self._subject.spec)
        while block := list(islice(pools, _BLOCK)):
            values: dict[str, Block] = {key: [pool[key] for pool in block] for key in plan.given}
            start = self._subject.graph.initial(lambda tensor: [zeros_of_tensor(tensor)] * len(block))
            results, _ = self._subject.graph.run(plan, run_stage, values, start)
            for number, pool in enumerate(block):
                yield (pool if whole else {}) | {name: found[number] for name, found in results.items()}

    def _column(self, stage: StageSpec) -> int:
        return [modality.name for modality in self._subject.spec.modalities].index(stage.modality)


def feeds_of(stage: StageSpec, pool: Mapping[str, Array]) -> dict[str, Array]:
    """Pick a stage's inputs from a pool of values."""
    return {port.tensor.name: pool[port.source.key] for port in stage.inputs}


def _file(number: int) -> str:
    """Name the file of an output by its place among the model's."""
    return f"output_{number}.npy" if number else "outputs.npy"
