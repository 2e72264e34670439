"""The service: listening, its connections, and its end."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType

from edgefuse.errors import InputError
from edgefuse.files import reason
from edgefuse.runtime.control import bound, identity
from edgefuse.serve.queue import Queue, Source
from edgefuse.serve.wyoming.address import Address, address_of, recogniser_at
from edgefuse.serve.wyoming.announcement import announced
from edgefuse.serve.wyoming.connection import Connection, Shared
from edgefuse.serve.wyoming.info import described
from edgefuse.serve.wyoming.limits import CrowdedError
from edgefuse.serve.wyoming.roles import roles_of
from edgefuse.serve.wyoming.settings import Settings

_LETTING_GO_S = 0.5
"""At the end of stopping, for connections that are given up: one whose peer does not read would be waited for."""
_TURNS = 16
"""Of the event loop: a connection takes a few of them from being accepted to the end of an event that has come."""


class Wyoming:
    """A bundle behind the Wyoming protocol: an intent service, or one that replies, and a speech-to-text proxy.

        async with Wyoming("tcp://127.0.0.1:10400", queue, live):
            await asyncio.Event().wait()

    For programs without an event loop there is `background.Background`.

    Args:
        uri: `tcp://HOST:PORT` (port 0 takes a free one) or `unix:///PATH`, a socket that only this user may open.
        queue: in front of the model.
        source: of the pipeline that answers.
        settings: how it answers, and to whom.

    Raises:
        InputError: the address is none, or others could reach it; the model cannot answer an assistant.
    """

    def __init__(self, uri: str, queue: Queue, source: Source, settings: Settings | None = None) -> None:
        self._settings = settings = settings or Settings()
        self._limits = settings.limits
        self._address = address_of(uri, exposed=settings.exposed)
        if settings.recogniser is not None:
            recogniser_at(settings.recogniser)
        roles = roles_of(source.pipeline.manifest.model, hears=settings.recogniser is not None)
        self._shared = Shared(queue, roles, settings, lambda: described(source.pipeline.manifest, roles, settings))
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._ending = AsyncExitStack()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return str(self._address)

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: the system does not allow it, or the address cannot be announced.
            MissingExtraError: it is to be announced, and zeroconf is not installed.
        """
        async with AsyncExitStack() as stack:
            server = await self._listening(stack)
            stack.push_async_callback(closed, server)
            if self._settings.announced is not None:
                await stack.enter_async_context(announced(self._address, self._settings.announced))
            self._ending = stack.pop_all()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Listen no more, answer what was asked, and close all connections; stopping twice is harmless.

        Args:
            timeout_s: after which nothing is waited for; what is not answered 0.5 s before that, is given up.
        """
        ends_s = time.monotonic() + timeout_s
        await self._ending.aclose()
        for _ in range(_TURNS):  # what has come up to now is read
            await asyncio.sleep(0)
        for connection, task in self._connections.items():
            connection.ending = True
            if not connection.busy:
                task.cancel()
        tasks = list(self._connections.values())
        for until_s in (ends_s - _LETTING_GO_S, ends_s):
            if tasks:
                await asyncio.wait(tasks, timeout=max(0.0, until_s - time.monotonic()))
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._shared.utterances.forget()

    async def __aenter__(self) -> Wyoming:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listening(self, stack: AsyncExitStack) -> asyncio.Server:
        limit = self._limits.header_bytes
        if self._address.path:
            path = Path(self._address.path)
            listener = bound(path)
            stack.callback(_remove, path, identity(path))
            return await asyncio.start_unix_server(self._connected, sock=listener, limit=limit)
        try:
            server = await asyncio.start_server(self._connected, self._address.host, self._address.port, limit=limit)
        except OSError as error:
            raise InputError(
                f"nothing can listen at {self._address}", got=reason(error), fix="name another address"
            ) from error
        self._address = Address(self._address.host, server.sockets[0].getsockname()[1])
        return server

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection; where there are too many, in the place of the one that was silent longest."""
        connection = Connection(self._shared, reader, writer)
        serving = connection.run()
        if len(self._connections) >= self._limits.connections:
            waiting = [one for one in self._connections if not one.busy]
            if waiting:
                self._connections.pop(min(waiting, key=lambda one: one.active_s)).cancel()
            else:
                most = f"at most {self._limits.connections}"
                serving.close()
                serving = connection.refuse(CrowdedError("too many connections", expected=most, fix="try again later"))
        task = asyncio.create_task(serving, name="edgefuse connection")
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._forget(connection, writer))

    def _forget(self, connection: Connection, writer: asyncio.StreamWriter) -> None:
        """Let go of a connection; one that was cancelled before it began is still open."""
        self._connections.pop(connection, None)
        writer.transport.abort()


async def closed(server: asyncio.Server) -> None:
    """Listen no more. Who has come becomes a connection first: asyncio would leave it open for ever, or unanswered."""
    loop = asyncio.get_running_loop()
    for _ in range(2):
        await asyncio.sleep(0)
    with suppress(NotImplementedError):  # on Windows
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
    for _ in range(3):
        await asyncio.sleep(0)
    server.close()


def _remove(path: Path, mine: tuple[int, int]) -> None:
    """Remove the socket, unless it is that of a process that has started since."""
    with suppress(OSError):
        if identity(path) == mine:
            path.unlink()
