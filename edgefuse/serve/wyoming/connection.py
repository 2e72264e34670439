"""One peer: its events, one after the other, and what they are answered with."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import msgspec
from wyoming.asr import Transcribe
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.handle import Handled, HandledChunk, HandledStart, HandledStop, NotHandled
from wyoming.ping import Pong

from edgefuse.errors import EdgefuseError, InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.queue import Draining, Expired, Full, Queue
from edgefuse.serve.wyoming import answers
from edgefuse.serve.wyoming.address import recogniser_at
from edgefuse.serve.wyoming.events import Reader, fields
from edgefuse.serve.wyoming.hearing import Hearing
from edgefuse.serve.wyoming.limits import CrowdedError
from edgefuse.serve.wyoming.recogniser import Recogniser, RecogniserError
from edgefuse.serve.wyoming.roles import Roles
from edgefuse.serve.wyoming.settings import Settings
from edgefuse.serve.wyoming.utterances import Utterances

_log = logging.getLogger(__name__)
T = TypeVar("T")


class _Said(msgspec.Struct, frozen=True):
    """What was said; language and context, which Home Assistant sends too, change no answer."""

    text: str


class _Pinged(msgspec.Struct, frozen=True):
    text: str | None = None


class Shared:
    """What all connections of a service share.

    Args:
        queue: in front of the model.
        roles: of the model.
        settings: of the service.
        info: makes the answer to `describe`.
    """

    def __init__(self, queue: Queue, roles: Roles, settings: Settings, info: Callable[[], Event]) -> None:
        self.queue, self.roles, self.settings, self.info = queue, roles, settings, info
        self.utterances = Utterances(settings.keep_s)


class Connection:
    """Reads and answers until the peer goes, breaks the protocol or is ended.

    Args:
        shared: with all other connections.
        reader: of the connection.
        writer: of the connection.

    Attributes:
        busy: an event is being answered.
        ending: no further event is read.
        active_s: when the last event had come, by the monotonic clock.
    """

    def __init__(self, shared: Shared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._shared, self._limits = shared, shared.settings.limits
        self._reader, self._writer = Reader(reader, self._limits), writer
        self._transcribe: Event | None = None
        self._hearing: Hearing | None = None
        self.busy = self.ending = False
        self.active_s = time.monotonic()

    async def run(self) -> None:
        """Serve the peer, and close the connection."""
        try:
            await self._serve()
        except _GoneError:
            pass
        finally:
            await self._end_hearing()
            await self._close()

    async def refuse(self, error: EdgefuseError) -> None:
        """Send an error instead, and close the connection."""
        self.busy = True
        with suppress(_GoneError):
            await self._say(error)
            self.busy = False
            await self._linger()
        await self._close()

    async def _serve(self) -> None:
        while not self.ending:
            try:
                event = await self._reader.read()
            except InputError as error:
                await self._say(error)
                break
            except OSError:
                return
            if event is None:
                return
            self.active_s, self.busy = time.monotonic(), True
            try:
                goes_on = await self._handled(event)
            finally:
                self.busy = False
            if not goes_on:
                break
        else:
            return
        await self._linger()

    async def _handled(self, event: Event) -> bool:
        """Answer an event; false where the connection cannot go on. Events that nobody knows are dropped."""
        handle = _HANDLERS.get(event.type)
        if handle is None:
            return True
        try:
            await handle(self, event)
        except EdgefuseError as error:
            await self._say(error)
            return event.type not in _OF_SOUND  # the rest of a stream would only fail again
        except (_GoneError, asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - one request must not end the service; a panic in a runtime is one
            # Its message may quote what was said, which no log is to hold: where it happened is enough.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a bug of ours, or of a runtime: %s\n%s", type(error).__name__, where)
            await self._write(Error("this cannot be answered: the log of the service says why", "failed").event())
            return False
        return True

    async def _describe(self, event: Event) -> None:
        await self._write(self._shared.info())

    async def _ping(self, event: Event) -> None:
        await self._write(Pong(fields(event, _Pinged).text).event())

    async def _understand(self, event: Event) -> None:
        said = fields(event, _Said)
        self._shared.queue.check()  # whoever has to ask again finds the sound of it
        given = self._given(said.text)
        if self._shared.roles.replies:
            await self._reply(given)
        else:
            call = partial(answers.intent, given=given, threshold=self._shared.settings.threshold)
            await self._write(await self._in_time(asyncio.wrap_future(self._submitted(call))))

    def _given(self, text: str) -> dict[str, object]:
        """Return the raw inputs: the text, and the sound of it where that was kept."""
        roles = self._shared.roles
        given: dict[str, object] = {roles.text: text}
        sound = self._shared.utterances.take(text)
        if sound is not None and roles.audio is not None:
            given[roles.audio] = sound
        return given

    def _submitted(self, call: Callable[[Pipeline], T]) -> Future[T]:
        return self._shared.queue.submit(call)

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(answer, self._limits.answer_s)
        except asyncio.TimeoutError:
            raise _TooLateError("there was no answer in time", expected=f"one in {self._limits.answer_s:g} s") from None

    async def _reply(self, given: Mapping[str, object]) -> None:
        """Send the parts of a reply as they are made, and then all of it, for those who do not read parts."""
        loop, parts, given_up = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

        def said(part: str | None) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(parts.put_nowait, part)

        made = self._submitted(partial(answers.reply, given=given, said=said, given_up=given_up.is_set))
        made.add_done_callback(lambda _: said(None))
        try:
            await self._in_time(self._parts(parts))
            text = await asyncio.wrap_future(made)
        finally:
            given_up.set()
            made.cancel()
        if text:
            await self._write(Handled(text).event())
            await self._write(HandledStop().event())
        else:
            await self._write(NotHandled().event())

    async def _parts(self, parts: asyncio.Queue[str | None]) -> None:
        started = False
        while (part := await parts.get()) is not None:
            if not started:
                await self._write(HandledStart().event())
                started = True
            await self._write(HandledChunk(part).event())

    async def _announce_sound(self, event: Event) -> None:
        self._transcribe = event

    async def _start_sound(self, event: Event) -> None:
        settings, utterances = self._shared.settings, self._shared.utterances
        if settings.recogniser is None:
            raise InputError(
                "this service takes no sound", got=f"the event '{event.type}'", fix="start it with a speech recogniser"
            )
        if utterances.streams >= self._limits.streams:
            raise CrowdedError(
                "too many utterances are heard at once",
                expected=f"at most {self._limits.streams}",
                fix="try again later",
            )
        await self._end_hearing()
        recogniser = Recogniser(recogniser_at(settings.recogniser), self._limits)
        self._hearing = Hearing(recogniser, utterances, self._shared.roles.clip_s, self._limits, self._write)
        transcribe, self._transcribe = self._transcribe or Transcribe().event(), None
        await self._hearing.start(transcribe, event)

    async def _hear(self, event: Event) -> None:
        if self._hearing is None:
            raise InputError(f"the event '{event.type}' came before 'audio-start'", fix="send that first")
        if event.type == "audio-chunk":
            await self._hearing.chunk(event)
        else:
            await self._hearing.stop(event)
            await self._end_hearing()

    async def _end_hearing(self) -> None:
        if self._hearing is not None:
            hearing, self._hearing = self._hearing, None
            await hearing.close()

    async def _write(self, event: Event) -> None:
        try:
            await asyncio.wait_for(async_write_event(event, self._writer), self._limits.event_s)
        except (OSError, asyncio.TimeoutError) as error:
            raise _GoneError from error

    async def _say(self, error: EdgefuseError) -> None:
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        await self._write(Error(str(error), code).event())

    async def _linger(self) -> None:
        """Take what is still sent, for a moment: a connection that is closed before loses the error on its way."""
        with suppress(OSError, asyncio.TimeoutError):
            self._writer.write_eof()
            await asyncio.wait_for(self._reader.discard(), self._limits.linger_s)

    async def _close(self) -> None:
        """Close the connection: at once if the peer does not take what is still to be sent."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), self._limits.event_s)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            self._writer.transport.abort()


class _GoneError(Exception):
    """The peer takes no answer any more."""


class _TooLateError(EdgefuseError):
    """An answer took too long."""


_CODES: Mapping[type[EdgefuseError], str] = MappingProxyType(
    {
        Full: "full",
        CrowdedError: "full",
        Draining: "ending",
        Expired: "timeout",
        _TooLateError: "timeout",
        RecogniserError: "recogniser",
        InputError: "input",
        EdgefuseError: "failed",
    }
)
"""By kind of error, the more particular first, the code of the event that tells of it."""

_Handler: TypeAlias = Callable[[Connection, Event], Awaitable[None]]
_HANDLERS: Mapping[str, _Handler] = MappingProxyType(
    {
        "describe": Connection._describe,
        "ping": Connection._ping,
        "transcript": Connection._understand,
        "recognize": Connection._understand,
        "transcribe": Connection._announce_sound,
        "audio-start": Connection._start_sound,
        "audio-chunk": Connection._hear,
        "audio-stop": Connection._hear,
    }
)
_OF_SOUND = frozenset({"audio-start", "audio-chunk", "audio-stop"})
