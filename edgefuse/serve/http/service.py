"""The HTTP service, from start to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from edgefuse.errors import InputError, needing
from edgefuse.serve.queue import Queue, Source

with needing("serving over HTTP", extra="serve"):
    from edgefuse.serve.http.app import make_app
    from edgefuse.serve.http.gate import Gate
    from edgefuse.serve.http.metrics import Metrics
    from edgefuse.serve.http.server import Server
    from edgefuse.serve.http.tls import Tls
from edgefuse.serve.http import access
from edgefuse.serve.http.limits import Limits


class HttpService:
    """Answers over HTTP from when it is made until it is closed; a context manager that closes itself.

        with edgefuse.Live("assistant.edgefuse", cache=False) as live:
            queue = Queue(live, depth=16)
            with HttpService("127.0.0.1:8080", queue, live) as service:
                print(service.url)

    Args:
        address: `HOST:PORT`; port 0 is any that is free.
        queue: in front of the model; it stays open.
        source: of the pipeline that answers.
        limits: of a client.
        token: that requests must have.
        tls: the files of a certificate and of its key, for HTTPS.

    Attributes:
        url: where it listens.

    Raises:
        InputError: without a token, others than this machine could reach it; the address or the files are wrong.
        MissingExtraError: what it is made of is not installed.
    """

    def __init__(
        self,
        address: str,
        queue: Queue,
        source: Source,
        limits: Limits | None = None,
        token: str | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        limits = limits or Limits()
        host, port = access.address_for(address, token)
        metrics = Metrics(queue)
        app = make_app(queue, source, limits, metrics, token)
        self._server = Server((host, port), app, limits, Gate(queue, metrics, token), Tls(*tls) if tls else None)
        try:
            self._server.prepare()
        except OSError as error:
            raise InputError("the HTTP service cannot listen", got=f"{address} ({error.strerror or error})") from error
        bound = self._server.socket.getsockname()[1]
        self.url = access.url_of(host, bound, secure=tls is not None)
        self._thread = threading.Thread(target=self._server.serve, name="edgefuse-http", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Listen no more, and end the connections after the answers that are under way. Twice is harmless.

        Returns:
            Whether all of them ended in time.
        """
        ending = threading.Thread(target=self._server.stop, name="edgefuse-http-stop", daemon=True)
        ends = time.monotonic() + timeout_s
        ending.start()
        ending.join(timeout_s)
        self._thread.join(max(0.0, ends - time.monotonic()))
        return not ending.is_alive() and not self._thread.is_alive()

    def __enter__(self) -> HttpService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
