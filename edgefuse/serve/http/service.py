"""The service: listening, answering, and its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

from edgefuse.errors import InputError
from edgefuse.runtime.live import Live
from edgefuse.serve.http.application import Application, Parts
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.metrics import Metrics
from edgefuse.serve.http.server import Server
from edgefuse.serve.http.tls import Tls
from edgefuse.serve.http.token import Token, is_loopback
from edgefuse.serve.queue import Queue

_SPARE_THREADS = 16
_SHARE_OF_CALLS = 0.7
"""Of the time that an ending may take: what runs is waited for so long, and what is sent after that."""


@dataclass(frozen=True)
class Settings:
    """How the service answers, and to whom.

    Attributes:
        token: that requests must carry; without one the service listens on loopback alone.
        tls: a certificate and its key; plain HTTP if None.
        limits: what peers may take.
    """

    token: Token | None = None
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)


class Http:
    """A bundle behind HTTP, from when it is made until it is closed; a context manager that closes itself.

        with Live("model.edgefuse") as live, Http("127.0.0.1", 8080, Queue(live, depth=16), live) as service:
            print(service.url)

    Args:
        host: to listen at.
        port: to listen at; 0 takes a free one.
        queue: in front of the model, which stays open.
        live: has the pipeline that answers.
        settings: how it answers, and to whom.

    Attributes:
        url: where it listens.

    Raises:
        InputError: nothing can listen there, or others could reach it without a token.
    """

    def __init__(self, host: str, port: int, queue: Queue, live: Live, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        if settings.token is None and not is_loopback(host):
            raise InputError(
                "without a token, others could reach the service",
                got=host,
                expected="loopback, such as 127.0.0.1",
                fix="give a token: --token-file, or the variable EDGEFUSE_TOKEN",
            )
        self._queue = queue
        metrics = Metrics(live, queue)
        parts = Parts(live, queue, settings.limits, metrics, settings.token)
        self._given_up = parts.given_up
        self._server = Server(
            (host, port),
            Application(parts).flask,
            settings.limits,
            threads=queue.depth + _SPARE_THREADS,
            tls=settings.tls,
            refused=metrics.refused,
        )
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if settings.tls is None else 'https'}://{shown}:{self._server.port}"
        self._server.run()

    def close(self, timeout_s: float = 5.0) -> None:
        """Take no more requests, answer those that were taken, and end; closing twice is harmless.

        Args:
            timeout_s: after which what is not answered yet is given up.
        """
        until = time.monotonic() + timeout_s
        if not self._queue.drain(timeout_s * _SHARE_OF_CALLS) and not self._given_up.done():
            self._given_up.set_result(None)
        self._server.end(max(0.1, until - time.monotonic()))

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
