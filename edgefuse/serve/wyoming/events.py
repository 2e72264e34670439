"""Events from a peer, within limits.

The reader of the library `wyoming` takes any length and waits forever; this one reads the same format: a line of JSON
with `type`, `data`, `data_length` and `payload_length`, then so many bytes of JSON, then so many bytes of sound.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from wyoming.event import Event

from edgefuse.errors import InputError, cited
from edgefuse.serve.wyoming.limits import Limits
from edgefuse.typed_json import decode

T = TypeVar("T")


class _Header(msgspec.Struct, frozen=True):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


class Reader:
    """Reads the events of one connection.

    Args:
        stream: of the connection, made with `limit=limits.header_bytes`.
        limits: what the peer may send, and how slowly.
    """

    def __init__(self, stream: asyncio.StreamReader, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._left_bytes = limits.connection_bytes

    async def read(self) -> Event | None:
        """Return the next event; None if the peer has gone, or was silent for too long.

        Raises:
            InputError: what comes is no event, too large or too slow. What follows it cannot be read.
            OSError: the connection is broken.
        """
        try:
            first = await asyncio.wait_for(self._stream.read(1), self._limits.idle_s)
        except asyncio.TimeoutError:
            return None
        if not first:
            return None
        try:
            return await asyncio.wait_for(self._rest(first), self._limits.event_s)
        except asyncio.TimeoutError:
            raise InputError("an event came too slowly", expected=f"all of it in {self._limits.event_s:g} s") from None
        except asyncio.IncompleteReadError as error:
            raise InputError("an event ends too early", got=f"{len(error.partial)} bytes of a part of it") from None

    async def discard(self) -> None:
        """Throw away what comes, up to the end."""
        while await self._stream.read(self._limits.header_bytes):
            pass

    async def _rest(self, first: bytes) -> Event:
        header = _decoded(await self._line(first), _Header, "the header of an event")
        data = header.data or {}
        if body := await self._part("data", header.data_length, self._limits.data_bytes):
            data = {**data, **_decoded(body, dict[str, Any], "the data of an event")}
        payload = await self._part("payload", header.payload_length, self._limits.payload_bytes)
        return Event(type=header.type, data=data, payload=payload or None)

    async def _line(self, first: bytes) -> bytes:
        try:
            line = first if first == b"\n" else first + await self._stream.readuntil()
        except asyncio.LimitOverrunError:
            raise InputError(
                "the header of an event is too long", expected=f"a line of at most {self._limits.header_bytes} bytes"
            ) from None
        self._count(len(line))
        return line

    async def _part(self, name: str, length: int | None, most: int) -> bytes:
        """Return so many bytes; none of more than the limit is ever waited for."""
        if not length:
            return b""
        if not 0 < length <= most:
            raise InputError(f"the {name} of an event is too large", got=f"{length} bytes", expected=f"0 to {most}")
        self._count(length)
        return await self._stream.readexactly(length)

    def _count(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise InputError(
                "a connection has sent too much",
                expected=f"at most {self._limits.connection_bytes} bytes",
                fix="open another one",
            )


def fields(event: Event, kind: type[T]) -> T:
    """Return the data of an event as a record.

    Raises:
        InputError: a field is missing, or of another type.
    """
    try:
        return msgspec.convert(event.data, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"the event '{event.type}' is not complete", got=_said(error)) from None


def _decoded(data: bytes, kind: type[T], what: str) -> T:
    try:
        return decode(data, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{what} cannot be read", got=_said(error), expected="JSON in UTF-8") from None


def _said(error: Exception) -> str:
    return cited(error).partition(": ")[2] or type(error).__name__
