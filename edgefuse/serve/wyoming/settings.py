"""What whoever starts the service decides."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefuse.errors import InputError
from edgefuse.serve.wyoming.limits import Limits


@dataclass(frozen=True)
class Settings:
    """How a service answers, and to whom.

    Attributes:
        languages: of the model, as assistants call them ("en", "de"): they offer it for these alone.
        threshold: the probability below which an intent, or an entity, is not told.
        recogniser: the URI of a Wyoming speech-to-text service that is asked in our place; without one there is none.
        keep_s: for how long the sound of an utterance is kept in memory for the text that belongs to it.
        exposed: listen on other addresses than loopback, too: the protocol knows no password and no encryption.
        announced: the name under which multicast DNS tells the network of the service; it is not told if None.
        limits: what one peer may take.
    """

    languages: tuple[str, ...] = ("en",)
    threshold: float = 0.5
    recogniser: str | None = None
    keep_s: float = 5.0
    exposed: bool = False
    announced: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError(
                "a service needs a language", got="none", expected="such as 'en'", fix="name those of the model"
            )
        if not 0 <= self.threshold <= 1:
            raise InputError(
                "the threshold of a service is no probability", got=self.threshold, expected="a number from 0 to 1"
            )
