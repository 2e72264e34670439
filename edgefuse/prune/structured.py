"""Narrow a stage: channels of convolutions, hidden units, heads, the residual width, recurrent hidden sizes.

Every width inside the stage loses the same fraction of its channels, ranked within that width; its inputs and outputs
keep their shapes. A fraction r removed leaves about (1 - r)^2 of the multiplications.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune.importance import IMPORTANCES, rank
from edgefuse.prune.narrowing import Insides, found_attentions, insides_of, kinds_of, narrow_parts, rounded
from edgefuse.prune.pruner import INTERFACE, Examples, Verdict, check, nothing_to_prune
from edgefuse.prune.trial import Trials, stays, try_widths
from edgefuse.prune.widths import Width
from edgefuse.stages.stage import TorchStage

__all__ = ["StructuredPruner", "narrowed", "rounded"]

_log = logging.getLogger(__name__)


class StructuredPruner:
    """Remove a fraction of every width inside a stage, by the dependency graph of Torch-Pruning (arXiv:2301.12900)."""

    name = "structured"
    gradual = True

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a narrower copy with the same interfaces.

        Raises:
            PruneError: the stage has no inner width, cannot be traced, or does not run with a smaller one.
        """
        expected = "a width between two layers that no interface shares"
        return narrowed(stage, step, examples, lambda width: True, expected)

    def verdicts(self, stage: TorchStage, step: PruningStep) -> tuple[Verdict, ...]:
        """Return what came of narrowing each width and the heads of each attention."""
        return try_widths(stage, step.ratio)


def narrowed(
    stage: TorchStage, step: PruningStep, examples: Examples, chosen: Callable[[Width], bool], expected: str
) -> nn.Module:
    """Return a copy of a stage's module with smaller attentions, and the chosen ones of its widths smaller.

    Args:
        stage: what is narrowed; it stays as it is.
        step: by how much, and ranked by what.
        examples: for the ranking.
        chosen: says of a width whether it may shrink.
        expected: what a stage must hold, for the error.

    Raises:
        PruneError: nothing may shrink, the stage cannot be traced, or it does not run with smaller widths.
    """
    check(step, IMPORTANCES)
    attentions = found_attentions(stage)
    inside = insides_of(stage, attentions)
    numbers = [number for number, part in enumerate(inside.parts) if not isinstance(part, Width) or chosen(part)]
    if not numbers:
        raise nothing_to_prune(stage, step, expected, _reasons(inside))
    if step.ratio == 0:
        return copy.deepcopy(stage.module)
    scores = _scores(step, inside, numbers, examples)
    trials = Trials(stage, attentions, step.ratio)
    if not trials.outcome(inside, scores, numbers) and trials.right(inside, numbers):
        return inside.stage.module
    numbers, refused = trials.surviving(inside, numbers)
    again = insides_of(stage, attentions)
    reasons = [stays(again.parts[number], why) for number, why in refused.items()]
    for reason in reasons:
        _log.warning("pruning leaves a width of the stage '%s' alone: %s", stage.spec.name, reason)
    if not numbers:
        raise _does_not_run(stage, reasons)
    narrow_parts(again, scores, numbers, step.ratio)
    return again.stage.module


def _reasons(inside: Insides) -> list[str]:
    """Return why what a stage holds stays as it is, but for its interfaces, of which that is expected."""
    return [kept.reason for kept in inside.kept if INTERFACE not in kept.reason]


def _scores(step: PruningStep, inside: Insides, numbers: Sequence[int], examples: Examples) -> list[list[Tensor]]:
    """Return the importance of all that is ranked, by part; nothing for parts that are not asked for."""
    kinds = [kinds_of(part) if number in set(numbers) else [] for number, part in enumerate(inside.parts)]
    flat = iter(rank(step.importance, inside.stage.module, [kind for part in kinds for kind in part], examples))
    return [[next(flat) for _ in part] for part in kinds]


def _does_not_run(stage: TorchStage, reasons: Sequence[str]) -> PruneError:
    """Return the error that a stage takes none of the widths that it has."""
    return PruneError(
        f"the stage '{stage.spec.name}' does not run with smaller widths inside",
        got=reasons[0] + (f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""),
        fix="take sizes from tensors and layers in its forward pass instead of constants",
    )
