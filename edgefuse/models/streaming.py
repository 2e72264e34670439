"""`Streaming`: what an encoder and its frontend offer to encode a stream chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Streaming(Protocol):
    """A module that can be run on chunks of a stream, with what it remembers as inputs and outputs.

    All tensors are float32 with the batch first. States begin as zeros, but for the one that is called `leading`.

    From that beginning, over as many chunks as fit into one input of the modality, the last step's feature equals what
    the module makes of the whole input, to 1e-4: that is checked when a model is taken apart.

    Attributes:
        states: the shape of one item's state, without the batch, by name: `{"tail": (80,)}`.
        leading: the state that begins with the first values of the stream, as many as it has room for; empty if none.
    """

    @property
    def states(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def leading(self) -> str: ...  # noqa: D102

    def step(self, chunk: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return what the module makes of a chunk, and the next value of every state.

        Args:
            chunk: what the module takes, a part along axis 1.
            *states: in the order of `states`.
        """


@runtime_checkable
class StreamingEncoder(Streaming, Protocol):
    """An encoder with a step; its frontend, if it has one, is `Streaming`, too.

    Attributes:
        chunk: how many values of the modality one step takes, along axis 1 of its tensor: samples of sound.
    """

    chunk: int
