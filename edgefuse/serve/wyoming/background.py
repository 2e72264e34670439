"""The service in a thread of its own, for programs that have no event loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType

from edgefuse.serve.queue import Queue, Source
from edgefuse.serve.wyoming.service import Wyoming
from edgefuse.serve.wyoming.settings import Settings

_GRACE_S = 0.2
"""In which the event loop ends after its service."""


class Background:
    """Serves from when it is made until it is closed; a context manager that closes itself.

        with Background("tcp://127.0.0.1:10400", queue, live) as service:
            print(service.uri)

    Args:
        uri: `tcp://HOST:PORT` or `unix:///PATH`.
        queue: in front of the model, which stays open.
        source: of the pipeline that answers.
        settings: how it answers, and to whom.

    Attributes:
        uri: where it listens.

    Raises:
        InputError, MissingExtraError: as for `Wyoming`.
    """

    def __init__(self, uri: str, queue: Queue, source: Source, settings: Settings | None = None) -> None:
        self._service = Wyoming(uri, queue, source, settings)
        self._timeout_s = 5.0
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), name="edgefuse-wyoming", daemon=True)
        self._thread.start()
        self._loop, self._closing = self._started.result()
        self.uri = self._service.uri

    def close(self, timeout_s: float = 5.0) -> bool:
        """Listen no more, answer what was asked, and end; closing twice is harmless.

        Args:
            timeout_s: as for `Wyoming.stop`.

        Returns:
            Whether it ended: the system may still be asked for the address of a recogniser, and cannot be stopped.
        """
        if self._thread.is_alive():
            self._timeout_s = timeout_s
            with suppress(RuntimeError):  # its loop was closed already
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout_s + _GRACE_S)
        return not self._thread.is_alive()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _run(self) -> None:
        closing = asyncio.Event()
        try:
            await self._service.start()
        except BaseException as error:  # noqa: BLE001 - it is raised where the service was asked for
            self._started.set_exception(error)
            return
        self._started.set_result((asyncio.get_running_loop(), closing))
        await closing.wait()
        await self._service.stop(self._timeout_s)
