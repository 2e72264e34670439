"""An estimate of the time and memory of a compile: counts of work, times what a piece of it took here a moment ago.

It is for an empty cache and one job at a time, and says nothing about what a busy machine does. What is counted is what
`compilation` lists; constants are of the tools (a process that starts, torch's compiler) and were measured on two cores
of a current server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgefuse import registry
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.schemes import wanted_schemes
from edgefuse.compiler.check.data import SplitRead
from edgefuse.compiler.check.record import Estimate, FoundStage, LoweredStage, PrunedStage
from edgefuse.compiler.evaluation.evaluator import is_leaf
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.timing.here import RUNG_TIMING, STAGE_TIMING
from edgefuse.measure.memory import peak_rss_bytes
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import call_torch
from edgefuse.stages.stage import TorchStage

_BATCH = 8
_BACKWARD = 2.0
"""Of a training step, in forward passes, besides the forward pass."""
_QUANTIZE_SECONDS = 0.1
"""To rewrite a small file and hold it to torch."""
_BYTES_PER_SECOND = 50e6
"""Of a float file that is read, rewritten and written."""
_STAGE_SECONDS = 2.5
"""To time the candidates of a stage, however short they are."""
_CALIBRATION_RUNS = 3.0
"""A run that keeps every value, in plain runs; ranges are looked at, too."""
_CLOSER = 4.0
"""How much quantizing a stage with `[quantize]` goals takes, of what it takes without."""
_RUNGS = 4
"""Of a target, as a rule."""
_RUNG_SECONDS = 3.0
"""To start a process that loads a rung, and to write its bundle."""
_REFERENCE_SECONDS = 30.0
"""Of torch's own compiler, where there is one for C++, and of the choice of the reference."""
_ADAM = 4
"""Numbers that training keeps per weight: itself, its gradient, two moments."""


@dataclass(frozen=True)
class Known:
    """What is known when the estimate is made: see `record`."""

    model: Model
    stages: Sequence[FoundStage]
    lowered: Sequence[LoweredStage]
    pruned: Sequence[PrunedStage]
    read: Sequence[SplitRead]


def estimate(known: Known) -> Estimate | None:
    """Return the estimate for the targets whose stages can all be lowered; None if there are none.

    Args:
        known: what the check has found.
    """
    targets = {one.target for one in known.lowered} - {one.target for one in known.lowered if not one.ok}
    if not targets:
        return None
    counted = _Counted(known, sorted(targets))
    seconds = {
        "read the data": counted.reading(),
        "lower": counted.lowering(),
        "prune and recover": counted.recovering(),
        "quantize": counted.quantizing(),
        "run over the data": counted.running(),
        "time": counted.timing(),
    }
    memory_bytes = peak_rss_bytes() + counted.training_bytes()
    return Estimate(
        seconds={what: float(f"{value:.2g}") for what, value in seconds.items() if value > 0},
        memory_bytes=memory_bytes,
        candidates=sum(counted.candidates(target, stage) for target in targets for stage in counted.specs),
    )


