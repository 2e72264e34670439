"""What is asked of a home in three languages, as an intent and its slots, from `home-assistant-intents` (Apache-2.0).

A template of the package says which intent it is, which domain of things it is about, and which lists its words come
from. Rooms, and which of a list's numbers are asked for, are ours: the package leaves them to each home. A request
that names no room, and whose intent needs one, means the room where the speaker is; such requests are drawn twice as
often as others, since who stands in a room seldom names it. A sentence is in the split that `dialogue` has it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgefuse.datasets.dialogue.commands import LANGUAGES, MAX_LENGTH, ROOMS, SHARES, of_split, package_file
from edgefuse.datasets.dialogue.grammar import draw, named

__all__ = [
    "AREAS",
    "COMBINATIONS",
    "DOMAINS",
    "INTENTS",
    "LANGUAGES",
    "MAX_LENGTH",
    "NONE",
    "SHARES",
    "SLOTS",
    "VALUES",
    "Request",
    "drawn",
]

INTENTS = (
    *("HassTurnOn", "HassTurnOff", "HassLightSet", "HassSetPosition", "HassFanSetSpeed"),
    *("HassClimateSetTemperature", "HassClimateGetTemperature", "HassGetWeather"),
    *("HassMediaNext", "HassMediaPrevious", "HassMediaPause", "HassMediaUnpause", "HassSetVolume"),
    *("HassMediaPlayerMute", "HassMediaPlayerUnmute", "HassVacuumCleanArea"),
    *("HassLawnMowerStartMowing", "HassLawnMowerDock", "HassGetCurrentTime", "HassGetCurrentDate"),
    *("HassStartTimer", "HassIncreaseTimer", "HassDecreaseTimer", "HassPauseTimer", "HassUnpauseTimer"),
    *("HassCancelTimer", "HassCancelAllTimers", "HassTimerStatus"),
)
"""Under the names that Home Assistant has for them."""

NONE = "none"
"""The label of a slot that is not filled."""

AREAS = (NONE, *ROOMS["en"])
DOMAINS = (NONE, "light", "fan", "cover")
COLOURS = ("white", "black", "red", "orange", "yellow", "green", "blue", "purple", "brown")
"""Those that all three languages have."""

_PERCENT = tuple(range(10, 101, 10))
_NUMBERS: Mapping[str, tuple[int, ...]] = {
    "temperature": tuple(range(17, 26)),
    "timer_minutes": (5, 10, 15, 20, 25, 30, 45),
    **dict.fromkeys(("brightness", "fan_speed", "position", "volume", "volume_level"), _PERCENT),
}
"""What is asked for, by the package's list: degrees, minutes, per cent."""

VALUES = (NONE, *(str(number) for number in sorted({*sum(_NUMBERS.values(), ())})), *COLOURS)
SLOTS: Mapping[str, tuple[str, ...]] = {"intent": INTENTS, "area": AREAS, "domain": DOMAINS, "value": VALUES}
"""The labels of each output."""

COMBINATIONS = (
    *("default", "domain_only", "device_class", "device_class_cover", "context_area", "temperature_only"),
    *("brightness_only", "color_only", "minutes_only"),
    *("area_only", "area_domain", "area_device_class", "area_device_class_cover", "area_temperature"),
    *("area_brightness", "area_color", "area_minutes"),
)
"""Slots of the package's entries that are taken: no floors, no names of things, no hours and seconds."""

_UNNAMED = 2
"""How often an entry that takes the room from where one is stands for each other one."""


@dataclass(frozen=True)
class Request:
    """A sentence that asks for something.

    Attributes:
        text: it.
        language: a key of `LANGUAGES`.
        intent: one of `INTENTS`.
        area: the room that it names, one of `AREAS`; None if it is where the speaker is.
        domain: one of `DOMAINS`.
        value: one of `VALUES`.
    """

    text: str
    language: str
    intent: str
    area: str | None
    domain: str
    value: str

    def labels(self, shown: int) -> dict[str, str]:
        """Return what is meant, by output, where the room of that number in `AREAS` is shown."""
        area = AREAS[shown] if self.area is None else self.area
        return {"intent": self.intent, "area": area, "domain": self.domain, "value": self.value}


@dataclass(frozen=True)
class _Entry:
    """Templates of one language and intent that fill the same slots."""

    intent: str
    domain: str
    here: bool
    sentences: tuple[str, ...]


def drawn(split: str, count: int, seed: int) -> tuple[Request, ...]:
    """Return requests of a split: languages, and combinations of intent and slots, as often as each other.

    Args:
        split: a key of `SHARES`.
        count: of requests.
        seed: of the draws.

    Raises:
        DataError: the package cannot be fetched.
    """
    return of_split(split, count, seed, _drawn)


def _drawn(rng: np.random.Generator) -> Request:
    language = list(LANGUAGES)[int(rng.integers(len(LANGUAGES)))]
    entries = _entries(language)
    entry = entries[int(rng.integers(len(entries)))]
    template = entry.sentences[int(rng.integers(len(entry.sentences)))]
    rules = package_file(language)["expansion_rules"]
    lists = named(template, rules)
    room = int(rng.integers(len(ROOMS[language])))
    words, value = {"area": ROOMS[language][room]}, NONE
    for name in sorted(lists & {*_NUMBERS}):
        value = words[name] = str(_NUMBERS[name][int(rng.integers(len(_NUMBERS[name])))])
    for name in sorted(lists & {"color", "cover_classes"}):
        said = _listed(language, name)
        label = list(said)[int(rng.integers(len(said)))]
        words[name] = draw(said[label], {}, {}, rng)
        value = label if name == "color" else value
    area = None if entry.here else ROOMS["en"][room] if "area" in lists else NONE
    return Request(draw(template, rules, words, rng), language, entry.intent, area, entry.domain, value)


@cache
def _entries(language: str) -> tuple[_Entry, ...]:
    """Return the entries of a language, for each combination of intent and slots, as often as they are drawn."""
    rules = package_file(language)["expansion_rules"]
    known = {"area", "color", "cover_classes", *_NUMBERS}
    found: dict[tuple[str, str, str], tuple[bool, list[str]]] = {}
    for intent in INTENTS:
        for block in package_file(language)["intents"][intent]["data"]:
            combination = block["metadata"]["slot_combination"]
            if combination in COMBINATIONS:
                here = block.get("requires_context") == {"area": {"slot": True}}
                domain = block.get("slots", {}).get("domain", NONE)
                sentences = [one for one in block["sentences"] if named(one, rules) <= known]
                found.setdefault((intent, combination, domain), (here, []))[1].extend(sentences)
    entries = [_Entry(i, domain, here, tuple(s)) for (i, _, domain), (here, s) in found.items() if s]
    return tuple(entry for entry in entries for _ in range(_UNNAMED if entry.here else 1))


@cache
def _listed(language: str, name: str) -> dict[str, str]:
    """Return the templates of a list's words, by label."""
    labels = COLOURS if name == "color" else ("blind", "curtain", "shutter")
    said: dict[str, Any] = {}
    for value in package_file(language)["lists"][name]["values"]:
        for label in [value["out"]] if isinstance(value["out"], str) else value["out"]:
            said.setdefault(label, value["in"])
    return {label: said[label] for label in labels}
