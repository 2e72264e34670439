"""What a model of classes takes a request for: the intent, and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgefuse.bundle.spec import ClassOutput
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.prediction import Prediction

NO_INTENT = frozenset({"", "none"})
"""Labels, in any case, by which a model says that there is nothing: no intent, or no entity."""


class Recognised(NamedTuple):
    """What a request is for.

    Attributes:
        intent: its name; None: no intent is probable enough.
        probability: of the most probable class, a fraction.
        slots: of what belongs to the intent, the label by the name of the output; empty without an intent.
    """

    intent: str | None
    probability: float
    slots: dict[str, str]


def recognise(pipeline: Pipeline, given: Mapping[str, object], threshold: float) -> Recognised:
    """Return the intent: the first output of classes names it, and each further one is a slot of the output's name.

    Args:
        pipeline: that answers.
        given: raw inputs by modality.
        threshold: the probability below which neither is told.

    Raises:
        InputError, MissingExtraError, BackendError: as for a call of the pipeline.
    """
    prediction = pipeline(**given)
    classes = [one for one in prediction.spec if isinstance(one, ClassOutput) and one.name in prediction.outputs]
    (_, best), *slots = [(one.name, Prediction(outputs=prediction.outputs, spec=(one,))) for one in classes]
    if not _told(best, threshold):
        return Recognised(None, best.score, {})
    return Recognised(best.label, best.score, {name: slot.label for name, slot in slots if _told(slot, threshold)})


def _told(prediction: Prediction, threshold: float) -> bool:
    return prediction.score >= threshold and prediction.label.lower() not in NO_INTENT
