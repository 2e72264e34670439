"""The decoder of `captioning`: an LSTM whose state looks at the picture twice, the second time knowing what it saw.

Looking after the LSTM and not before it (Luong et al., arXiv:1508.04025) lets training run the LSTM over whole
sentences at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgefuse.models.captioning.encoders import WIDTH
from edgefuse.models.decoder import Decoder

HIDDEN = 192
_EMBEDDING = 64
_KEYS = 64


class CaptionDecoder(Decoder):
    """One word of a sentence.

    Args:
        words: of the vocabulary.
        dropout: of what is told from, for training.
    """

    states: Mapping[str, tuple[int, ...]] = {"h": (HIDDEN,), "c": (HIDDEN,)}

    def __init__(self, words: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, _EMBEDDING)
        self.cell = nn.LSTMCell(_EMBEDDING, HIDDEN)
        self.begin = nn.Linear(WIDTH, 2 * HIDDEN)
        self.keys = nn.Linear(WIDTH, 2 * _KEYS)
        self.first = nn.Linear(HIDDEN, _KEYS)
        self.second = nn.Linear(HIDDEN + WIDTH, _KEYS)
        self.mix = nn.Linear(HIDDEN + 2 * WIDTH, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(HIDDEN, words)

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        """Return what every step reads, and the first states, for the cells and the summary that fusion returned."""
        cells, summary = fused
        h, c = torch.tanh(self.begin(summary)).chunk(2, dim=1)
        first, second = self.keys(cells).chunk(2, dim=2)
        return {"cells": cells, "first_keys": first, "second_keys": second, "h": h, "c": c}

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the next word, and the next states.

        Args:
            token: int32 [B], the word before.
            position: int32 [B]; an LSTM needs none.
            values: what `prepare` returned, with the states that the last step gave.
        """
        h, c = self.cell(self.embedding(token), (values["h"], values["c"]))
        return self.tell(h.unsqueeze(1), values).squeeze(1), {"h": h, "c": c}

    def tell(self, states: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return logits [B, steps, words] for states [B, steps, 192]."""
        seen = _look(self.first(states), values["first_keys"], values["cells"])
        known = torch.cat([states, seen], dim=2)
        beside = _look(self.second(known), values["second_keys"], values["cells"])
        mixed = torch.relu(self.mix(torch.cat([known, beside], dim=2)))
        y: Tensor = self.out(self.dropout(mixed))
        return y


def _look(queries: Tensor, keys: Tensor, cells: Tensor) -> Tensor:
    """Attend to cells [B, cells, width] by keys [B, cells, size]; queries are [B, steps, size]."""
    scores = torch.matmul(queries, keys.transpose(1, 2)) * (1 / math.sqrt(_KEYS))
    return torch.matmul(torch.softmax(scores, dim=2), cells)
