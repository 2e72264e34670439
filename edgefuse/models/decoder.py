"""`Decoder`: one step of a model that generates tokens, with its state as inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import TokensOutput


class Decoder(nn.Module):
    """A module that is called once per token, as `FusionModel(decoder=…)` takes it.

    All tensors are float32 with the batch first, unless said otherwise. What a step needs and what does not change
    from step to step (a context, the keys and values of attention over the encoders) is computed once per input, by
    `prepare`; what changes is a state.

    A step is exported with fixed shapes. A cache of keys has as many places as there are steps; the step writes to the
    place `position`, by `torch.where(places == position, new, old)`, and masks the places after it.

    Attributes:
        states: the shape of one item's state, without the batch, by name: `{"h": (256,)}`.
    """

    states: Mapping[str, tuple[int, ...]] = {}

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        """Return what every step reads, by name, and first values of states, by theirs; other states start as zeros.

        Args:
            *fused: what fusion returned: the one tensor, or each of its tuple.
        """
        raise NotImplementedError

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the next token, [batch, vocabulary], and the next value of every state.

        Args:
            token: the id before, int32 [batch]; at first the output's `start`.
            position: the number of the step, from 0, int32 [batch].
            values: what `prepare` returned, and the states.
        """
        raise NotImplementedError


def decoded(decoder: Decoder, output: TokensOutput, fused: Sequence[Tensor], tokens: Tensor | None) -> Tensor:
    """Return the logits of all steps, [batch, steps, vocabulary].

    Args:
        decoder: of the model.
        output: that it makes.
        fused: what fusion returned.
        tokens: the ids that are right, [batch, at most `steps`]: each step is given the one before its own (teacher
            forcing). If None, or none, each is given the likeliest of the step before.
    """
    batch = len(fused[0])
    values = {name: fused[0].new_zeros(batch, *shape) for name, shape in decoder.states.items()}
    return unrolled(decoder, output, values | decoder.prepare(*fused), tokens)


def unrolled(decoder: Decoder, output: TokensOutput, values: Mapping[str, Tensor], tokens: Tensor | None) -> Tensor:
    """Return the logits of all steps from what is prepared; see `decoded`.

    Args:
        decoder: of the model.
        output: that it makes.
        values: what every step reads, and the first value of every state.
        tokens: as for `decoded`.
    """
    tokens = tokens if tokens is not None and tokens.shape[1] else None
    start: int = output.start  # type: ignore[assignment] # a decoder's output has one
    some = next(iter(values.values()))
    token = torch.full((len(some),), start, dtype=torch.int32, device=some.device)
    steps = []
    for step in range(output.steps if tokens is None else tokens.shape[1]):
        logits, state = decoder(token, torch.full_like(token, step), values)
        values = {**values, **state}
        token = (logits.argmax(dim=-1) if tokens is None else tokens[:, step]).to(torch.int32)
        steps.append(logits)
    return torch.stack(steps, dim=1)
