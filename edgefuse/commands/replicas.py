"""What `edgefuse serve --replicas` takes, and the service that it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from edgefuse.errors import InputError, needing


def add_replica_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    group = parser.add_argument_group("replicas (Ray Serve), on the cluster of RAY_ADDRESS or on one that is started")
    group.add_argument("--replicas", type=int, metavar="N", help="processes that answer (default: this one)")
    group.add_argument("--batch", type=int, default=8, metavar="N", help="requests handed over together (default: 8)")


@contextmanager
def replicated(arguments: argparse.Namespace, address: str) -> Iterator[dict[str, str]]:
    """Serve with replicas for the block, and yield where.

    Args:
        arguments: those above, and those of `edgefuse serve`.
        address: `HOST:PORT`.

    Raises:
        InputError: an argument is wrong, or one that does not go with replicas.
        BundleError: the bundle cannot be read.
        EngineError: the replicas do not start.
        MissingExtraError: a library is not installed.
    """
    if arguments.wyoming is not None:
        raise InputError("replicas answer over HTTP alone", got="--wyoming", fix="leave out --replicas")
    with needing("serving with replicas", extra="replicas"):
        from edgefuse.serve.http.access import read_token
        from edgefuse.serve.ray.options import Options
        from edgefuse.serve.ray.service import serving
    options = Options(
        replicas=arguments.replicas,
        threads=arguments.threads,
        batch=arguments.batch,
        depth=arguments.queue,
        body_bytes=arguments.max_body << 20,
        answer_s=arguments.timeout,
        rung=arguments.rung,
        backend=arguments.backend,
        digest=arguments.digest,
    )
    tls = (arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None
    with serving(arguments.bundle, options, address, read_token(arguments.token_file), tls) as url:
        yield {"http": url}
