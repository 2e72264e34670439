"""Which widths and heads of a stage can be narrowed, found by narrowing them: a trial of all, halved where it fails.

What the forward pass of a stage does with its widths (a size in a constant, a view that takes it from elsewhere) is
not read but tried: the narrow copy has to run at several sizes and batches and give what the whole one gives, in shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edgefuse.errors import cited
from edgefuse.prune.attention import FAILURES, Attention
from edgefuse.prune.heads import FoundHeads, Heads
from edgefuse.prune.narrowing import (
    Insides,
    batches_of,
    found_attentions,
    insides_of,
    kinds_of,
    narrow_parts,
    rounded,
)
from edgefuse.prune.pruner import Verdict
from edgefuse.prune.widths import Width
from edgefuse.stages.stage import TorchStage, outputs_of

Batches: TypeAlias = Sequence[tuple[Tensor, ...]]
"""Inputs of a stage's module, of several sizes."""


class Trials:
    """Narrow copies of one stage, against the stage itself."""

    def __init__(self, stage: TorchStage, attentions: Sequence[Attention], ratio: float) -> None:
        self._stage = stage
        self._attentions = attentions
        self._ratio = ratio
        self._batches = batches_of(stage)
        self._expected = [self._answers(stage.module, batch) for batch in self._batches]

    def failure(self, numbers: Sequence[int]) -> str:
        """Say why the stage does not run with some parts narrowed; nothing if it does."""
        inside = insides_of(self._stage, self._attentions)
        return self.outcome(inside, _scores(inside), numbers)

    def outcome(self, inside: Insides, scores: Sequence[Sequence[Tensor]], numbers: Sequence[int]) -> str:
        """Narrow some parts of a copy, in place; say why the stage does not run so.

        Args:
            inside: the copy.
            scores: the importance of all that is ranked, by part.
            numbers: of the parts.
        """
        try:
            narrow_parts(inside, scores, numbers, self._ratio)
        except FAILURES as error:  # the graph of dependencies does not fit the layers
            return cited(error)
        return self.difference(inside.stage.module)

    def mistake(self, numbers: Sequence[int]) -> str:
        """Say why some widths narrowed do not give what zeros where they are read give; nothing if they do."""
        inside = insides_of(self._stage, self._attentions)
        for number in numbers:
            width = inside.widths[number]
            width.silence(range(rounded(len(width.units), self._ratio), len(width.units)))
        silent = [self._answers(inside.stage.module, batch) for batch in self._batches]
        if reason := self.outcome(inside, _scores(inside), numbers):
            return reason
        for batch, expected in zip(self._batches, silent, strict=True):
            pairs = zip(self._answers(inside.stage.module, batch) or (), expected or (), strict=True)
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * (1 + float(b.abs().max()))) for a, b in pairs):
                return "it takes other channels for those that are left"
        return ""

    def difference(self, module: nn.Module) -> str:
        """Say why a narrow module is none of this stage; nothing if it is."""
        for batch, expected in zip(self._batches, self._expected, strict=True):
            if expected is None:
                continue
            try:
                got = self._run(module, batch)
            except FAILURES as error:
                return cited(error)
            shapes = [list(tensor.shape) for tensor in got], [list(tensor.shape) for tensor in expected]
            if shapes[0] != shapes[1]:
                return f"its outputs are {_listed(shapes[0])} instead of {_listed(shapes[1])}"
            if not all(
                bool(a.isfinite().all()) or not bool(b.isfinite().all()) for a, b in zip(got, expected, strict=True)
            ):
                return "its outputs are not finite"
        return ""

    def surviving(self, inside: Insides, numbers: Sequence[int]) -> tuple[list[int], dict[int, str]]:
        """Return which parts can be narrowed together, and of the others why not.

        Args:
            inside: any copy of the stage.
            numbers: of the parts to narrow.
        """
        reshaped = _reshaped(inside, numbers)
        good, refused = _surviving(reshaped, self.mistake)
        others = [number for number in numbers if number not in set(reshaped)]
        good, more = _surviving([*others, *good], self.failure)
        return good, {**refused, **more}

    def right(self, inside: Insides, numbers: Sequence[int]) -> bool:
        """Say whether widths that pass through views mean the same when they are narrow; of others it cannot be told.

        Args:
            inside: any copy of the stage.
            numbers: of the parts to narrow.
        """
        reshaped = _reshaped(inside, numbers)
        return not (reshaped and self.mistake(reshaped))

    def _answers(self, module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        try:
            return self._run(module, batch)
        except FAILURES:  # a size that the whole stage does not take asks nothing of the narrow one
            return None

    @staticmethod
    def _run(module: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return outputs_of(module(*batch))


def _surviving(numbers: Sequence[int], failure: Callable[[Sequence[int]], str]) -> tuple[list[int], dict[int, str]]:
    """Return the numbers that do not fail together, and of the others why: what fails is halved until it is one."""
    good: list[int] = []
    refused: dict[int, str] = {}

    def add(part: Sequence[int]) -> None:
        reason = failure([*good, *part]) if part else ""
        if not reason:
            good.extend(part)
        elif len(part) == 1:
            refused[part[0]] = reason
        else:
            add(part[: len(part) // 2])
            add(part[len(part) // 2 :])

    add(numbers)
    return sorted(good), refused


def _reshaped(inside: Insides, numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if number < len(inside.widths) and inside.widths[number].is_reshaped]


def _scores(inside: Insides) -> list[list[Tensor]]:
    """Return scores by which the first of everything stays."""
    return [[torch.zeros(kind.count) for kind in kinds_of(part)] for part in inside.parts]


def _listed(shapes: Sequence[list[int]]) -> str:
    return ", ".join(map(str, shapes))


def try_widths(stage: TorchStage, ratio: float = 0.5) -> tuple[Verdict, ...]:
    """Narrow every width and the heads of every attention inside a stage once, and say which of them bear it.

    The stage stays as it is. Where all bear it together, that is one trial: a trace and a few forward passes.

    Args:
        stage: with its module, in eval mode.
        ratio: the share of each that is removed.

    Raises:
        PruneError: if the module cannot be traced.
    """
    attentions = found_attentions(stage)
    inside = insides_of(stage, attentions)
    _, refused = Trials(stage, attentions, ratio).surviving(inside, range(len(inside.parts)))
    verdicts = [_verdict(part, refused.get(number, "")) for number, part in enumerate(inside.parts)]
    return (*verdicts, *(Verdict(k.name, k.kind, k.size, k.kind == "heads", False, k.reason) for k in inside.kept))


def _verdict(part: Width | Heads | FoundHeads, why: str) -> Verdict:
    reason = stays(part, why) if why else ""
    if isinstance(part, Width):
        return Verdict(part.name, "channels", len(part.units), part.is_hidden, not why, reason)
    return Verdict(part.name, "heads", part.count, True, not why, reason)


def stays(part: Width | Heads | FoundHeads, why: str) -> str:
    """Return a sentence that says what stays as it is.

    Args:
        part: what did not bear to be narrowed.
        why: what its trial said.
    """
    what = f"{len(part.units)} channels" if isinstance(part, Width) else f"{part.count} heads"
    return f"'{part.name}' keeps its {what}: with fewer the stage does not run, or not right ({why})"
