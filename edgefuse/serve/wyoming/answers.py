"""From what was said to the event that answers it: what runs in the queue, beside the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wyoming.event import Event
from wyoming.intent import Entity, Intent, NotRecognized

from edgefuse.bundle.spec import ClassOutput
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.prediction import Prediction

NO_INTENT = frozenset({"", "none"})
"""Labels, in any case, by which a model says that there is nothing: no intent, or no entity."""


def intent(pipeline: Pipeline, given: Mapping[str, object], threshold: float) -> Event:
    """Return the intent, or that none was recognized.

    The first output of classes names it; each further one is an entity of the output's name. Nothing that was said goes
    into the answer: Home Assistant renders `Intent.text` as a template.

    Args:
        pipeline: that answers.
        given: raw inputs by modality.
        threshold: the probability below which neither is told.

    Raises:
        InputError, MissingExtraError, BackendError: as for a call of the pipeline.
    """
    prediction = pipeline(**given)
    classes = [one for one in prediction.spec if isinstance(one, ClassOutput) and one.name in prediction.outputs]
    named, *slots = [(one.name, Prediction(outputs=prediction.outputs, spec=(one,))) for one in classes]
    _, best = named
    context = {"probability": round(best.score, 4), "modalities": sorted(given)}
    if not _told(best, threshold):
        return NotRecognized(context=context).event()
    entities = [Entity(name, slot.label) for name, slot in slots if _told(slot, threshold)]
    return Intent(best.label, entities, context=context).event()


def _told(prediction: Prediction, threshold: float) -> bool:
    return prediction.score >= threshold and prediction.label.lower() not in NO_INTENT


def reply(
    pipeline: Pipeline, given: Mapping[str, object], said: Callable[[str], object], given_up: Callable[[], bool]
) -> str:
    """Return the reply of a model that makes words, and tell each part of it as soon as it is made.

    Args:
        pipeline: that answers.
        given: raw inputs by modality.
        said: is called with each part.
        given_up: whether nobody waits any more.

    Raises:
        InputError, MissingExtraError, BackendError: as for `Pipeline.generate`.
    """
    text = ""
    with pipeline.generate(**given) as generation:
        for _ in generation:
            if given_up():
                break
            before, text = text, generation.text
            if text != before:
                said(text[len(before) :])
    return text
