"""`edgefuse serve`: answer with a bundle until the process is told to end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edgefuse.commands import console, terminal
from edgefuse.commands.replicas import add_replica_arguments, replicated
from edgefuse.commands.voice import add_voice_arguments, need_voice, start_voice
from edgefuse.errors import InputError
from edgefuse.runtime.live import Live

if TYPE_CHECKING:
    from edgefuse.serve.queue import Queue

_HTTP = "127.0.0.1:8080"
_SPARE_THREADS = 16
"""Of HTTP, beside one for each place in the queue: else the next request would wait unseen, and not get its 429."""
_END_S = 4.5
"""From a signal to the end: whoever starts services waits for a while and kills then."""
_LAST_S = 0.3
"""After it, in which what was opened is closed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "SIGTERM and Ctrl-C end it after the answers to all that was admitted. SIGHUP opens the same path again and "
        "answers with what is there now (with --replicas it does nothing). The token comes from --token-file, or from "
        "EDGEFUSE_TOKEN; without one, only this machine is served."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--http", metavar="HOST:PORT", help=f"serve HTTP there; port 0: any (default: {_HTTP}, unless --wyoming)"
    )
    parser.add_argument("--wyoming", metavar="URI", help="serve voice assistants there: tcp://HOST:PORT, unix:///PATH")
    parser.add_argument("--queue", type=int, default=16, metavar="N", help="requests at a time (default: 16)")
    parser.add_argument("--threads", type=int, default=1, help="threads for inference (default: 1)")
    parser.add_argument("--rung", help="the operating point (default: the bundle's)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the token that HTTP requests must have")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="a certificate (PEM): serve HTTPS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--max-body", type=int, default=16, metavar="MB", help="of a request (default: 16)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="until an answer (default: 30)")
    add_voice_arguments(parser)
    add_replica_arguments(parser)
    parser.add_argument("--json", action="store_true", help="write the addresses as a line of JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Serve until a signal comes, answer what was admitted, and end."""
    from edgefuse.serve.memory import give_back_large_blocks
    from edgefuse.serve.queue import Queue

    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InputError("HTTPS takes a certificate and its key", expected="--tls-cert and --tls-key")
    if arguments.replicas is not None:
        return _serve_replicas(arguments)
    _need(arguments)
    give_back_large_blocks()
    with _punctual() as leave, ExitStack() as stack:
        live = stack.enter_context(_opened(arguments))
        ended = stack.enter_context(_signals())  # until then nothing is admitted, and they end the process
        if hasattr(signal, "SIGHUP"):
            live.on_signal()
        queue = Queue(live, arguments.queue, workers=2, deadline_s=arguments.timeout)
        stack.callback(queue.close)
        addresses, closers = _start(arguments, queue, live)
        _announce(addresses, as_json=arguments.json)
        ended.get()
        leave.start()
        if not _end(queue, closers):
            _leave()
    return 0


def _serve_replicas(arguments: argparse.Namespace) -> int:
    """Serve with replicas until a signal comes; one that comes while they start ends the start."""
    try:
        with _without_hangup(), replicated(arguments, arguments.http or _HTTP) as addresses, _signals() as ended:
            _announce(addresses, as_json=arguments.json)
            with redirect_stdout(sys.stderr):  # what Ray says meanwhile is no result
                ended.get()
    except SystemExit as end:
        if end.code != signal.SIGTERM:  # as which Ray raises that signal
            raise
    return 0


@contextmanager
def _punctual() -> Iterator[threading.Timer]:
    """Give a timer that ends the process if the block goes on for too long after it was started.

    Whatever is closed there may wait: a bundle that is being opened in the place of another one is opened first.
    """
    timer = threading.Timer(_END_S + _LAST_S, _leave)
    timer.daemon = True
    try:
        yield timer
    finally:
        timer.cancel()


def _leave() -> None:
    """End the process with all its threads, which would keep it."""
    terminal.complain("edgefuse: some answers did not end in time, or what was opened could not be closed")
    terminal.flush()
    os._exit(1)


def _opened(arguments: argparse.Namespace) -> Live:
    """Open the bundle. It remembers no features: they are of a request, and a faster answer would tell of it."""
    return Live(
        arguments.bundle,
        arguments.digest,
        rung=arguments.rung,
        backend=arguments.backend,
        threads=arguments.threads,
        cache=False,
    )


def _need(arguments: argparse.Namespace) -> None:
    """Import what the services take: a library that is missing is told of before a bundle is opened."""
    if arguments.wyoming is not None:
        need_voice()
    if _speaks_http(arguments):
        import edgefuse.serve.http.service  # noqa: F401


def _speaks_http(arguments: argparse.Namespace) -> bool:
    return arguments.http is not None or arguments.wyoming is None


def _start(
    arguments: argparse.Namespace, queue: Queue, live: Live
) -> tuple[dict[str, str], list[Callable[[float], object]]]:
    """Start the services that were asked for; return where they listen, and what ends them within some seconds."""
    addresses: dict[str, str] = {}
    closers: list[Callable[[float], object]] = []
    try:
        if arguments.wyoming is not None:
            voice = start_voice(arguments, queue, live)
            addresses["wyoming"] = voice.uri
            closers.append(voice.close)
        if _speaks_http(arguments):
            from edgefuse.serve.http.access import read_token
            from edgefuse.serve.http.limits import BODIES, Limits
            from edgefuse.serve.http.service import HttpService

            body_bytes = arguments.max_body << 20
            limits = Limits(
                body_bytes=body_bytes,
                bodies_bytes=BODIES * body_bytes,
                answer_s=arguments.timeout,
                threads=queue.depth + _SPARE_THREADS,
            )
            tls = (arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None
            token = read_token(arguments.token_file)
            http = HttpService(arguments.http or _HTTP, queue, live, limits, token, tls)
            addresses["http"] = http.url
            closers.append(http.close)
    except BaseException:
        for close in closers:
            close(1.0)
        raise
    return addresses, closers


def _announce(addresses: dict[str, str], *, as_json: bool) -> None:
    """Say where the services listen, at once: whoever started them reads it."""
    if as_json:
        console.write(json.dumps(addresses))
    else:
        console.write(*(f"serving {name} at {address}" for name, address in addresses.items()))
    terminal.flush()


@contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """Within the block, SIGTERM and SIGINT are put into the queue that is given, instead of what they do else."""
    ended: SimpleQueue[int] = SimpleQueue()  # its `put` may interrupt its `get`; an event would wait for itself
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.signal(kind, lambda number, _: ended.put(number)) for kind in kinds}
    try:
        yield ended
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _without_hangup() -> Iterator[None]:
    """Within the block, SIGHUP does nothing: it would end the process, and what was admitted with it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN) if hasattr(signal, "SIGHUP") else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGHUP, before)


def _end(queue: Queue, closers: Sequence[Callable[[float], object]]) -> bool:
    """Answer what was admitted, and end the services; whether all of it ended in time."""
    ends = time.monotonic() + _END_S
    whole = queue.drain(_END_S - 1.5)
    for close in closers:
        whole = close(max(0.2, ends - time.monotonic())) is not False and whole
    return whole