@dataclass(frozen=True)
class _Counted:
    known: Known
    targets: Sequence[str]

    @property
    def specs(self) -> list[StageSpec]:
        return [stage.spec for stage in self.known.model.stages]

    def forms(self, stage: StageSpec) -> int:
        return 1 + len(self._prunings(stage))

    def candidates(self, target: str, stage: StageSpec) -> int:
        return self.forms(stage) * (1 + self._schemes(target, stage))

    def reading(self) -> float:
        return sum(split.seconds / max(split.read, 1) * split.total for split in self.known.read)

    def lowering(self) -> float:
        by_name = {spec.name: spec for spec in self.specs}
        return sum(one.seconds * self.forms(by_name[one.stage]) for one in self._lowered.values())

    def recovering(self) -> float:
        """Forward passes of the unpruned stages once, then steps of the pruned ones; narrow ones cost what is left."""
        recipe, train = self.known.model.recipe, self._items("train")
        pruned = [one for spec in self.specs for one in self._prunings(spec)]
        if not pruned or not train:
            return 0.0
        whole = {stage.name: max(stage.parameters, 1) for stage in self.known.stages}
        judged = self._items("validation") * len(self.known.model.spec.subsets())
        per_epoch = sum(
            self._torch_seconds[one.stage] * (train * (1 + _BACKWARD) * one.parameters / whole[one.stage])
            + judged * self._joint_seconds
            for one in pruned
        )
        return train * sum(self._torch_seconds.values()) + recipe.recover.epochs * per_epoch

    def quantizing(self) -> float:
        goals = _CLOSER if self.known.model.recipe.quantize.goals_db else 1.0
        runs = self._items("calibration") * _CALIBRATION_RUNS
        seconds = 0.0
        for target in self.targets:
            for spec in self.specs:
                size_bytes = self._lowered[target, spec.name].size_bytes
                once = _QUANTIZE_SECONDS + size_bytes / _BYTES_PER_SECOND + runs * self._run(target, spec)
                seconds += self.forms(spec) * self._schemes(target, spec) * once
        return goals * seconds

    def running(self) -> float:
        """The reference in torch, candidates over the validation split, fusion passes, rungs over the test split."""
        validation, test = self._items("validation") + self._items(UNLABELLED), self._items("test")
        seconds = (validation + test) * sum(self._torch_seconds.values())
        passes = self.known.model.recipe.search.max_fusion_passes
        for target in self.targets:
            for spec in self.specs:
                times = 1 if is_leaf(spec) else len(self.known.model.spec.subsets())
                count = self.candidates(target, spec) + (0 if is_leaf(spec) else passes)
                seconds += (count * validation + _RUNGS * test) * times * self._run(target, spec)
        return seconds

    def timing(self) -> float:
        """All candidates of a stage together, then all rungs and the reference together."""
        seconds = _REFERENCE_SECONDS
        rounds = STAGE_TIMING.min_rounds * (STAGE_TIMING.burst + STAGE_TIMING.settle)
        total = 0.0
        for target in self.targets:
            for spec in self.specs:
                wanted = rounds * self.candidates(target, spec) * self._run(target, spec)
                seconds += _STAGE_SECONDS + min(STAGE_TIMING.max_seconds or wanted, wanted)
                total += _RUNGS * self._run(target, spec)
            seconds += _RUNGS * _RUNG_SECONDS
        calls = RUNG_TIMING.min_rounds * (RUNG_TIMING.burst + RUNG_TIMING.settle)
        wanted = calls * (total + sum(self._torch_seconds.values()))
        return seconds + min(RUNG_TIMING.max_seconds or wanted, wanted)

    def training_bytes(self) -> int:
        """What a recovery adds: gradients and moments of the largest stage that recovers."""
        pruned = [one.parameters for spec in self.specs for one in self._prunings(spec)]
        return 4 * _ADAM * max(pruned, default=0)

    @cached_property
    def _lowered(self) -> Mapping[tuple[str, str], LoweredStage]:
        return {(one.target, one.stage): one for one in self.known.lowered if one.target in self.targets}

    @cached_property
    def _torch_seconds(self) -> Mapping[str, float]:
        return {stage.spec.name: _seconds_per_sample(stage) for stage in self.known.model.stages}

    @property
    def _joint_seconds(self) -> float:
        return sum(self._torch_seconds[spec.name] for spec in self.specs if not is_leaf(spec))

    def _prunings(self, stage: StageSpec) -> list[PrunedStage]:
        return [one for one in self.known.pruned if one.asked and not one.says and one.stage == stage.name]

    def _schemes(self, target: str, stage: StageSpec) -> int:
        quantizer: Quantizer = registry.create("quantizers", target)
        recipe = self.known.model.recipe
        return len(wanted_schemes(quantizer, stage, recipe.search.objective, recipe.schemes, recipe.compile.device))

    def _run(self, target: str, stage: StageSpec) -> float:
        return (self._lowered[target, stage.name].run_ms or 0.0) / 1e3

    def _items(self, split: str) -> int:
        return next((one.total for one in self.known.read if one.name == split), 0)


def _seconds_per_sample(stage: TorchStage) -> float:
    """Time a forward pass in torch on a small batch, the second of two."""
    feeds = list(example_feeds(stage, count=_BATCH, fixed=True))
    batch = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    call_torch(stage, batch)
    began = time.perf_counter()
    call_torch(stage, batch)
    return (time.perf_counter() - began) / _BATCH
