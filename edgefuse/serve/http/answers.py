"""What is sent, as typed records; `openapi` describes them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from edgefuse.bundle.spec import ModelSpec
from edgefuse.runtime.prediction import Contributions


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What a request took on this device, in milliseconds.

    Attributes:
        queued_ms: until its turn came.
        preprocess_ms: from raw inputs to tensors; null where it is a part of `infer_ms`: of tokens that are generated.
        infer_ms: from tensors to the answer.
    """

    queued_ms: float
    preprocess_ms: float | None
    infer_ms: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction.

    Attributes:
        rung: the operating point that answered.
        digest: of the bundle that answered.
        present: the modalities that were given.
        timing: what it took.
        outputs: every output of the model as nested lists, the batch of 1 first; null is a number that is infinite.
        label: the most probable class.
        score: its probability.
        scores: the probability of every class.
        labels: of several labels: those above the threshold, with their probabilities.
        values: plain numbers by name.
        text: what the most probable tokens spell.
        contributions: what each modality added, where it was asked for.
    """

    rung: str
    digest: str
    present: tuple[str, ...]
    timing: Timing
    outputs: dict[str, Any]
    label: str | UnsetType = UNSET
    score: float | UnsetType = UNSET
    scores: dict[str, float] | UnsetType = UNSET
    labels: dict[str, float] | UnsetType = UNSET
    values: dict[str, float] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    contributions: Contributions | UnsetType = UNSET


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A token: the data of an event `token`.

    Attributes:
        id: its index in the vocabulary.
        logprob: the logarithm of its probability by the model; null if it is infinite.
        text: what all tokens so far spell.
    """

    id: int
    logprob: float | None
    text: str


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """All that was generated: the data of the last event, `done`.

    Attributes:
        rung: the operating point that answered.
        digest: of the bundle that answered.
        present: the modalities that were given.
        text: what the tokens spell.
        tokens: how many there are.
        timing: what it took; `preprocess_ms` is a part of `infer_ms`.
    """

    rung: str
    digest: str
    present: tuple[str, ...]
    text: str
    tokens: int
    timing: Timing


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What is served.

    Attributes:
        digest: of the bundle.
        rung: the operating point that answers.
        rungs: all of them.
        generates: whether it makes tokens one after the other.
        model: its modalities and outputs.
    """

    digest: str
    rung: str
    rungs: tuple[str, ...]
    generates: bool
    model: ModelSpec


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service runs, and whether it takes requests."""

    alive: bool
    ready: bool


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, in a sentence; `status` is that of the answer."""

    status: int
    message: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to what cannot be answered."""

    error: Fault
