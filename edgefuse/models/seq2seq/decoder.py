"""The recurrent step that answers: O_i = f(G_i, O_{i-1})."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.decoder import Decoder

WIDTH_TOKEN = 32
HIDDEN = 192


class StepDecoder(Decoder):
    """Answer one step from what is seen and read at it, the answer before, and a recurrent state.

    Args:
        width: of what is fused for a step.
        steps: for which there is something.
        tokens: of the vocabulary.
    """

    def __init__(self, width: int, steps: int, tokens: int) -> None:
        super().__init__()
        self.states = {"hidden": (HIDDEN,)}
        self.embedding = nn.Embedding(tokens, WIDTH_TOKEN)
        self.cell = nn.GRUCell(width + WIDTH_TOKEN, HIDDEN)
        self.head = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, tokens))
        self.register_buffer("places", torch.arange(steps, dtype=torch.int32).unsqueeze(0), persistent=False)
        self.places: Tensor

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        """Hand on what was fused for all steps, float32 [B, steps, width]."""
        return {"fused": fused[0]}

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, float32 [B, tokens], and the next state.

        Args:
            token: int32 [B], the answer before.
            position: int32 [B], the number of the step, from 0. Behind the last step nothing is seen or read: zeros.
            values: `fused` float32 [B, steps, width] and `hidden` float32 [B, 192].
        """
        chosen = (self.places == position.unsqueeze(1)).to(torch.float32).unsqueeze(2)
        here = (values["fused"] * chosen).sum(dim=1)
        hidden = self.cell(torch.cat([here, self.embedding(token)], dim=1), values["hidden"])
        return self.head(hidden), {"hidden": hidden}
