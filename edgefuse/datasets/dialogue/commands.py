"""Commands for a home in three languages, and what is replied, from the package `home-assistant-intents` (Apache-2.0).

Its templates say both how people ask and what an assistant answers. Some commands name a room, others mean the one
where the speaker is ("turn on the light here"); the package's answers do not say which room that was, ours add it.
Rooms are ours, too: the package leaves them to each home.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
from jinja2.sandbox import SandboxedEnvironment

from edgefuse.datasets.dialogue.grammar import draw
from edgefuse.datasets.packages import fetch

VERSION = "2026.10.27"
LANGUAGES: Mapping[str, str] = {
    "en": "0b9d606a216b1712409a3d822a8edfb9ff4458e51e421792882ea24e0ce1d456",
    "de": "e4f72dde27bee2f04225ec5716c8776c5f95310022cb7668af5929e0056df7a7",
    "fr": "1bf13b8ca7d92e0793ea098e22ffe2ed440d640e8320dc367d71efe9804b947f",
}
"""With the hashes of their files."""

ROOMS: Mapping[str, tuple[str, ...]] = {
    "en": ("kitchen", "bedroom", "bathroom", "living room", "garage", "office"),
    "de": ("Küche", "Schlafzimmer", "Badezimmer", "Wohnzimmer", "Garage", "Büro"),
    "fr": ("cuisine", "chambre", "salle de bain", "salon", "garage", "bureau"),
}
PLACES: Mapping[str, tuple[str, ...]] = {
    "en": tuple(f"in the {room}" for room in ROOMS["en"]),
    "de": ("in der Küche", "im Schlafzimmer", "im Badezimmer", "im Wohnzimmer", "in der Garage", "im Büro"),
    "fr": (
        *("dans la cuisine", "dans la chambre", "dans la salle de bain"),
        *("dans le salon", "dans le garage", "dans le bureau"),
    ),
}
DEGREES = tuple(range(17, 26))
MAX_LENGTH = 64
"""Characters of a command."""

SHARES = {"train": range(7), "calibration": range(7, 8), "validation": range(8, 9), "test": range(9, 10)}
"""Tenths of all sentences, by a hash of theirs: no sentence of one split is in another."""


class Sentence(Protocol):
    """What is asked for in words."""

    @property
    def text(self) -> str:
        """The words."""


S = TypeVar("S", bound=Sentence)


@dataclass(frozen=True)
class Action:
    """What can be asked for.

    Attributes:
        intent: its name in the package.
        domain: of the things that it is about, if there are several.
    """

    intent: str
    domain: str | None = None


ACTIONS = (
    *(Action("HassTurnOn", "light"), Action("HassTurnOff", "light"), Action("HassTurnOn", "fan")),
    *(Action("HassTurnOff", "fan"), Action("HassClimateSetTemperature")),
)


@dataclass(frozen=True)
class Command:
    """A sentence that asks for something.

    Attributes:
        text: it.
        language: a key of `LANGUAGES`.
        reply: what the package answers, without a room.
        room: its number in `ROOMS`; None if it is where the speaker is.
    """

    text: str
    language: str
    reply: str
    room: int | None

    def answer(self, shown: int) -> str:
        """Return the reply with the room: that of the command, else the one that is shown."""
        return f"{self.reply} {PLACES[self.language][shown if self.room is None else self.room]}"


def drawn(split: str, count: int, seed: int) -> tuple[Command, ...]:
    """Return commands of a split: languages, actions, and rooms or none, as often as each other.

    Args:
        split: a key of `SHARES`.
        count: of commands.
        seed: of the draws.

    Raises:
        DataError: the package cannot be fetched.
    """
    return of_split(split, count, seed, _drawn)


def of_split(split: str, count: int, seed: int, draw_one: Callable[[np.random.Generator], S]) -> tuple[S, ...]:
    """Return sentences of a split, drawn until there are enough that belong to it and are short enough.

    Args:
        split: a key of `SHARES`.
        count: of sentences.
        seed: of the draws.
        draw_one: draws any sentence.
    """
    rng = np.random.default_rng([seed, list(SHARES).index(split)])
    found: list[S] = []
    while len(found) < count:
        one = draw_one(rng)
        if tenth(one.text) in SHARES[split] and len(one.text) <= MAX_LENGTH:
            found.append(one)
    return tuple(found)


def tenth(sentence: str) -> int:
    """Return which tenth of all sentences one belongs to; upper and lower case are the same."""
    return int.from_bytes(hashlib.sha256(sentence.casefold().encode()).digest()[:8], "big") % 10


@cache
def words() -> tuple[str, ...]:
    """Return all words of all answers, sorted."""
    replies = {_reply(language, action, degrees) for language in LANGUAGES for action in ACTIONS for degrees in DEGREES}
    return tuple(sorted({word for text in (*replies, *sum(PLACES.values(), ())) for word in text.split()}))


def _drawn(rng: np.random.Generator) -> Command:
    language = list(LANGUAGES)[int(rng.integers(len(LANGUAGES)))]
    action = ACTIONS[int(rng.integers(len(ACTIONS)))]
    room = int(rng.integers(len(ROOMS[language]))) if rng.random() < 0.5 else None
    degrees = DEGREES[int(rng.integers(len(DEGREES)))]
    templates = _sentences(language, action, room is not None)
    values = {"temperature": str(degrees), "area": "" if room is None else ROOMS[language][room]}
    text = draw(templates[int(rng.integers(len(templates)))], package_file(language)["expansion_rules"], values, rng)
    return Command(text, language, _reply(language, action, degrees), room)


def _blocks(language: str, action: Action, named: bool) -> list[dict[str, Any]]:
    """Return the package's entries of an action: those that name a room, or those that take it from where one is."""
    wanted = ("area_domain", "area_temperature") if named else ("domain_only", "temperature_only")
    return [
        block
        for block in package_file(language)["intents"][action.intent]["data"]
        if block["metadata"]["slot_combination"] in wanted and block.get("slots", {}).get("domain") == action.domain
        if named or block.get("requires_context") == {"area": {"slot": True}}
    ]


@cache
def _sentences(language: str, action: Action, named: bool) -> tuple[str, ...]:
    return tuple(sentence for block in _blocks(language, action, named) for sentence in block["sentences"])


@cache
def _reply(language: str, action: Action, degrees: int) -> str:
    name = _blocks(language, action, named=True)[0].get("response", "default")
    template = package_file(language)["responses"]["intents"][action.intent][name]
    return SandboxedEnvironment().from_string(template).render(slots={"temperature": degrees}).strip()


@cache
def package_file(language: str) -> dict[str, Any]:
    """Return what the package says in a language: intents, rules, lists, responses.

    Raises:
        DataError: the package cannot be fetched.
    """
    path = fetch("home-assistant-intents", VERSION, f"home_assistant_intents/data/{language}.json", LANGUAGES[language])
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
