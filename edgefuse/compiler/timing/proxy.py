"""The timer for a processor that nothing here can run on: a cost, counted from the files, stands in for the time.

It is a roofline (`CostGraph.cost`). Caches, dispatch and everything but multiplications cost nothing, so costs rank
candidates and predict no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.timing.timer import Contender, DraftRung, RungTime, RungTimes, StageTime, Unit
from edgefuse.export import costs
from edgefuse.export.cost_graph import Roofline
from edgefuse.measure.statistics import Interval
from edgefuse.runtime.backends.backend import Backend, versions_of
from edgefuse.runtime.decoding import TOKEN
from edgefuse.runtime.pipeline import Inputs

ARM_CORE = Roofline("one Arm core with int8 dot products", "aarch64", float32=8, float16=8, int8=32, bytes=4)
"""A Cortex-A76 or Neoverse N1: FMLA and SDOT, from Arm's "Cortex-A76 software optimization guide", section 3.15.

Float16 files are computed in float32 there.
"""


@dataclass(frozen=True)
class Proxy:
    """Counts the costs of files for a processor; runs nothing."""

    roofline: Roofline = ARM_CORE
    unit: Unit = "cost"

    def describe(self, backends: Sequence[Backend], threads: int) -> Machine:
        """Say that this is no machine; the versions are those that judge accuracy here."""
        return Machine(
            architecture=self.roofline.architecture,
            cpu=f"no device: costs counted from the files, for {self.roofline.name}",
            cores=1,
            features=(),
            runtimes=versions_of(backends),
            threads=threads,
        )

    def quiet(self) -> bool:
        """Nothing is measured, and no load can falsify it."""
        return True

    def stage(self, stage: StageSpec, contenders: Sequence[Contender], threads: int) -> Mapping[str, StageTime]:
        """Count files of one stage."""
        found = {contender.built.id: cost(contender.built, stage, self.roofline) for contender in contenders}
        first = found[contenders[0].built.id]
        return {name: StageTime(_exactly(value), _ratio(first, value)) for name, value in found.items()}

    def rungs(
        self, drafts: Sequence[DraftRung], inputs: Sequence[Inputs], reference: Callable[[Inputs], object], threads: int
    ) -> RungTimes:
        """Add up the stages of each rung; the torch reference costs nothing that could be compared."""
        steps = float(np.mean([one.values[TOKEN].shape[1] if TOKEN in one.values else 1 for one in inputs]))
        found = {draft.key: _sum(draft, self.roofline, steps) for draft in drafts}
        return RungTimes(
            None,
            {
                draft.key: RungTime(
                    cost=found[draft.key], speedup_over_float=_ratio(found[draft.float_key], found[draft.key])
                )
                for draft in drafts
            },
        )


def cost(built: Built, stage: StageSpec, roofline: Roofline = ARM_CORE) -> float:
    """Return the cost of one run of a stage's file; a million float32 multiply-accumulates cost 1.

    Args:
        built: the file.
        stage: that it computes.
        roofline: of the processor that stands in.
    """
    return costs.graph(built.lowered(), built.target, stage).cost(roofline)


def _sum(draft: DraftRung, roofline: Roofline, steps: float) -> float:
    """Return the cost of a prediction, in which a decoder takes so many steps."""
    with open_bundle(draft.bundle) as bundle:
        specs = {stage.name: stage for stage in bundle.manifest.stages}
    return sum(
        cost(built, specs[stage], roofline) * (steps if specs[stage].role == "decoder" else 1)
        for stage, built in draft.built.items()
    )


def _exactly(value: float) -> Interval:
    return Interval(value, value, value)


def _ratio(first: float, value: float) -> Interval:
    """Return how many times less than the first something costs; 1 where nothing costs anything."""
    return _exactly(first / value if value else 1.0)
