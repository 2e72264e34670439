"""The call of the pipeline, in the queue, and how long each part of it took."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as NotInTime

import numpy as np

from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.prediction import Prediction
from edgefuse.serve.http.answers import Answer, Timing
from edgefuse.serve.queue import Expired, Place


def predict(place: Place, raw: Mapping[str, object], explain: bool, answer_s: float) -> Answer:
    """Return the prediction for raw inputs.

    Args:
        place: in the queue in front of the pipeline.
        raw: inputs by modality.
        explain: add what each modality contributed.
        answer_s: seconds that it may take; what has not begun by then is given up.

    Raises:
        InputError, MissingExtraError, BackendError: as for a call of a pipeline.
        Draining, Expired: as for the queue.
    """
    asked = time.perf_counter()
    future = place.submit(lambda pipeline: _predicted(pipeline, raw, explain, asked))
    try:
        return future.result(answer_s)
    except NotInTime as error:
        future.cancel()
        raise Expired("the answer did not come in time", expected=f"at most {answer_s:g} s") from error


def _predicted(pipeline: Pipeline, raw: Mapping[str, object], explain: bool, asked: float) -> Answer:
    began = time.perf_counter()
    inputs = pipeline.preprocess(**raw)
    ready = time.perf_counter()
    if explain:
        prediction = pipeline.explained(inputs)
    else:
        prediction = Prediction(outputs=pipeline.infer(inputs), spec=pipeline.manifest.model.outputs)
    ended = time.perf_counter()
    if not prediction.finite:
        raise InputError("the model's answer is not finite", expected="numbers", fix="scale the inputs as in training")
    timing = Timing(
        queued_ms=1e3 * (began - asked), preprocess_ms=1e3 * (ready - began), infer_ms=1e3 * (ended - ready)
    )
    told = prediction.views()
    if prediction.contributions is not None:
        told["contributions"] = prediction.contributions
    outputs = {name: np.asarray(value).tolist() for name, value in prediction.outputs.items()}
    return Answer(
        rung=pipeline.rung.name,
        digest=pipeline.digest,
        present=inputs.present,
        timing=timing,
        outputs=outputs,
        **told,  # type: ignore[arg-type] # the views have the names and types of these fields
    )


def finite(number: float) -> float | None:
    """Return a number as JSON can say it."""
    return number if math.isfinite(number) else None
