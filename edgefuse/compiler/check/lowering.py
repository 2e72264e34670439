"""What each target cannot lower: asked of the lowering itself, whose files a compile then finds in the cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.compiler.candidates.build import Hold, Lower
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.golden import GoldenInputs
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.check.record import LoweredStage
from edgefuse.compiler.workers import Tried, Workers
from edgefuse.datasets.cache import Cache
from edgefuse.errors import EdgefuseError
from edgefuse.stages.stage import TorchStage

_RUNS = 5


@dataclass(frozen=True)
class Lowerings:
    """What came of the stages.

    Attributes:
        stages: per target and stage, what came of it.
        errors: the first error of each target that cannot be compiled for.
        files: a float file per stage, of whichever target, as far as there is one.
    """

    stages: tuple[LoweredStage, ...]
    errors: dict[str, EdgefuseError]
    files: dict[str, Built]


def lowerings(
    stages: Sequence[TorchStage], targets: Sequence[str], golden: GoldenInputs, cache: Cache, workers: Workers
) -> Lowerings:
    """Lower every stage in float for every target, open the files, and hold them to torch.

    Args:
        stages: unpruned.
        targets: that join no others.
        golden: what files are held to.
        cache: where the files are kept for a compile.
        workers: that lower.

    Raises:
        EngineError, CacheError: if workers or cache fail.
    """
    jobs = [(target, stage) for target in targets for stage in stages]
    jobs.sort(key=lambda job: -_parts(job[1]))  # the longest first, so that none is left alone at the end
    made = workers.map(Tried(TryLowering(golden, cache)), jobs, "check: lower")
    results = dict(zip(map(_named, jobs), made, strict=True))
    found: list[LoweredStage] = []
    errors: dict[str, EdgefuseError] = {}
    files: dict[str, Built] = {}
    for target, name in ((target, stage.spec.name) for target in targets for stage in stages):
        result = results[target, name]
        if isinstance(result, EdgefuseError):
            errors.setdefault(target, result)
            found.append(LoweredStage(target=target, stage=name, says=str(result)))
        else:
            lowered, built = result
            files.setdefault(name, built)
            found.append(lowered)
    return Lowerings(tuple(found), errors, files)


def _named(job: tuple[str, TorchStage]) -> tuple[str, str]:
    return job[0], job[1].spec.name


def _parts(stage: TorchStage) -> int:
    return sum(1 for _ in stage.module.modules())


@dataclass(frozen=True)
class TryLowering:
    """Lowers a stage for a target, holds the file to torch, and runs it a few times to see how long that takes."""

    golden: GoldenInputs
    cache: Cache

    def __call__(self, job: tuple[str, TorchStage]) -> tuple[LoweredStage, Built]:
        """Take a target and the stage; errors are those of `Lower` and `Hold`."""
        target, _ = job
        began = time.perf_counter()
        built = Lower(self.cache).file(job)
        took = time.perf_counter() - began
        Hold(self.golden, self.cache)((target, built))
        return (
            LoweredStage(
                target=target,
                stage=built.stage,
                size_bytes=built.size_bytes,
                seconds=self.cache.record("lowering-seconds", [built.sha256, target], float, lambda: took),
                run_ms=self._run_ms(target, built),
            ),
            built,
        )

    def _run_ms(self, target: str, built: Built) -> float:
        """Return the fastest of a few runs: what others do at the same time only makes it slower."""
        session = built.open(Toolchain.of(target, self.cache).backend, 1)
        feeds = self.golden.feeds[built.stage][0]
        times = []
        for _ in range(_RUNS):
            began = time.perf_counter_ns()
            session.run(feeds)
            times.append(time.perf_counter_ns() - began)
        return min(times) / 1e6
