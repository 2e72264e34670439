"""The parts that models of the library are put together from here: encoders, heads, pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

Pooling: TypeAlias = Literal["mean", "cls", "max"]


class Encoder(nn.Module):
    """An encoder with its frontend: the body takes what the head makes of the frontend's output and the length.

    Args:
        body: takes one tensor.
        frontend: a stage of its own; None if there is none.
        head: takes the frontend's output and the length; None if the body takes the output itself.
    """

    def __init__(self, body: nn.Module, frontend: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.head = body, head
        if frontend is not None:
            self.frontend = frontend

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """Encode what the frontend gives, of which `length` samples are a sound."""
        y: Tensor = self.body(x if self.head is None else self.head(x, length))
        return y


class Asked(nn.Module):
    """A model of the library that takes one tensor by keyword, of whose answers one is wanted."""

    def __init__(self, model: nn.Module, keyword: str, answer: str) -> None:
        super().__init__()
        self.model, self.keyword, self.answer = model, keyword, answer

    def extra_repr(self) -> str:
        """Spell how the model is called: a part of cache keys."""
        return f"{self.keyword}, {self.answer}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the answer."""
        return cast(Tensor, getattr(self.model(**{self.keyword: x}), self.answer))


class First(nn.Module):
    """The first of a row of tokens, [B, T, width] to [B, width]."""

    def forward(self, x: Tensor) -> Tensor:
        """Take all of them."""
        return x[:, 0]


class Mean(nn.Module):
    """The mean of a row of tokens, or of its first few, [B, T, width] to [B, width]."""

    def __init__(self, first: int | None = None) -> None:
        super().__init__()
        self.first = first

    def extra_repr(self) -> str:
        """Spell of how many."""
        return str(self.first)

    def forward(self, x: Tensor) -> Tensor:
        """Take all of them."""
        return x[:, : self.first].mean(dim=1)


class Text(nn.Module):
    """A text encoder of the library that is told which tokens count; ids are int32 [B, T], lengths int32 [B]."""

    def __init__(self, model: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, ids: Tensor, length: Tensor | None = None) -> Tensor:
        """Return what the model calls its pooled output."""
        mask = None if length is None else counted(ids, length)
        pooled = self.model(input_ids=ids, attention_mask=mask).pooler_output
        return cast(Tensor, pooled if self.projection is None else self.projection(pooled))


class Classifier(nn.Module):
    """A text classifier of the library."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, text_ids: Tensor, text_length: Tensor) -> Tensor:
        """Return logits for ids, int32 [B, T], of which `length` [B] count."""
        found: Any = self.model(input_ids=text_ids, attention_mask=counted(text_ids, text_length))
        return cast(Tensor, found.logits)


class Sentence(nn.Module):
    """A text encoder of the library and a pooling of its tokens, as sentence encoders do it (arXiv:1908.10084).

    Args:
        model: that gives a state per token.
        pooling: of the states.
        normalized: whether the result has a length of one.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, *, normalized: bool) -> None:
        super().__init__()
        self.model, self.pooling, self.normalized = model, pooling, normalized

    def extra_repr(self) -> str:
        """Spell what no weight tells."""
        return f"{self.pooling}, normalized={self.normalized}"

    def forward(self, text_ids: Tensor, text_length: Tensor) -> Tensor:
        """Return a point for ids, int32 [B, T], of which `length` [B] count."""
        mask = counted(text_ids, text_length)
        states: Tensor = self.model(input_ids=text_ids, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "max":
            pooled = torch.where(mask.unsqueeze(2) > 0, states, torch.full_like(states, -1e9)).amax(dim=1)
        else:
            weight = mask.unsqueeze(2).to(states.dtype)
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=-1) if self.normalized else pooled


class Apart(nn.Module):
    """The features of several modalities, each as a result of its own, of length one: nothing is fused."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def extra_repr(self) -> str:
        """Spell the order of the results."""
        return ", ".join(self.names)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, ...]:
        """Take features by modality, float32 [B, width]; what is absent stays zeros."""
        return tuple(nn.functional.normalize(features[name], dim=-1) for name in self.names)


class Only(nn.Module):
    """What is left to do with the feature of the one modality."""

    def __init__(self, name: str, layers: nn.Module) -> None:
        super().__init__()
        self.name, self.layers = name, layers

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the result, float32 [B, width]."""
        y: Tensor = self.layers(features[self.name])
        return y


def counted(ids: Tensor, length: Tensor) -> Tensor:
    """Return which tokens count, int64 [B, T] of ones and zeros.

    Args:
        ids: [B, T].
        length: tokens that count, int32 [B].
    """
    steps = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device)
    return (steps.unsqueeze(0) < length.unsqueeze(1)).to(torch.int64)
