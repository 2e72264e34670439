"""Distribute one latency goal over the stages: how much to prune each of them.

Every stage is pruned at a few ratios, without recovery, and each result is lowered and timed. From the unpruned stages
on, the step that saves the most latency per error added is taken, until the goal is met (as NetAdapt does layer by
layer, arXiv:1804.03230, with times measured instead of looked up).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.spec import Record
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.timing import HERE, Contender, Timer
from edgefuse.measure.pressure import Pressure
from edgefuse.prune.pruner import Examples, apply_steps
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.stage import TorchStage

logger = logging.getLogger(__name__)

RATIOS = (0.25, 0.4, 0.5, 0.6, 0.7)
_JUDGED = 256


class Point(Record, frozen=True, kw_only=True):
    """One ratio of one stage: its latency in float, and the error of its outputs over their variance."""

    ratio: float
    p50_ms: float
    error: float


class Points(Record, frozen=True, kw_only=True):
    """All ratios of one stage, the unpruned one first, and what else the machine did while they were timed."""

    points: tuple[Point, ...]
    pressure: Pressure = msgspec.field(default_factory=Pressure)


def step(ratio: float) -> PruningStep:
    """Return the pruning that the goal is distributed with."""
    return PruningStep(method="structured", ratio=ratio, importance="taylor")


@dataclass(frozen=True)
class Prober:
    """Measures what pruning a stage gains and costs.

    Args:
        toolchain: of the target whose runtime times the stages.
        threads: of that runtime.
        timer: compares what was pruned.
    """

    toolchain: Toolchain
    threads: int
    timer: Timer = HERE

    def measure(self, stage: TorchStage, examples: Examples) -> Points:
        """Prune a stage at all ratios and return what was measured, unpruned first.

        Raises:
            PruneError: if the stage cannot be pruned.
        """
        modules = {0.0: stage.module} | {r: apply_steps(stage, [step(r)], examples) for r in RATIOS}
        inputs, wanted = examples.batch(range(min(_JUDGED, len(examples))))
        forms = {
            ratio: TorchStage(stage.spec, module, Pruning(steps=(step(ratio),), recovery="none") if ratio else None)
            for ratio, module in modules.items()
        }
        built = {ratio: self.toolchain.lower(form) for ratio, form in forms.items()}
        feeds = [next(example_feeds(stage))]
        contenders = [Contender(one, feeds) for one in built.values()]
        times = self.timer.stage(stage.spec, contenders, self.toolchain.backend, self.threads)
        return Points(
            points=tuple(
                Point(ratio=ratio, p50_ms=times[built[ratio].id].p50.value, error=_error(module, inputs, wanted))
                for ratio, module in modules.items()
            ),
            pressure=times[built[0.0].id].pressure,
        )


def _error(module: nn.Module, inputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """Return the squared error of a module's first output over the variance of the wanted one."""
    with torch.no_grad():
        made = module(*inputs)
    given = made[0] if isinstance(made, tuple) else made
    spread = float(wanted[0].double().var(dim=0, correction=0).mean())
    return float(nn.functional.mse_loss(given.double(), wanted[0].double())) / max(spread, 1e-12)


def distribute(points: Mapping[str, Sequence[Point]], goal: float) -> dict[str, float]:
    """Return a ratio per stage, such that all stages together take `goal` of their unpruned latency.

    Args:
        points: per stage its measured points, the unpruned one first.
        goal: a share between 0 and 1; if no ratios reach it, the nearest are returned and a warning is logged.
    """
    place = dict.fromkeys(points, 0)
    whole = sum(found[0].p50_ms for found in points.values())

    def total() -> float:
        return sum(found[place[name]].p50_ms for name, found in points.items())

    while total() > goal * whole:
        moves = [
            (_price(found[place[name]], found[later]), name, later)
            for name, found in points.items()
            for later in range(place[name] + 1, len(found))
            if found[later].p50_ms < found[place[name]].p50_ms
        ]
        if not moves:
            logger.warning("pruning reaches %.2f of the float latency, not the goal of %.2f", total() / whole, goal)
            break
        _, name, later = min(moves)
        place[name] = later
    return {name: found[place[name]].ratio for name, found in points.items()}


def _price(now: Point, then: Point) -> float:
    """Return the error that a move adds per millisecond that it saves."""
    return max(then.error - now.error, 0.0) / (now.p50_ms - then.p50_ms)
