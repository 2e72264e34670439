"""A bundle as an application of Ray Serve."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from edgefuse.bundle.reader import open_bundle
from edgefuse.runtime.backends.choice import Backends
from edgefuse.serve.ray import ingress
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import BATCHES, LOOKUPS, Replica

LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Of all that is deployed: nothing of a request is logged, so neither its path."""
END_S = 5.0
"""In which a replica that is to end answers what it has."""
_SPARE = 2 * ingress.LOOKUPS
"""Requests beside those that wait for inference: lookups, and others, so that each is refused at once."""
_TRIES = 3
"""To make the first replica, before all is given up: what it fails by is mostly the same each time."""


def application(
    bundle: str | PathLike[str], options: Options | None = None, token: str | None = None, name: str = "bundle"
) -> Application:
    """Return an application that answers over HTTP what `edgefuse.serve.http` answers.

        serve.run(application("assistant.edgefuse", Options(replicas=4)))

    Args:
        bundle: its path, which is the same on every machine of the cluster.
        options: how it is replicated.
        token: that requests must have. Without one, requests must name the machine that they come from, and what
            listens must be reached from there alone.
        name: of the deployment of the replicas.

    Raises:
        BundleError: it cannot be read here.
    """
    options = options or Options()
    deployed = serve.deployment(
        name=f"{name}-ingress",
        max_ongoing_requests=options.depth + _SPARE,
        max_queued_requests=_SPARE,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=END_S,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LOGGING,
    )
    return deployed(ingress.Ingress).bind(replicated(bundle, options, token, name), options, token)


def replicated(
    bundle: str | PathLike[str], options: Options, token: str | None = None, name: str = "bundle"
) -> Application:
    """Return the replicas alone, for an application that has an ingress of its own: see `Replicas`.

    Args:
        bundle: its path, which is the same on every machine of the cluster. All replicas answer with the bundle that
            is there now, or not at all: its digest is pinned.
        options: how it is replicated.
        token: that requests must have.
        name: of the deployment.

    Raises:
        BundleError: it cannot be read here, or has no such rung.
        BackendError: it is for another backend.
    """
    path = Path(bundle).resolve()
    with open_bundle(path, digest=options.digest) as opened:
        digest = opened.digest
        opened.manifest.rung(options.rung)
        Backends(opened.manifest, options.backend)
    deployed = serve.deployment(
        name=name,
        num_replicas=options.replicas,
        max_ongoing_requests=BATCHES + LOOKUPS,
        max_constructor_retry_count=_TRIES,
        ray_actor_options={"num_cpus": options.threads if options.cpus is None else options.cpus},
        health_check_period_s=5.0,
        graceful_shutdown_timeout_s=END_S,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LOGGING,
    )
    return deployed(Replica).bind(str(path), digest, options, token)
