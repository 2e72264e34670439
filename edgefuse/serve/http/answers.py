"""What the model answers, as typed data and as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.prediction import Contributions, Prediction


class Timing(msgspec.Struct, frozen=True):
    """What a request took.

    Attributes:
        queued_ms: until it was begun.
        preprocess_ms: from its files to tensors.
        infer_ms: from tensors to the answer; with contributions, all runs that they take.
    """

    queued_ms: float
    preprocess_ms: float
    infer_ms: float


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A prediction.

    Attributes:
        rung: the operating point that answered.
        digest: of the bundle that answered.
        present: the modalities that were given.
        timing: what it took.
        outputs: every output with the batch, 1, first; what is not finite is null.
        label: the most probable class.
        score: its probability.
        scores: the probability of every class.
        labels: the labels that are above the threshold, with their probabilities.
        values: the plain numbers by name.
        text: what the most probable tokens spell.
        contributions: what each optional modality that was given added.
    """

    rung: str
    digest: str
    present: tuple[str, ...]
    timing: Timing
    outputs: dict[str, Any]
    label: str | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    labels: dict[str, float] | None = None
    values: dict[str, float] | None = None
    text: str | None = None
    contributions: Contributions | None = None


def predict(pipeline: Pipeline, raw: Mapping[str, object], *, admitted_s: float, explain: bool) -> Answer:
    """Return the answer to raw inputs; what the queue calls.

    Args:
        pipeline: that answers.
        raw: inputs by modality.
        admitted_s: when the request came to the queue, by the clock of `time.perf_counter`.
        explain: say what each modality added.

    Raises:
        InputError: an input is wrong, or what comes out is no numbers.
        MissingExtraError, BackendError: as for a call of the pipeline.
    """
    began = time.perf_counter()
    inputs = pipeline.preprocess(**raw)
    ready = time.perf_counter()
    if explain:
        prediction = pipeline.explained(inputs)
    else:
        prediction = Prediction(outputs=pipeline.infer(inputs), spec=pipeline.manifest.model.outputs)
    ended = time.perf_counter()
    if not prediction.finite:
        raise InputError(
            "the model's answer is not finite: it overflows",
            expected="numbers",
            fix="scale the inputs as in training",
        )
    views: dict[str, Any] = prediction.views()
    return Answer(
        rung=pipeline.rung.name,
        digest=pipeline.digest,
        present=inputs.present,
        timing=Timing(1e3 * (began - admitted_s), 1e3 * (ready - began), 1e3 * (ended - ready)),
        outputs={name: value.tolist() for name, value in prediction.outputs.items()},
        contributions=prediction.contributions,
        **views,
    )


def encoded(answer: object) -> bytes:
    """Return JSON; what is not finite becomes null."""
    return msgspec.json.encode(answer)
