"""A Ray cluster on this machine that speaks to itself only, and leaves nothing when it ends.

One that Ray starts as it likes asks the metadata services of three clouds where it runs (with usage statistics switched
off, too), listens on the network, keeps a token at home, and leaves its logs in the folder for temporary files.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from edgefuse.errors import EngineError, cited

LOCAL = "local"
"""In the place of an address: a cluster that is started here."""
_LONGEST_PARENT = 19  # below it stand Ray's sockets, whose paths have at most 107 bytes
_FAREWELL_SECONDS = 10


@contextmanager
def connected(cpus: int) -> Iterator[str]:
    """Connect to the cluster that `RAY_ADDRESS` names for the block, or to one that is started for it; yield which.

    Args:
        cpus: of one that is started here.

    Raises:
        EngineError: it cannot be used.
    """
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    with ExitStack() as opening:
        try:
            if address == LOCAL:
                opening.enter_context(own_cluster(cpus))
            else:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
                opening.callback(ray.shutdown)
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"the Ray cluster '{address}' cannot be used",
                got=cited(error),
                fix="correct RAY_ADDRESS, or leave it out to start a cluster on this machine",
            ) from error
        yield address


@contextmanager
def own_cluster(cpus: int) -> Iterator[None]:
    """Start a cluster with so many CPUs for the block, and connect to it.

    Raises:
        RayError, ConnectionError, RuntimeError, ValueError: if it cannot be started.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="edgefuse-", dir=parent if len(parent) <= _LONGEST_PARENT else "/tmp"))
    try:
        # An answer to where it runs, which stands where Ray looks before it asks the clouds.
        (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n", encoding="ascii")
        with _starting(folder):
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
                _node_ip_address="127.0.0.1",
            )
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        _remove(folder)


@contextmanager
def _starting(home: Path) -> Iterator[None]:
    """Give what is started within the block another home, and keep it to the network interface that leads nowhere."""
    # By these Ray keeps to itself where its clusters cannot span machines: the variable is for other processes.
    variables = {"HOME": str(home), ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", **_token()}
    before = {name: os.environ.get(name) for name in variables}
    spans = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(variables)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = spans
        for name, value in before.items():
            del os.environ[name]
            os.environ.update({} if value is None else {name: value})


def _token() -> dict[str, str]:
    """Return what tells the token that all processes of a cluster have to know, unless the user's variables do."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return {}
    users = Path.home() / ".ray" / "auth_token"
    return {"RAY_AUTH_TOKEN_PATH": str(users)} if users.is_file() else {"RAY_AUTH_TOKEN": _own_token()}


@cache
def _own_token() -> str:
    return secrets.token_hex(32)  # once: Ray remembers the first one for as long as this process lives


def _remove(folder: Path) -> None:
    """Remove the folder when the last process has written to it."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
