"""The speech-to-text service that is asked in our place, over the same protocol."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event

from edgefuse.errors import EdgefuseError, shown
from edgefuse.serve.wyoming.address import Address
from edgefuse.serve.wyoming.limits import Limits

_log = logging.getLogger(__name__)


class RecogniserError(EdgefuseError):
    """The speech-to-text service that is asked in our place does not do its part."""


class Recogniser:
    """One utterance at another service; open it before anything else, and close it in any case.

    The client of the library `wyoming` is not used: cancelled at a bad moment, it leaves its connection open.

    Args:
        address: of the service.
        limits: how long it may take.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self._address = address
        self._limits = limits
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect."""
        to = self._address
        opening = asyncio.open_unix_connection(to.path) if to.path else asyncio.open_connection(to.host, to.port)
        try:
            self._reader, self._writer = await asyncio.wait_for(opening, self._limits.event_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._lost("cannot be reached", error)

    async def write(self, event: Event) -> None:
        """Send it an event."""
        assert self._writer is not None
        try:
            await asyncio.wait_for(async_write_event(event, self._writer), self._limits.event_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._lost("does not listen any more", error)

    async def transcript(self) -> Transcript:
        """Return what it understood, which may come before the sound has ended."""
        while True:
            try:
                event = await async_read_event(self._reader)
                if event is not None and Transcript.is_type(event.type):
                    return Transcript.from_event(event)
            except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
                self._lost("gives no transcript", error)  # the library's reader trusts what comes
            if event is None:
                self._lost("went away without a transcript", None)
            if Error.is_type(event.type):
                raise RecogniserError("the speech recogniser reports an error", got=event.data.get("text"))

    async def close(self) -> None:
        """Disconnect, at once if it does not take what is still to be sent; closing twice is harmless.

        It closes before it waits, since waiting may be cancelled.
        """
        if self._writer is None:
            return
        self._writer.close()
        try:
            with suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(self._writer.wait_closed(), self._limits.event_s)
        finally:
            self._writer.transport.abort()

    def _lost(self, what: str, error: Exception | None) -> NoReturn:
        _log.warning("the speech recogniser %s %s (%s)", shown(str(self._address)), what, type(error).__name__)
        raise RecogniserError(f"the speech recogniser {what}", fix="start it again, or tell the service where it is")
