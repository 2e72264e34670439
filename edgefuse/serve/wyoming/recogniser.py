"""The speech-to-text service that is asked in our place, over the same protocol."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from wyoming.asr import Transcript
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event

from edgefuse.errors import EdgefuseError, InputError, shown
from edgefuse.serve.wyoming.limits import Limits

_log = logging.getLogger(__name__)


class RecogniserError(EdgefuseError):
    """The speech-to-text service that is asked in our place does not do its part."""


class Recogniser:
    """One utterance at another service; open it before anything else, and close it in any case.

    Args:
        uri: of the service, `tcp://HOST:PORT` or `unix:///PATH`.
        limits: how long it may take.
    """

    def __init__(self, uri: str, limits: Limits) -> None:
        self._uri = uri
        self._limits = limits
        self._client = client_of(uri, limits)

    async def open(self) -> None:
        """Connect."""
        try:
            await self._client.connect()
        except (OSError, asyncio.TimeoutError) as error:
            self._lost("cannot be reached", error)

    async def write(self, event: Event) -> None:
        """Send it an event."""
        try:
            await asyncio.wait_for(self._client.write_event(event), self._limits.event_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._lost("does not listen any more", error)

    async def transcript(self) -> Transcript:
        """Return what it understood, which may come before the sound has ended."""
        while True:
            try:
                event = await self._client.read_event()
                if event is not None and Transcript.is_type(event.type):
                    return Transcript.from_event(event)
            except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
                self._lost("gives no transcript", error)  # the library's reader trusts what comes
            if event is None:
                self._lost("went away without a transcript", None)
            if Error.is_type(event.type):
                raise RecogniserError("the speech recogniser reports an error", got=event.data.get("text"))

    async def close(self) -> None:
        """Disconnect; closing twice is harmless."""
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._client.disconnect(), self._limits.event_s)

    def _lost(self, what: str, error: Exception | None) -> NoReturn:
        _log.warning("the speech recogniser %s %s (%s)", shown(self._uri), what, type(error).__name__)
        raise RecogniserError(f"the speech recogniser {what}", fix="start it again, or tell the service where it is")


def client_of(uri: str, limits: Limits) -> AsyncClient:
    """Return a client that is not connected yet.

    Raises:
        InputError: the URI is of no service.
    """
    try:
        if uri.startswith(("tcp://", "unix://")):
            return AsyncClient.from_uri(uri, connect_timeout=limits.event_s)
    except ValueError:  # no port, or none that is a number
        pass
    raise InputError("this is no address of a speech recogniser", got=uri, expected="tcp://HOST:PORT or unix:///PATH")
