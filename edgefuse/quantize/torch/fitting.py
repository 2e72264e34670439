"""Round the weights of a stage by their inputs, so that the outputs of layers change least (GPTQ).

Rounding every weight to the nearest step is the best choice for the weight, not for the layer. The weights of a filter
are rounded one after the other, and those still free take up what rounding the last one changed of the filter's output.
An edge detector over a plain ground is the extreme: its large weights cancel, their rounding errors do not. It is done
in torch, before lowering, once for all targets: weights end on the grid on which a quantizer will put them.

Source: GPTQ (Frantar et al., arXiv:2210.17323), there for transformers' linear layers, here for convolutions as well.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgefuse.errors import QuantizeError
from edgefuse.stages.running import call_torch
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage

SAMPLES = 128
"""Calibration samples that weights are fitted to, at most."""

_DAMPING = 1e-3  # share of the mean second moment that is added to all of them: inputs that never vary have none
_FEW = 32  # inputs of a filter up to which each has an order of its own
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def fit(stage: TorchStage, feeds: FeedSource) -> TorchStage:
    """Return a copy of a stage whose weights are multiples of the scales that int8 with a scale per channel has.

    Args:
        stage: in eval mode; it is not changed.
        feeds: what weights are fitted to, one sample at a time.

    Raises:
        QuantizeError: if there are no feeds, or no layer to fit.
    """
    fitted = dataclasses.replace(stage, module=copy.deepcopy(stage.module))
    layers = [layer for layer in fitted.module.modules() if isinstance(layer, LAYERS)]
    seen = _Moments([layer.weight for layer in layers])
    with seen:
        for feed in _first(feeds):
            call_torch(fitted, feed)
    if not seen.found:
        raise QuantizeError(
            f"the stage '{stage.spec.name}' has no weights to fit, or no samples to fit them to",
            expected="a linear layer or a convolution, and a calibration split",
            fix="leave fitted schemes out for this stage",
        )
    with torch.no_grad():
        for layer in layers:
            if id(layer.weight) in seen.found:
                layer.weight.copy_(_fitted(layer.weight.double(), seen.found[id(layer.weight)]))
    return fitted


def rounded_in_turn(weight: Tensor, moments: Tensor) -> Tensor:
    """Round filters to 255 steps each, input by input, those with most energy first.

    The largest weight of a filter keeps its value, or a quantizer would find another scale.

    Args:
        weight: float64 [problems, filters, inputs].
        moments: second moments of the inputs, float64 [problems, inputs, inputs].
    """
    scale = (weight.abs().amax(dim=2) / 127.0).clamp(min=1e-30)
    energy = moments.diagonal(dim1=1, dim2=2)
    damping = (_DAMPING * energy.mean(dim=1, keepdim=True) + 1e-12).expand_as(energy)
    largest = torch.zeros_like(weight, dtype=torch.bool).scatter_(2, weight.abs().argmax(dim=2, keepdim=True), True)
    urgency = energy.masked_fill(largest[:, 0], torch.inf) if weight.shape[1] == 1 else energy
    order = urgency.argsort(dim=1, descending=True, stable=True)
    moments = (moments + torch.diag_embed(damping)).gather(1, order[:, :, None].expand_as(moments))
    moments = moments.gather(2, order[:, None].expand_as(moments))
    along = order[:, None].expand_as(weight)
    free, kept = weight.gather(2, along), largest.gather(2, along)
    whole = free.clone()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    result = torch.empty_like(free)
    for place in range(weight.shape[2]):
        now = free[:, :, place]
        steps = (now / scale).round().clamp(-127, 127) * scale
        result[:, :, place] = torch.where(kept[:, :, place], whole[:, :, place], steps)
        error = (now - result[:, :, place]) / upper[:, place, place, None]
        free[:, :, place + 1 :] -= error[:, :, None] * upper[:, None, place, place + 1 :]
    return torch.empty_like(result).scatter_(2, along, result)


def _fitted(weight: Tensor, moments: Tensor) -> Tensor:
    """Return a layer's weights [filters, ...] rounded for the moments of its groups, [groups, inputs, inputs]."""
    filters = weight.reshape(len(moments), -1, moments.shape[1])
    if moments.shape[1] <= _FEW:
        moments = moments.repeat_interleave(filters.shape[1], dim=0)
        filters = filters.reshape(-1, 1, moments.shape[1])
    return rounded_in_turn(filters, moments).reshape(weight.shape)


class _Moments(TorchFunctionMode):
    """Sums up the second moments of what some weights multiply: float64 [groups, inputs, inputs] by `id`."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._weights = {id(weight) for weight in weights}
        self.found: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at the arguments and call on."""
        padded = any(isinstance(argument, str) for argument in args)  # "same": the layer is left as it is
        if len(args) > 1 and id(args[1]) in self._weights and not padded:
            columns = _columns(func, *args)
            moments = (columns @ columns.transpose(1, 2)).double()
            key = id(args[1])
            self.found[key] = self.found[key] + moments if key in self.found else moments
        return func(*args, **(kwargs or {}))


def _columns(func: Any, value: Tensor, weight: Tensor, _bias: Any = None, *how: Any) -> Tensor:
    """Return what each weight of a filter is multiplied by, float32 [groups, inputs of a filter, places]."""
    if func is nn.functional.linear:
        return value.reshape(1, -1, value.shape[-1]).transpose(1, 2)
    defaults: tuple[Any, ...] = ((1,), (0,), (1,), 1)
    stride, padding, dilation, groups = (*how, *defaults[len(how) :])
    if weight.ndim == 3:  # a picture of one row
        value, weight = value.unsqueeze(2), weight.unsqueeze(2)
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    patches = nn.functional.unfold(value, weight.shape[2:], dilation, padding, stride)
    return patches.reshape(len(value), groups, -1, patches.shape[2]).permute(1, 2, 0, 3).flatten(2)


def _first(feeds: FeedSource) -> Iterator[Feeds]:
    return islice(feeds(), SAMPLES)
