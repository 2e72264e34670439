"""`Decoder`: one step of a model that generates tokens, with its state as inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


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
