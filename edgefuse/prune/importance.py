"""How much a stage's output depends on a channel, a head or one dimension of a head.

`magnitude`: the L2 norm of all weights that go when the channel goes (group magnitude of DepGraph, arXiv:2301.12900).

`taylor`: how much the output moves, to first order, when what *reads* the channel no longer gets it. Fisher pruning
(Theis et al., arXiv:1801.05787) and its like (Molchanov et al., arXiv:1611.06440 and 1906.10771) take the gradient of
the training loss. An unpruned student equals its teacher, so that its distillation loss has no gradient. But the loss
after a change of the weights is, to second order, the squared change of the output, E |J dw|^2. A random projection v
of signs makes that an expectation over one gradient per example (Hutchinson's estimator): E_v (v J dw)^2 = |J dw|^2.
For a channel, dw takes away the weights that read it, so v J dw is the sum of gradient times weight over them, which
is the activation times its gradient: the gate of arXiv:1906.10771.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edgefuse.prune.pruner import Examples
from edgefuse.stages.stage import outputs_of

IMPORTANCES = ("", "magnitude", "taylor")
"""What a step may name; empty is `magnitude`."""

_TAYLOR_EXAMPLES = 64

Products: TypeAlias = Mapping[nn.Parameter, Tensor]
"""Gradient times value, by parameter."""


@dataclass(frozen=True)
class Slice:
    """A part of a parameter that goes with one of the things that are ranked.

    Attributes:
        parameter: whose entries go.
        axis: along which they go.
        positions: int64, the entries along the axis.
        owners: int64, the ranked thing (channel or head) that each of these entries goes with.
        reads: whether these weights read the thing; otherwise they make it.
    """

    parameter: nn.Parameter
    axis: int
    positions: Tensor
    owners: Tensor
    reads: bool = False

    def summed(self, values: Tensor, count: int) -> Tensor:
        """Sum values of the parameter's shape over everything but the owner; return [count]."""
        others = [axis for axis in range(values.dim()) if axis != self.axis % values.dim()]
        line = values.sum(dim=others) if others else values
        return line.new_zeros(count).index_add_(0, self.owners, line[self.positions])


@dataclass(frozen=True)
class Ranked:
    """Things of one kind that are ranked against each other: the channels of a width, the heads of an attention."""

    count: int
    slices: tuple[Slice, ...]

    def magnitude(self) -> Tensor:
        """Return the L2 norm of the weights that go with each, float32 [count]."""
        squares = [part.summed(part.parameter.detach().square(), self.count) for part in self.slices]
        return torch.stack(squares).sum(dim=0).sqrt()

    def effect(self, products: Products) -> Tensor:
        """Return to first order how the projected output of one example moves without each, float32 [count]."""
        parts = [part.summed(products[part.parameter], self.count) for part in self.slices if part.reads]
        return torch.stack(parts).sum(dim=0) if parts else torch.zeros(self.count)


def rank(importance: str, module: nn.Module, ranked: Sequence[Ranked], examples: Examples) -> list[Tensor]:
    """Return the importance of each thing, float32 [count], for each kind of things.

    Args:
        importance: one of `IMPORTANCES`.
        module: the stage's module in eval mode, whose parameters the slices name.
        ranked: the kinds.
        examples: what `taylor` runs the module on; `magnitude` needs none.
    """
    if importance != "taylor":
        return [kind.magnitude() for kind in ranked]
    totals = [torch.zeros(kind.count) for kind in ranked]
    for products in _products(module, examples):
        for total, kind in zip(totals, ranked, strict=True):
            total += kind.effect(products).square()
    return totals


def _products(module: nn.Module, examples: Examples) -> Iterator[Products]:
    """Yield gradient times value of every parameter for a random projection of the output, one example at a time."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for index in spread(len(examples), _TAYLOR_EXAMPLES):
        inputs, _ = examples.batch([index])
        with torch.enable_grad():
            outputs = outputs_of(module(*inputs))
            signs = [torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0 for output in outputs]
            projected = torch.stack([(output * sign).sum() for output, sign in zip(outputs, signs, strict=True)]).sum()
            gradients = torch.autograd.grad(projected, parameters, allow_unused=True)
        yield {
            parameter: torch.zeros_like(parameter) if gradient is None else gradient * parameter.detach()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        }


def spread(total: int, most: int) -> list[int]:
    """Return up to `most` indices, evenly spread over `total` examples."""
    count = min(total, most)
    return [index * total // count for index in range(count)]
