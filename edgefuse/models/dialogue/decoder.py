"""Attention over all modalities, and the decoder that attends to what that gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgefuse.models.decoder import Decoder
from edgefuse.models.digits.layers import MASKED, TransformerBlock


class MemoryFusion(nn.Module):
    """Let the tokens of all modalities attend to each other; those of absent ones are masked.

    Args:
        names: of the modalities, in the order of `present`.
        width: of the tokens.
    """

    def __init__(self, names: Sequence[str], width: int, dropout: float) -> None:
        super().__init__()
        self.names = tuple(names)
        self.kinds = nn.Parameter(torch.randn(1, len(self.names), width) * 0.02)
        self.block = TransformerBlock(width, 4, 2 * width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory, float32 [B, tokens, width], and what is added to scores: [B, 1, 1, tokens].

        Args:
            features: per modality float32 [B, tokens, width].
            present: float32 [B, modalities] of ones and zeros.
        """
        tokens, masks = [], []
        for column, name in enumerate(self.names):
            feature, here = features[name], present[:, column].reshape(-1, 1, 1)
            tokens.append((feature + self.kinds[:, column : column + 1]) * here)
            masks.append(((1.0 - here) * MASKED).expand(-1, 1, feature.shape[1]))
        mask = torch.cat(masks, dim=2).unsqueeze(1)
        return self.norm(self.block(torch.cat(tokens, dim=1), mask)), mask


class DecoderLayer(nn.Module):
    """Attention to the tokens before, attention to the memory, a two-layer network; each normed and added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.remember = nn.Linear(width, 2 * width)
        self.recall = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor) -> list[Tensor]:
        """Return query, key and value of tokens [B, T, width], each [B, heads, T, head_width]."""
        return [self._heads(part) for part in self.qkv(self.norm1(x)).chunk(3, dim=2)]

    def remembered(self, memory: Tensor) -> list[Tensor]:
        """Return key and value of the memory [B, N, width], each [B, heads, N, head_width]."""
        return [self._heads(part) for part in self.remember(memory).chunk(2, dim=2)]

    def forward(
        self, x: Tensor, query: Tensor, before: Sequence[Tensor], memory: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> Tensor:
        """Return [B, T, width].

        Args:
            x: float32 [B, T, width].
            query: of the tokens.
            before: key and value of the tokens that they may attend to.
            memory: key and value of the memory.
            masks: of both, added to scores.
        """
        x = x + self.dropout(self.mix(self._attended(query, before, masks[0])))
        x = x + self.dropout(self.recall(self._attended(self._heads(self.query(self.norm2(x))), memory, masks[1])))
        y: Tensor = x + self.dropout(self.feed_forward(self.norm3(x)))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def _attended(self, query: Tensor, pair: Sequence[Tensor], mask: Tensor) -> Tensor:
        key, value = pair
        scores = torch.matmul(query * (1 / math.sqrt(self.head_width)), key.transpose(2, 3)) + mask
        mixed = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2)
        return mixed.reshape(mixed.shape[0], mixed.shape[1], self.heads * self.head_width)


class TransformerDecoder(Decoder):
    """A Transformer decoder (Vaswani et al. 2017, norms first) with a cache of keys and values, and a memory.

    Args:
        vocabulary: tokens that it knows.
        steps: places of the cache.
        width: of a token.
        layers: of the decoder.
    """

    def __init__(self, vocabulary: int, steps: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        cache = (heads, steps, width // heads)
        self.states = {f"{kind}{layer}": cache for layer in range(layers) for kind in ("keys", "values")}
        self.steps = steps
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(steps, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.vocabulary = nn.Linear(width, vocabulary)
        self.register_buffer("places", torch.arange(steps, dtype=torch.int32), persistent=False)
        self.places: Tensor

    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        """Return key and value of the memory for each layer, and the mask of what is absent."""
        memory, mask = fused
        values = {"absent": mask}
        for number, layer in enumerate(self._layers()):
            values[f"memory_keys{number}"], values[f"memory_values{number}"] = layer.remembered(memory)
        return values

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the next token and the caches with this one; see `Decoder.forward`."""
        places = self.places.unsqueeze(0)
        here = (places == position.unsqueeze(1)).reshape(-1, 1, self.steps, 1)
        later = (places > position.unsqueeze(1)).to(torch.float32).reshape(-1, 1, 1, self.steps) * MASKED
        x = (self.embedding(token) + self.positions(position)).unsqueeze(1)
        states: dict[str, Tensor] = {}
        for number, layer in enumerate(self._layers()):
            query, key, value = layer.project(x)
            keys = torch.where(here, key, values[f"keys{number}"])
            kept = torch.where(here, value, values[f"values{number}"])
            memory = (values[f"memory_keys{number}"], values[f"memory_values{number}"])
            x = layer(x, query, (keys, kept), memory, (later, values["absent"]))
            states |= {f"keys{number}": keys, f"values{number}": kept}
        return self.vocabulary(self.norm(x[:, 0])), states

    def forced(self, tokens: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of all steps at once, float32 [B, T, vocabulary]: what the steps give one by one.

        Args:
            tokens: the one before each step, int [B, T].
            values: what `prepare` returned.
        """
        count = tokens.shape[1]
        x = self.embedding(tokens) + self.positions.weight[:count]
        later = torch.triu(torch.full((count, count), MASKED), diagonal=1)
        for number, layer in enumerate(self._layers()):
            query, key, value = layer.project(x)
            memory = (values[f"memory_keys{number}"], values[f"memory_values{number}"])
            x = layer(x, query, (key, value), memory, (later, values["absent"]))
        logits: Tensor = self.vocabulary(self.norm(x))
        return logits

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]
