"""The application with its cluster and its address, from start to stop."""

from __future__ import annotations

import logging
import math
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from os import PathLike
from pathlib import Path

from edgefuse.errors import EngineError, InputError, cited, needing

with needing("serving with Ray", extra="replicas"):
    import ray
    from ray import serve
    from ray.serve import Application

    from edgefuse.cluster import connected
    from edgefuse.serve.ray.application import LOGGING, application
from edgefuse.serve.http import access
from edgefuse.serve.ray.options import Options

_PORTS = range(20_000, 30_000)
"""Of which one that is free is taken: Ray's own are below, and those that the system gives out above."""


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
        InputError: without a token, others than this machine could reach it; or the address is wrong.
        BundleError: the bundle cannot be read.
        EngineError: the cluster cannot be used, or the replicas do not start.
        MissingExtraError: Ray is not installed.
    """
    options = options or Options()
    access.address_for(address, token)
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
        InputError: the address is wrong.
        EngineError: the cluster cannot be used, or the application does not start.
    """
    host, port = access.parse_address(address)
    listening: dict[str, object] = {"host": host, "port": port or _free(host)}
    if tls is not None:
        listening |= {"ssl_certfile": str(tls[0]), "ssl_keyfile": str(tls[1])}
    with ExitStack() as stack:
        with _aside():
            stack.enter_context(connected(max(1, cpus)))
            _refuse_others()
            stack.callback(serve.shutdown)
            _start(app, listening)
        try:
            yield access.url_of(host, listening["port"], secure=tls is not None)
        finally:
            with _aside():
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


def _start(app: Application, listening: dict[str, object]) -> None:
    try:
        serve.start(proxy_location="HeadOnly", http_options=listening, logging_config=LOGGING)
        serve.run(app)
    except Exception as error:
        raise EngineError("the replicas do not start", got=cited(error)) from error


@contextmanager
def _aside() -> Iterator[None]:
    """Within the block, Ray says in this process only what is wrong, and not on stdout, which is for results."""
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)


def _free(host: str) -> int:
    """Return a port that nobody listens at."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(_PORTS, 100):
        with closing(socket.socket(family)) as tried:
            try:
                tried.bind((host, port))
            except OSError:
                continue
            return port
    raise InputError("no port is free", got=f"100 tried from {_PORTS.start} to {_PORTS.stop}", fix="name one")
