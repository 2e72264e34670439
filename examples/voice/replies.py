"""What an assistant answers: the reply templates of `home-assistant-intents`, and the room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from edgefuse.datasets.dialogue.commands import PLACES, ROOMS, package_file
from edgefuse.datasets.intent.requests import AREAS, COMBINATIONS, NONE

_NUMBERS = ("temperature", "minutes", "brightness", "percentage", "position", "volume_level")
_UNKNOWN = {"en": "I cannot look that up", "de": "Das kann ich nicht nachsehen", "fr": "Je ne peux pas le savoir"}
"""What is said where a reply needs the state of a home, which an example does not have."""


def reply(labels: Mapping[str, str], language: str, now: datetime) -> str:
    """Return what is said to a request.

    Args:
        labels: of the outputs of the model `intent`.
        language: to say it in.
        now: the time, for those who ask.

    Raises:
        DataError: the package cannot be fetched.
    """
    room = AREAS.index(labels["area"]) - 1
    slots = dict.fromkeys(_NUMBERS, labels["value"]) if labels["value"].isdigit() else {}
    values = {**slots, "date": now.date(), "time": now.time()}
    if room >= 0:
        values["area"] = ROOMS[language][room]
    environment = SandboxedEnvironment(undefined=StrictUndefined)
    for template in _templates(labels, language):
        try:
            said = " ".join(environment.from_string(template).render(slots=values).split())
        except TemplateError:  # it needs what the request does not say
            continue
        names = "slots.area" in template or room < 0
        return said if names else f"{said} {PLACES[language][room]}"
    return _UNKNOWN[language]


def not_understood(language: str) -> str:
    """Return what is said where the model is not sure."""
    said: str = package_file(language)["responses"]["errors"]["no_intent"]
    return said


def _templates(labels: Mapping[str, str], language: str) -> Iterator[str]:
    """Give the replies of an intent: those to what was asked of the same things before the others."""
    spoken: Mapping[str, str] = package_file(language)["responses"]["intents"][labels["intent"]]
    colour = "color" if labels["value"].isalpha() and labels["value"] != NONE else "brightness"
    entries = package_file(language)["intents"][labels["intent"]]["data"]
    known = [entry for entry in entries if entry["metadata"]["slot_combination"] in COMBINATIONS]
    fitting = [entry for entry in known if entry.get("slots", {}).get("domain", NONE) == labels["domain"]]
    names = [entry.get("response", "default") for entry in fitting]
    for name in dict.fromkeys([*(one for one in names if one == colour), *names, "default"]):
        if name in spoken and not (name in ("color", "brightness", "temperature") and name != colour):
            yield spoken[name]
