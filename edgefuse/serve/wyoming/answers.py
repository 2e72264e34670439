"""From what was said to the event that answers it: what runs in the queue, beside the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wyoming.event import Event
from wyoming.intent import Entity, Intent, NotRecognized

from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.intents import recognise


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
    found = recognise(pipeline, given, threshold)
    context = {"probability": round(found.probability, 4), "modalities": sorted(given)}
    if found.intent is None:
        return NotRecognized(context=context).event()
    entities = [Entity(name, label) for name, label in found.slots.items()]
    return Intent(found.intent, entities, context=context).event()


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
