"""Whether a stage answers the same inputs alike each time: a file does, whatever the module draws or keeps."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgefuse.errors import ModelError
from edgefuse.stages.silence import at, users_line
from edgefuse.stages.stage import Feeds, TorchStage, outputs_of

_TOLERANCE = 1e-5
"""Of the largest answer, and of 1 where that is smaller: threads may add up in another order."""


def check_repeated(stage: TorchStage, feeds: Feeds) -> None:
    """Call a stage twice with the same inputs.

    Args:
        stage: that can be called.
        feeds: arrays by port.

    Raises:
        ModelError: if it answers otherwise, with the user's line that draws random numbers if there is one.
    """
    tensors = [torch.from_numpy(feeds[port.tensor.name].copy()) for port in stage.spec.inputs]
    with torch.inference_mode():
        pairs = zip(*(outputs_of(stage.module(*tensors)) for _ in range(2)), strict=True)
        off = [_difference(first, second) for first, second in pairs]
        if all(difference <= _TOLERANCE for difference in off):
            return
        with _Draws() as draws:
            stage.module(*tensors)
    drawn = f"draws random numbers{at(draws.line)}" if draws.any else "keeps something from one call to the next"
    raise ModelError(
        f"{stage.said} answers the same inputs otherwise each time",
        got=f"a difference of {max(off):.2g} of the largest answer: it {drawn}",
        expected="one answer, as a file gives",
        fix="draw no random numbers in eval mode (`F.dropout` wants `training=self.training`; of a distribution, take "
        "its mean)"
        if draws.any
        else "keep no state in the module: take it as an input, or start it anew in each call",
    )


def _difference(first: Tensor, second: Tensor) -> float:
    """Return by how much two answers differ, of the largest; shapes that differ do so entirely."""
    if first.shape != second.shape:
        return 1.0
    largest = max(1.0, float(first.abs().max()) if first.numel() else 0.0)
    return float((first - second).abs().max()) / largest if first.numel() else 0.0


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, the user's line that draws random numbers first is noted.

    Attributes:
        any: whether some were drawn.
        line: of the user's code; empty if none is on the way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.any = False
        self.line = ""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, and look whether it draws."""
        if torch.Tag.nondeterministic_seeded in func.tags and not self.any:
            self.any, self.line = True, users_line(traceback.extract_stack())
        return func(*args, **(kwargs or {}))
