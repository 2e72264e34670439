"""What a model gives: outputs of each kind, as typed data. A spec, whose names these are, has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything that a manifest holds: immutable, keyword-only, strict about unknown fields."""


class _Labelled(Record, frozen=True, kw_only=True):
    """The base of outputs with a number per label, float32 [1, len(labels)]; `metric` is explained by `ModelSpec`."""

    labels: tuple[str, ...]
    metric: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item, without the batch."""
        return (len(self.labels),)


class ClassOutput(_Labelled, frozen=True, kw_only=True, tag_field="type", tag="classes"):
    """Logits over named classes, of which one is right: float32 [1, len(labels)]."""

    name: str = "logits"


class LabelsOutput(_Labelled, frozen=True, kw_only=True, tag_field="type", tag="labels"):
    """A logit for each of several labels, any of which may be right: float32 [1, len(labels)].

    A label is given where its probability, the logistic function of its logit, is above `threshold`.
    """

    name: str = "logits"
    threshold: float = 0.5


class ValuesOutput(_Labelled, frozen=True, kw_only=True, tag_field="type", tag="values"):
    """Plain numbers: float32 [1, len(labels)], one per name."""

    name: str = "values"


class EmbeddingOutput(Record, frozen=True, kw_only=True, tag_field="type", tag="embedding"):
    """A point in an embedding space: float32 [1, size].

    Attributes:
        pair: the embedding of the same item that it is to find among those of all items, if there is one: the text of
            a picture. That is what it is judged by, and takes no targets.
    """

    name: str = "embedding"
    size: int
    metric: str = ""
    pair: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item, without the batch."""
        return (self.size,)


class TokensOutput(Record, frozen=True, kw_only=True, tag_field="type", tag="tokens"):
    """Logits over a vocabulary at each of some steps: float32 [1, steps, len(labels)].

    Attributes:
        labels: what each token spells.
        separator: between tokens, in text: a space between words, nothing between letters.
        blank: of a model trained with connectionist temporal classification: the token that spells nothing, so that
            one that comes twice in a row is told once.
        start: of a model that makes a token at a time: the token that the first step is given. `steps` is then the most
            that it makes.
        end: the token that ends a text.
    """

    name: str = "tokens"
    steps: int
    labels: tuple[str, ...]
    separator: str = ""
    blank: int | None = None
    start: int | None = None
    end: int | None = None
    metric: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item, without the batch."""
        return self.steps, len(self.labels)

    def text(self, ids: Sequence[int]) -> str:
        """Return what tokens spell; repeats are told once, and blanks not, where there is a `blank`."""
        told = list(ids)
        if self.blank is not None:
            told = [one for one, before in zip(told, [None, *told], strict=False) if one not in (before, self.blank)]
        return self.spelled(told)

    def spelled(self, ids: Sequence[int]) -> str:
        """Return the labels of tokens before the end token, joined."""
        return self.separator.join(self.labels[one] for one in self.sentence(ids) if one != self.end)

    def sentence(self, ids: Sequence[int]) -> Sequence[int]:
        """Return tokens up to the end token, and that, too."""
        return ids[: ids.index(self.end) + 1] if self.end in ids else ids

    def has(self, token: int | None) -> bool:
        """Tell whether there is such a token."""
        return token is not None and 0 <= token < len(self.labels)


class ArrayOutput(Record, frozen=True, kw_only=True, tag_field="type", tag="array"):
    """Numbers without names, as of a map of depths: float32 [1, *shape]; `shape` is of one item."""

    name: str = "array"
    shape: tuple[int, ...]
    metric: str = ""


Output: TypeAlias = ClassOutput | LabelsOutput | EmbeddingOutput | ValuesOutput | TokensOutput | ArrayOutput
