"""`edgefuse serve`: a bundle as a service, until a signal ends it."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from edgefuse.commands import console, terminal
from edgefuse.commands.arguments import whole
from edgefuse.errors import InputError, needing
from edgefuse.runtime.live import Live
from edgefuse.serve.queue import Queue

DEFAULT_HTTP = "127.0.0.1:8080"
_END_S = 4.5
"""From the signal to the end; service managers wait for longer, and whoever waits for an answer does not."""
_WORKERS = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "SIGHUP opens the same path again, without losing a request; SIGTERM answers what was taken and ends within 5 "
        "seconds. The token that requests must carry comes from --token-file or the variable EDGEFUSE_TOKEN; without "
        "one, only loopback is listened at. docs/serve.md describes the endpoints."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--http", metavar="HOST:PORT", help=f"where HTTP listens (default: {DEFAULT_HTTP})")
    parser.add_argument("--wyoming", metavar="URI", help="where Wyoming listens: tcp://HOST:PORT or unix:///PATH")
    parser.add_argument(
        "--queue", type=whole(1, 10_000), default=16, metavar="N", help="requests that wait or run (default: 16)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads for inference (default: 1)")
    parser.add_argument("--rung", help="the operating point (default: the bundle's)")
    parser.add_argument("--digest", help="the digest that this bundle, and every later one, must have")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that requests must carry")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="the certificate of HTTPS, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM without a password")
    parser.add_argument("--json", action="store_true", help="write the addresses as a line of JSON")


class Service(Protocol):
    """What listens somewhere, and answers over the queue."""

    def close(self, timeout_s: float) -> None:
        """Take no more requests, answer those that were taken, and end in time."""


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Serve until a signal comes."""
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InputError("a certificate and its key go together", fix="give --tls-cert and --tls-key")
    with ExitStack() as stack:
        logging.getLogger("edgefuse").setLevel(logging.INFO)  # bundles that were swapped or refused, too
        ended = stack.enter_context(_signals())
        live = stack.enter_context(
            Live(arguments.bundle, arguments.digest, rung=arguments.rung, threads=arguments.threads)
        )
        if hasattr(signal, "SIGHUP"):
            live.on_signal()
        queue = Queue(live, arguments.queue, workers=_WORKERS)
        services, addresses = _services(arguments, live, queue)
        _say(addresses, as_json=arguments.json)
        ended.wait()
        if not _end(services, queue):  # a call of a runtime still runs: it ends with the process
            stack.pop_all()
    return 0


def _need_extras(arguments: argparse.Namespace) -> None:
    """Say what is not installed before a bundle is opened."""
    if _wants_http(arguments):
        with needing("the HTTP service", extra="serve"):
            import edgefuse.serve.http.service  # noqa: F401 - imported here, for the message


def _wants_http(arguments: argparse.Namespace) -> bool:
    """Tell whether HTTP is asked for; alone it is the default."""
    return arguments.http is not None or arguments.wyoming is None


def _services(arguments: argparse.Namespace, live: Live, queue: Queue) -> tuple[list[Service], dict[str, str]]:
    """Start what was asked for, all over one queue; return it, and where each listens."""
    services: list[Service] = []
    addresses: dict[str, str] = {}
    try:
        if arguments.wyoming is not None:
            services.append(_wyoming(arguments, live, queue, addresses))
        if _wants_http(arguments):
            services.append(_http(arguments, live, queue, addresses))
    except BaseException:
        for service in services:
            service.close(0.0)
        raise
    return services, addresses


def _http(arguments: argparse.Namespace, live: Live, queue: Queue, addresses: dict[str, str]) -> Service:
    from edgefuse.serve.http.service import Http, Settings  # its extra is there: `_need_extras`
    from edgefuse.serve.http.tls import Tls
    from edgefuse.serve.http.token import token_of

    host, port = _address(arguments.http or DEFAULT_HTTP)
    tls = None if arguments.tls_cert is None else Tls(arguments.tls_cert, arguments.tls_key)
    service = Http(host, port, queue, live, Settings(token=token_of(arguments.token_file), tls=tls))
    addresses["http"] = service.url
    return service


def _wyoming(arguments: argparse.Namespace, live: Live, queue: Queue, addresses: dict[str, str]) -> Service:
    """Start the service for voice assistants; this is its place: it sets `addresses["wyoming"]`, too."""
    del live, queue, addresses
    raise InputError("this version has no Wyoming service", got=f"--wyoming {arguments.wyoming}", fix="use --http")


def _address(text: str) -> tuple[str, int]:
    """Return a host and a port; `[::1]:8080` for a number of IPv6."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in host and bare == host) or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise InputError("this is no address to listen at", got=text, expected="HOST:PORT, such as 127.0.0.1:8080")
    return bare, int(port)


def _say(addresses: dict[str, str], *, as_json: bool) -> None:
    """Write where it listens, at once: whoever started it may wait for that."""
    if as_json:
        terminal.put_json(json.dumps(addresses))
    else:
        console.write(*(f"listening at {address}" for address in addresses.values()))
    terminal.flush()


def _end(services: Sequence[Service], queue: Queue) -> bool:
    """Answer what was taken, and end, in time for all services together; return whether all was answered."""
    until = time.monotonic() + _END_S
    ending = [
        threading.Thread(target=service.close, args=(max(0.1, until - time.monotonic()),), daemon=True)
        for service in services
    ]
    for one in ending:
        one.start()
    for one in ending:
        one.join(max(0.1, until - time.monotonic()))
    answered = queue.drain(0.0)
    if answered:
        queue.close()
    return answered


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield what is set when a signal asks for the end; a second one ends at once."""
    ended = threading.Event()
    before = {one: signal.getsignal(one) for one in _SIGNALS}

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()
        signal.signal(number, signal.SIG_DFL)

    for one in _SIGNALS:
        signal.signal(one, end)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
