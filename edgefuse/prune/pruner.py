"""The seam between pruning methods and whoever calls them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.registry import create
from edgefuse.stages.stage import TorchStage

INTERFACE = "an input or output of the stage shares them"
"""Why the width of a stage's interface stays."""


class Examples(Protocol):
    """Training examples of one stage."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the positional inputs of the stage's module, batch first, and what the unpruned stage makes of them.

        The second part holds one tensor per output of the stage, in order.
        """


class Pruner(Protocol):
    """One pruning method, registered as an entry point of the group `edgefuse.pruners` under its name.

    Attributes:
        gradual: whether a ratio above one half is better reached in steps, with a short recovery after each.
    """

    name: str
    gradual: bool

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a pruned copy of the stage's module, in eval mode; the original stays as it is.

        Args:
            stage: with its module, in eval mode.
            step: with the ratio, the fraction to remove, and the importance.
            examples: training examples of the stage, for importances that need gradients or activations.

        Raises:
            PruneError: the stage has nothing that this method can prune, or the step makes no sense.
        """


@dataclass(frozen=True)
class Verdict:
    """Whether a width, or the heads of an attention, can be narrowed.

    Attributes:
        name: of the layer that makes the width, or of the module that the attention is.
        kind: `channels` or `heads`.
        size: how many there are.
        hidden: whether it lies within a block, so that the method `hidden` narrows it, too.
        narrows: whether it can be narrowed.
        reason: why not, as a sentence; empty if it can.
    """

    name: str
    kind: str
    size: int
    hidden: bool
    narrows: bool
    reason: str = ""

    @property
    def is_stuck(self) -> bool:
        """Whether it stays though it lies inside the stage: a stage's interfaces have to."""
        return not self.narrows and INTERFACE not in self.reason


@runtime_checkable
class Explaining(Protocol):
    """A pruning method that can say what it leaves alone inside a stage."""

    def verdicts(self, stage: TorchStage, step: PruningStep) -> tuple[Verdict, ...]:
        """Return whether each width and attention that it looks at can be narrowed, each tried once.

        Args:
            stage: with its module, in eval mode.
            step: that is to be taken.
        """


def verdicts_of(stage: TorchStage, step: PruningStep) -> tuple[Verdict, ...]:
    """Return whether what a step looks at inside a stage can be narrowed, as far as its method can say.

    Raises:
        PruneError: the method is unknown, or the stage cannot be traced.
    """
    pruner = method(step)
    return pruner.verdicts(stage, step) if isinstance(pruner, Explaining) else ()


def method(step: PruningStep) -> Pruner:
    """Return the pruning method of a step.

    Raises:
        PruneError: the method is unknown.
    """
    return cast(Pruner, create("pruners", step.method))


def apply_steps(stage: TorchStage, steps: Sequence[PruningStep], examples: Examples) -> nn.Module:
    """Return a copy of the stage's module after all steps, in order.

    Args:
        stage: with its module, in eval mode.
        steps: in order.
        examples: training examples of the stage.

    Raises:
        PruneError: a method is unknown, or cannot prune the stage.
    """
    module = copy.deepcopy(stage.module)
    for step in steps:
        pruner = method(step)
        module = pruner.prune(replace(stage, module=module), step, examples)
    return module


def check(step: PruningStep, importances: Sequence[str] = ("",), options: Sequence[str] = ()) -> None:
    """Refuse a ratio that is no fraction, or an importance or option that the method does not know.

    Args:
        step: of the recipe.
        importances: that the method knows.
        options: names of its own parameters.

    Raises:
        PruneError: with the allowed values.
    """
    if not 0 <= step.ratio < 1:
        raise PruneError(
            f"the ratio of a '{step.method}' step is out of range",
            got=step.ratio,
            expected="at least 0 and below 1",
            fix="write 0.5 to remove half",
        )
    if step.importance not in importances:
        raise PruneError(
            f"'{step.method}' pruning does not know this importance",
            got=repr(step.importance),
            expected=" or ".join(repr(name) for name in importances if name) or "none",
        )
    if unknown := [name for name, _ in step.options if name not in options]:
        raise PruneError(
            f"'{step.method}' pruning does not know this option",
            got=repr(unknown[0]),
            expected=" or ".join(map(repr, options)) or "none",
        )


def nothing_to_prune(stage: TorchStage, step: PruningStep, expected: str, reasons: Sequence[str] = ()) -> PruneError:
    """Return the error that a stage holds nothing that a method could prune.

    Args:
        stage: that was to be pruned.
        step: of the recipe.
        expected: what the method looks for.
        reasons: why what was found stays as it is.
    """
    return PruneError(
        f"the stage '{stage.spec.name}' holds nothing that '{step.method}' can prune",
        got="; ".join(reasons[:3]) or None,
        expected=expected,
        fix="leave this stage out of the step, or choose another method",
    )
