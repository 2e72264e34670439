"""Let recurrent layers over a padded sequence end at its last valid step, which `length` tells.

Torch's layers return the state after the last step that there is, and a backward direction begins there: in a file of
fixed shapes that is padding. Here the last valid state is gathered, and valid steps are flipped to the front for the
backward direction, so that padding comes last and reaches nothing. Whether that makes a stage independent of padding is
tried, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import ModelError
from edgefuse.measure.agreement import agreement
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.padding import depends_on_padding
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import TorchStage

_LAYERS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_TRIED = 4


def ended_by_length(stage: TorchStage) -> TorchStage | None:
    """Return a stage whose recurrent layers end at the last valid step, if it then does not depend on padding."""
    if (found := _place(stage)) is None:
        return None
    ended = replace(stage, module=EndedByLength(stage.module, *found).eval())
    try:
        return ended if depends_on_padding(ended) is None and _answers_like(stage, ended) else None
    except ModelError:  # the module cannot do with layers that end so: what is wrong with itself, others have said
        return None


def _answers_like(stage: TorchStage, ended: TorchStage) -> bool:
    pairs = ((run_torch(stage, feeds), run_torch(ended, feeds)) for feeds in example_feeds(stage, count=_TRIED))
    return agreement(pairs, Tolerance()).ok


def mended(stage: TorchStage) -> TorchStage:
    """Return the form of a stage that is lowered: one that ends by its length, if it depends on padding otherwise."""
    if _place(stage) is None or depends_on_padding(stage) is None:
        return stage
    return ended_by_length(stage) or stage


def _place(stage: TorchStage) -> tuple[int, int] | None:
    """Return which input is the length, and the steps of the sequence that is padded; None if no layer ends by it."""
    places = [i for i, port in enumerate(stage.spec.inputs) if port.source.kind == "length"]
    if len(places) != 1 or not any(isinstance(part, nn.RNNBase) for part in stage.module.modules()):
        return None
    owner = stage.spec.inputs[places[0]].source.owner
    padded = [p.tensor.max_shape for p in stage.spec.inputs if p.source.owner == owner and len(p.tensor.shape) > 1]
    return (places[0], padded[0][1]) if padded else None


class EndedByLength(nn.Module):
    """Runs a module with recurrent layers that end by a length.

    Args:
        module: whose layers do.
        place: of the length among the module's inputs.
        steps: that the padded sequence has.
    """

    def __init__(self, module: nn.Module, place: int, steps: int) -> None:
        super().__init__()
        self.module = module
        self.place = place
        self.steps = steps

    def forward(self, *tensors: Tensor) -> Any:
        """Take and return what the module does."""
        with _Ended(tensors[self.place], self.steps):
            return self.module(*tensors)


class _Ended(TorchFunctionMode):
    """Within it, recurrent layers over sequences of so many steps end by a length."""

    def __init__(self, length: Tensor, steps: int) -> None:
        super().__init__()
        self._length = length.to(torch.int64)
        self._steps = steps

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, or what stands in its place."""
        if func in _LAYERS and len(args) == 9 and args[0].dim() == 3:
            batch_first = args[8]
            x = args[0] if batch_first else args[0].transpose(0, 1)
            if self._is_padded(x) and _is_plain(*args[2:5], bidirectional=args[7]):
                y, *ends = self._run(func, x, *args[1:8])
                return (y if batch_first else y.transpose(0, 1)), *ends
        return func(*args, **(kwargs or {}))

    def _is_padded(self, x: Tensor) -> bool:
        """Tell whether [B, T, C] is the padded sequence: other rows than the input's may be parts of one."""
        return x.shape[1] == self._steps and x.shape[0] == self._length.shape[0]

    def _run(
        self, func: Any, x: Tensor, states: Any, weights: Sequence[Tensor], biased: bool, layers: int, *rest: Any
    ) -> tuple[Tensor, ...]:
        """Run layer by layer, each direction as a forward one over valid steps first; `rest` ends with directions."""
        directions, each = 2 if rest[-1] else 1, 4 if biased else 2
        states = list(states) if func is torch.lstm else [states]
        last: list[list[Tensor]] = []
        for layer in range(layers):
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                backward = index % directions == 1
                begin = [state[index : index + 1] for state in states]
                one = (func, begin if func is torch.lstm else begin[0], weights[index * each : (index + 1) * each])
                y, *ends = self._direction(*one, self._flipped(x) if backward else x, biased)
                outputs.append(self._flipped(y) if backward else y)
                last.append([self._at_end(y), *(end[0] for end in ends[1:])])
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        return x, *(torch.stack(state) for state in zip(*last, strict=True))

    def _direction(self, func: Any, begin: Any, weights: Sequence[Tensor], x: Tensor, biased: bool) -> Any:
        return func(x, begin, list(weights), biased, 1, 0.0, False, False, True)

    def _flipped(self, x: Tensor) -> Tensor:
        """Return the valid steps of [B, T, C] in reverse, in front."""
        steps = torch.arange(x.shape[1]).unsqueeze(0)
        places = (self._length.unsqueeze(1) - 1 - steps).clamp(min=0)
        return x.gather(1, places.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def _at_end(self, y: Tensor) -> Tensor:
        """Return the last valid step of [B, T, C]."""
        places = (self._length - 1).reshape(-1, 1, 1).expand(-1, 1, y.shape[2])
        return y.gather(1, places).squeeze(1)


def _is_plain(weights: Sequence[Tensor], biased: bool, layers: int, *, bidirectional: bool) -> bool:
    """Tell whether layers have two matrices each, and biases: with a projection there is a third one."""
    return len(weights) == layers * (2 if bidirectional else 1) * (4 if biased else 2)
