"""One utterance: to the recogniser while it comes, its transcript back, and its beginning kept for the intent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import TypeAlias

from wyoming.event import Event

from edgefuse.errors import InputError
from edgefuse.serve.wyoming.limits import Limits
from edgefuse.serve.wyoming.recogniser import Recogniser, RecogniserError
from edgefuse.serve.wyoming.sound import Format, Sound, format_of, samples_of
from edgefuse.serve.wyoming.utterances import Utterances

Write: TypeAlias = Callable[[Event], Awaitable[None]]

# What lies behind the model's clip still reaches its last samples through the resampler's filter.
_MARGIN_S = 0.1


class Hearing:
    """Takes the sound of one utterance.

    Args:
        recogniser: that is asked.
        utterances: where the sound is kept for the text.
        clip_s: how much of it the model takes; no more is kept. None is where this is 0.
        limits: how much sound is taken.
        write: sends an event to whoever speaks.
    """

    def __init__(
        self, recogniser: Recogniser, utterances: Utterances, clip_s: float, limits: Limits, write: Write
    ) -> None:
        self._recogniser, self._utterances, self._limits, self._write = recogniser, utterances, limits, write
        self._clip_s = clip_s + _MARGIN_S if clip_s else 0.0
        self._stream = utterances.begin()
        self._format = Format(0, 0, 0)
        self._kept = bytearray()
        self._heard_bytes = 0
        self._relaying: asyncio.Task[None] | None = None

    async def start(self, *events: Event) -> None:
        """Open the recogniser, and hand it the events that begin an utterance; the last one tells the format.

        Raises:
            InputError: sound of that format is not taken.
            RecogniserError: it cannot be reached.
        """
        self._format = format_of(events[-1])
        await self._recogniser.open()
        for event in events:
            await self._recogniser.write(event)
        self._relaying = asyncio.create_task(self._relay(), name="edgefuse transcript")

    async def chunk(self, event: Event) -> None:
        """Hand on a part of the sound; what comes after the transcript is not needed any more.

        Raises:
            InputError: it is of another format, or there was too much before it.
            RecogniserError: the recogniser gave up.
        """
        if self._relay_done():
            return
        found, data = format_of(event), event.payload or b""
        if found != self._format:
            raise InputError("the format of the sound changes within an utterance", got=found, expected=self._format)
        if len(data) % found.frame_bytes:
            raise InputError(
                "a part of the sound does not end with a sample", got=f"{len(data)} bytes", expected=f"{found}"
            )
        self._heard_bytes += len(data)
        if self._heard_bytes > self._limits.utterance_s * found.rate * found.frame_bytes:
            raise InputError("an utterance is too long", expected=f"at most {self._limits.utterance_s:g} s")
        needed = ceil(self._clip_s * found.rate) * found.frame_bytes - len(self._kept)
        self._kept += data[: max(needed, 0)]
        await self._recogniser.write(event)

    async def stop(self, event: Event) -> None:
        """Tell that the sound has ended, and wait until its transcript was sent.

        Raises:
            RecogniserError: there is none.
        """
        if self._relay_done() or self._relaying is None:
            return
        await self._recogniser.write(event)
        try:
            await asyncio.wait_for(self._relaying, self._limits.answer_s)
        except asyncio.TimeoutError:
            raise RecogniserError(
                "the speech recogniser does not answer", expected=f"a transcript in {self._limits.answer_s:g} s"
            ) from None

    async def close(self) -> None:
        """Let go of everything that is not kept for the text; closing twice is harmless."""
        self._utterances.end(self._stream)
        self._kept.clear()
        try:
            if self._relaying is not None:
                self._relaying.cancel()
                await asyncio.gather(self._relaying, return_exceptions=True)
        finally:
            await self._recogniser.close()

    def _relay_done(self) -> bool:
        """Tell whether the transcript was sent, or raise why it was not."""
        if self._relaying is None or not self._relaying.done():
            return False
        self._relaying.result()
        return True

    async def _relay(self) -> None:
        transcript = await self._recogniser.transcript()
        self._utterances.end(self._stream, transcript.text, self._sound())
        await self._write(transcript.event())

    def _sound(self) -> Sound | None:
        return samples_of(bytes(self._kept), self._format) if self._kept else None
