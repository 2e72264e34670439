"""The application with its cluster and its address, from start to stop."""

from __future__ import annotations

import logging
import math
import random
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import TextIO

from edgefuse.errors import EngineError, InputError, cited, needing

with needing("serving with Ray", extra="replicas"):
    import ray
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve import Application
    from ray.serve.exceptions import RayServeException

    from edgefuse.cluster import connected, starts_here
    from edgefuse.serve.http.tls import Tls
    from edgefuse.serve.ray import proxy
    from edgefuse.serve.ray.application import LOGGING, application
from edgefuse.runtime.processor import checked_threads
from edgefuse.runtime.signals import available_bytes
from edgefuse.serve.http import access
from edgefuse.serve.ray.options import Options

_log = logging.getLogger(__name__)
_WATCH_S, _END_S = 5.0, 10.0
_PORTS = range(20_000, 30_000)
"""Of which one that is free is taken: Ray's own are below, and those that the system gives out above."""
_REPLICA_BYTES = 100 << 20
"""That a replica takes at least: 122 MB with the smallest bundle."""
_OURS = re.compile(r"^edgefuse\.errors\.\w+: (.+)$", re.MULTILINE)
"""A sentence of ours at the end of a traceback, as Ray hands it on."""


@contextmanager
def serving(
    bundle: str | PathLike[str],
    options: Options | None = None,
    address: str = "127.0.0.1:8000",
    token: str | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Serve a bundle for the block, and yield where.

        with serving("assistant.edgefuse", Options(replicas=2)) as url:
            print(url)

    Args:
        bundle: its path.
        options: how it is replicated.
        address: `HOST:PORT`; port 0 is any that is free.
        token: that requests must have.
        tls: the files of a certificate and of its key, for HTTPS.

    Raises:
        InputError: without a token, others than this machine could reach it; the address is wrong or taken; the files
            of a certificate are wrong; or this machine has not so many processors, or so much memory.
        BundleError: the bundle cannot be read, or has no such rung.
        BackendError: it is for another backend.
        EngineError: the cluster cannot be used, or the replicas do not start.
        MissingExtraError: Ray is not installed.
    """
    options = options or Options()
    access.address_for(address, token)
    if starts_here():
        checked_threads(options.threads)
        _check_memory(options.replicas)
    cpus = options.threads if options.cpus is None else options.cpus
    with running(application(bundle, options, token), address, math.ceil(options.replicas * cpus), tls) as url:
        yield url


@contextmanager
def running(app: Application, address: str, cpus: int, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run an application for the block, and yield where it answers; then it answers what it has, and ends.

    Args:
        app: of Ray Serve.
        address: `HOST:PORT`; port 0 is any that is free.
        cpus: of the cluster that is started on this machine, where `RAY_ADDRESS` names no other one.
        tls: the files of a certificate and of its key, for HTTPS.

    Raises:
        InputError: the address is wrong or taken, or the files of a certificate are wrong.
        EngineError: the cluster cannot be used, or the application does not start.
    """
    host, port = access.parse_address(address)
    if tls is not None and starts_here():  # else Ray's proxy reads the files on another machine, perhaps
        Tls(*tls)
    port = port or _free(host)
    listening: dict[str, object] = {"host": host, "port": port}
    if tls is not None:
        listening |= {"ssl_certfile": str(tls[0]), "ssl_keyfile": str(tls[1])}
    stack = ExitStack()
    try:
        with _taken(host, port), _aside(sys.stderr):
            stack.enter_context(connected(max(1, cpus), proxy.VARIABLES))
            _refuse_others()
            stack.callback(serve.shutdown)
            _start(app, listening, stack)
        yield access.url_of(host, port, secure=tls is not None)
    finally:
        with _aside(StringIO()):  # Ray says that it kills its controller, which it was asked for
            stack.close()


def _refuse_others() -> None:
    """Raise where Ray Serve runs already: it listens elsewhere, perhaps for all, and would end with us."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return
    raise EngineError(
        "Ray Serve runs on this cluster already",
        expected="a cluster of its own, or one without Ray Serve",
        fix="end it, or run `edgefuse.serve.ray.application.application(bundle)` beside the others yourself",
    )


def _start(app: Application, listening: dict[str, object], stack: ExitStack) -> None:
    try:
        serve.start(proxy_location="HeadOnly", http_options=listening, logging_config=LOGGING)
        stack.enter_context(watched())
        serve.run(app)
    except Exception as error:
        raise not_started(error, _status()) from error


@contextmanager
def watched() -> Iterator[None]:
    """Within the block, log why a replica does not start: Ray goes on trying, and says it to nobody."""
    ended = threading.Event()

    def watch() -> None:
        told = ""
        while not ended.wait(_WATCH_S):
            why = (_OURS.findall(_status()) or [""])[-1]
            if why not in ("", told):
                _log.warning("a replica does not start: %s", why)
            told = why

    thread = threading.Thread(target=watch, name="edgefuse-replicas", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_END_S)


def _status() -> str:
    """Return what Ray says of all that is deployed."""
    try:
        applications = serve.status().applications.values() if ray.is_initialized() else ()
    except (RayError, RayServeException):
        return ""
    return "\n".join(one.message for each in applications for one in each.deployments.values())


def not_started(error: Exception, status: str = "") -> EngineError:
    """Return the error that says why replicas do not start.

    Args:
        error: that Ray raised.
        status: what Ray says besides.
    """
    ours = _OURS.findall(f"{status}\n{error}")
    if ours:
        return EngineError(f"the replicas do not start: {ours[-1]}")
    return EngineError("the replicas do not start", got=cited(error))


@contextmanager
def _aside(said: TextIO) -> Iterator[None]:
    """Within the block, Ray says in this process only what is wrong, and not on stdout, which is for results.

    Args:
        said: where it goes.
    """
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(said):
            yield
    finally:
        logger.setLevel(before)


def _check_memory(replicas: int) -> None:
    """Raise where so many processes would take all memory: the system ends others for that, perhaps."""
    most = (available_bytes() or sys.maxsize) // _REPLICA_BYTES
    if replicas > most:
        raise InputError(
            "this machine has no memory for so many replicas",
            got=replicas,
            expected=f"at most {most}, each of {_REPLICA_BYTES >> 20} MB or more",
        )


@contextmanager
def _taken(host: str, port: int) -> Iterator[None]:
    """Within the block, in which Ray's proxy begins to listen, no other command has one begin at the same port.

    Proxies of Ray share a port, even those of different clusters. So it must be free, and stay so until the proxy
    listens, some seconds later: meanwhile a name in the system (Linux, unix(7)) stands for it, which ends with us.

    Raises:
        InputError: somebody listens there, or begins to.
    """
    if not starts_here():  # the proxy listens on another machine, perhaps
        yield
        return
    with ExitStack() as stack:
        try:
            if sys.platform == "linux":
                name = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
                name.bind(f"\0edgefuse-replicas-{port}")
            _bind(host, port)
        except OSError as error:
            why = f"{access.written(host, port)} ({error.strerror or error})"
            raise InputError("the replicas cannot listen", got=why) from error
        yield


def _bind(host: str, port: int) -> None:
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended are in nobody's way
        tried.bind((host, port))


def _free(host: str) -> int:
    """Return a port that nobody listens at."""
    for port in random.sample(_PORTS, 100):
        try:
            _bind(host, port)
        except OSError:
            continue
        return port
    raise InputError("no port is free", got=f"100 tried from {_PORTS.start} to {_PORTS.stop}", fix="name one")
