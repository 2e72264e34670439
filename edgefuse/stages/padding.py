"""Whether a stage answers otherwise when its input is padded: measured in torch, before anything is lowered.

A file of fixed shapes takes an input of variable size padded with zeros to the largest. A mean over all steps, the last
state of a recurrent layer, or attention without a mask then give another answer than at the true size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import StageSpec
from edgefuse.measure.agreement import cropped
from edgefuse.runtime.backends.backend import padded
from edgefuse.stages.examples import chained_feeds, example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Array, Feeds, TorchStage

_TRIED = 4


@dataclass(frozen=True)
class Dependence:
    """How a stage depends on padding.

    Attributes:
        stage: its name.
        output: the port that differs most.
        error: the largest difference, as a share of the largest answer.
        steps: the true size of the padded axis where it was found.
        largest: the size that it was padded to.
    """

    stage: str
    output: str
    error: float
    steps: int
    largest: int

    def __str__(self) -> str:
        return (
            f"its output '{self.output}' is {100 * self.error:.3g} % off where {self.steps} steps are padded"
            f" to {self.largest}"
        )


def may_be_padded(spec: StageSpec) -> bool:
    """Tell whether any input of a stage has a variable size."""
    return any(not isinstance(dim, int) for port in spec.inputs for dim in port.tensor.shape)


def takes_variable_features(spec: StageSpec) -> bool:
    """Tell whether a stage takes what an earlier one gives in a variable size."""
    ports = (port for port in spec.inputs if port.source.kind == "stage")
    return any(not isinstance(dim, int) for port in ports for dim in port.tensor.shape)


def depends_on_padding(stage: TorchStage, examples: Iterable[Feeds] | None = None) -> Dependence | None:
    """Run a stage at several sizes and padded with zeros; return the worst difference, or None if all agree.

    Args:
        stage: to try.
        examples: feeds of true sizes; by default generated ones.

    Raises:
        ModelError: if the module fails at a size.
    """
    if not may_be_padded(stage.spec):
        return None
    found = _at_shorter(stage, example_feeds(stage, count=_TRIED) if examples is None else examples)
    return max(chain.from_iterable(found), key=lambda one: one.error, default=None)


def right_when_shorter(stage: TorchStage) -> bool:
    """Tell whether a stage does not depend on padding at some generated size below the largest.

    Raises:
        ModelError: if the module fails at a size.
    """
    return any(not found for found in _at_shorter(stage, example_feeds(stage, count=_TRIED)))


def _at_shorter(stage: TorchStage, examples: Iterable[Feeds]) -> Iterator[list[Dependence]]:
    """Yield how the outputs of a stage depend on padding, for each example that is shorter than the largest."""
    for feeds in islice(examples, 2 * _TRIED):
        longer = {p.tensor.name: padded(feeds[p.tensor.name], p.tensor.max_shape) for p in stage.spec.inputs}
        if any(longer[name].shape != value.shape for name, value in feeds.items()):
            yield _compared(stage, feeds, run_torch(stage, feeds), run_torch(stage, longer))


def dependences(stages: Sequence[TorchStage]) -> dict[str, Dependence]:
    """Return the dependence of each stage that has one, by its name, all stages run one after the other.

    What a stage gives behind the true size is what the next takes there, so this sees more than a stage by itself.

    Args:
        stages: in an order in which they can run.

    Raises:
        ModelError: if a module fails at a size.
    """
    found: dict[str, Dependence] = {}
    if not any(may_be_padded(stage.spec) for stage in stages):
        return found
    pairs = zip(chained_feeds(stages, count=_TRIED), chained_feeds(stages, count=_TRIED, filled=True), strict=True)
    for true, longer in pairs:
        for stage in (stage for stage in stages if may_be_padded(stage.spec) and stage.spec.name not in found):
            name = stage.spec.name
            results = (run_torch(stage, feeds[name]) for feeds in (true, longer))
            if worst := max(_compared(stage, true[name], *results), key=lambda one: one.error, default=None):
                found[name] = worst
    return found


def _compared(
    stage: TorchStage, feeds: Feeds, expected: dict[str, Array], padded_answers: dict[str, Array]
) -> list[Dependence]:
    """Return how each output that is off depends on padding."""
    allowed = Tolerance()
    found: list[Dependence] = []
    steps, most = _padded_axis(stage.spec, feeds)
    for port, answer in expected.items():
        other = cropped(padded_answers[port], answer.shape)
        largest = float(np.abs(answer).max(initial=0.0))
        worst = float(np.abs(np.subtract(other, answer, dtype=np.float64)).max(initial=0.0))
        if not worst <= allowed.absolute + allowed.relative * largest:
            found.append(Dependence(stage.spec.name, port, worst / max(largest, allowed.absolute), steps, most))
    return found


def _padded_axis(spec: StageSpec, feeds: Feeds) -> tuple[int, int]:
    """Return the true and the largest size of the first axis that is padded."""
    sizes = (
        pair
        for port in spec.inputs
        for pair in zip(feeds[port.tensor.name].shape, port.tensor.max_shape, strict=True)
        if pair[0] < pair[1]
    )
    return next(sizes, (0, 0))
