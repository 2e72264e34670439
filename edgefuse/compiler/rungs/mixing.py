"""Whether the default rung of a joined target runs in several runtimes: only where that is clearly faster than in one.

Several runtimes cost memory, a slower start, and their installation. So the rungs of each member are timed beside those
of the joined target, in the same interleaved run, and the default one mixes only if it is 3 % faster than the best.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgefuse.compiler.candidates.built import joined_id
from edgefuse.compiler.rungs.final import RungAccuracy, RungTiming
from edgefuse.compiler.rungs.result import TargetResult
from edgefuse.compiler.search import Combination
from edgefuse.compiler.search.frontier import objective_of, reduced

WORTH_MIXING = 0.03
"""How much faster a rung must be that runs in several runtimes, as a share."""


def alternatives(result: TargetResult, rungs: Mapping[str, Mapping[str, Combination]]) -> dict[str, Combination]:
    """Return the rungs of a joined target's members as combinations of the joined one, by names such as `fast@onnx`.

    Left out are rungs beyond the budget where the joined target holds it: they are no alternative.

    Args:
        result: of the joined target.
        rungs: of each member, the default one first.
    """
    objective = result.data.material.subject.recipe.search.objective
    held = result.search.winners[objective].within_budget
    return {
        joined_id(name, part.target): {stage: joined_id(one, part.target) for stage, one in combination.items()}
        for part in result.parts
        for name, combination in rungs[part.target].items()
        if not reduced(name) and part.search.winners[objective_of(name)].within_budget >= held
    }


def is_alternative(rung: str) -> bool:
    """Tell whether a rung is that of a member."""
    return "@" in rung


def settle(
    result: TargetResult,
    chosen: dict[str, Combination],
    accuracies: dict[str, RungAccuracy],
    here: dict[str, RungTiming],
) -> None:
    """Let the default rung run in one runtime unless it is clearly faster in several; alternatives are then removed.

    Args:
        result: of the target.
        chosen: combinations by rung, the default one first; changed in place.
        accuracies: by rung; changed in place.
        here: timings by rung; changed in place.
    """
    others = [name for name in chosen if is_alternative(name)]
    best = min(others, key=lambda name: here[name].p50, default=None)
    default = next(iter(chosen))
    if best is not None and not _worth_it(result, chosen[default], here[default], here[best]):
        chosen[default], accuracies[default], here[default] = chosen[best], accuracies[best], here[best]
    for name in others:
        del chosen[name]


def _worth_it(result: TargetResult, combination: Combination, timing: RungTiming, other: RungTiming) -> bool:
    """Whether a combination is to be kept in place of one in a single runtime."""
    if not result.mixes(combination):
        return timing.p50 <= other.p50
    shown = timing.speedup_over_float.ci95[0] > other.speedup_over_float.ratio
    return shown and timing.p50 <= (1 - WORTH_MIXING) * other.p50
