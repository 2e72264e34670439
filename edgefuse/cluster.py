"""A Ray cluster on this machine that speaks to itself only, and leaves nothing when it ends.

One that Ray starts as it likes asks the metadata services of three clouds where it runs (with usage statistics switched
off, too), listens on the network, keeps a token at home, and leaves its logs in the folder for temporary files.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray._private import ray_constants
from ray._private.utils import psutil  # type: ignore[attr-defined] # Ray brings it along
from ray.exceptions import RayError

from edgefuse.errors import EngineError, cited

LOCAL = "local"
"""In the place of an address: a cluster that is started here."""
_LONGEST_PARENT = 19  # below it stand Ray's sockets, whose paths have at most 107 bytes
_FAREWELL_SECONDS = 10
_REACH_SECONDS = 10
_LOCK = "ray.lock"
"""In the folder of a cluster, held by whoever started it."""


def starts_here() -> bool:
    """Return whether `connected` starts a cluster on this machine, since `RAY_ADDRESS` names no other one."""
    return os.environ.get("RAY_ADDRESS") in (None, "", LOCAL)


@contextmanager
def connected(cpus: int, variables: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Connect to the cluster that `RAY_ADDRESS` names for the block, or to one that is started for it; yield which.

    Args:
        cpus: of one that is started here.
        variables: of the environment of its processes, beside those of this one.

    Raises:
        EngineError: it cannot be used, or this process uses one already.
    """
    if starts_here() and ray.is_initialized():
        raise EngineError("this process is connected to a Ray cluster already", fix="call ray.shutdown() before")
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    with ExitStack() as opening:
        try:
            _reach(address)
            if starts_here():
                opening.enter_context(own_cluster(cpus, variables))
            else:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
                opening.callback(ray.shutdown)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"the Ray cluster '{address}' cannot be used",
                got=cited(error),
                fix="correct RAY_ADDRESS, or leave it out to start a cluster on this machine",
            ) from error
        yield address


def _reach(address: str) -> None:
    """Raise an `OSError` where nobody listens at an address of the form HOST:PORT: Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()


@contextmanager
def own_cluster(cpus: int, variables: Mapping[str, str]) -> Iterator[None]:
    """Start a cluster for the block, and connect to it.

    Args:
        cpus: that it has.
        variables: of the environment of its processes, beside those of this one.

    Raises:
        RayError, OSError, RuntimeError, ValueError: if it cannot be started.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    parent = parent if len(parent) <= _LONGEST_PARENT else "/tmp"
    _sweep(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix="edgefuse-", dir=parent))
    lock = FileLock(folder / _LOCK)
    lock.acquire()
    inner = folder / "r"  # to which Ray admits everybody; the folder itself is this user's
    before = signal.getsignal(signal.SIGTERM)
    try:
        # An answer to where it runs, which stands where Ray looks before it asks the clouds.
        (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n", encoding="ascii")
        try:
            with _starting(folder, variables):
                ray.init(
                    "local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(inner),
                    _node_ip_address="127.0.0.1",
                )
            _take_sigterm(before)
            yield
        finally:
            started = [one for one in psutil.Process().children(recursive=True) if _is_rays(one, folder)]
            ray.shutdown()  # also of what was started before an error
            _end(started)
    finally:
        lock.release()
        _remove(folder)
        _take_sigterm(before)


def _sweep(parent: Path) -> None:
    """Remove what is left of clusters whose process was killed: nobody holds their locks."""
    for path in parent.glob(f"edgefuse-*/{_LOCK}"):
        with suppress(OSError, Timeout), FileLock(path, timeout=0):
            shutil.rmtree(path.parent, ignore_errors=True)


def _take_sigterm(handler: Any) -> None:
    """Have SIGTERM handled by Python: Ray's core takes it for itself, to abort with a trace of the stack.

    Args:
        handler: that was there before Ray; where it is none of Python's, and Ray runs, Ray's own, which raises.
    """
    if threading.current_thread() is threading.main_thread():
        own = signal.getsignal(signal.SIGTERM) if ray.is_initialized() and not callable(handler) else handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL if own is None else own)


def _is_rays(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return words.startswith("ray::") or str(folder) in words
    return False


def _end(processes: list[psutil.Process]) -> None:
    """End what Ray leaves when it is interrupted: its agents see only after a minute that they are alone."""
    _, alive = psutil.wait_procs(processes, _FAREWELL_SECONDS / 5)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, _FAREWELL_SECONDS / 5)


@contextmanager
def _starting(home: Path, others: Mapping[str, str]) -> Iterator[None]:
    """Give what is started within the block another home, and keep it to the network interface that leads nowhere."""
    # By these Ray keeps to itself where its clusters cannot span machines: the variable is for other processes.
    variables = {"HOME": str(home), ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", **_token(), **others}
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
    with suppress(RuntimeError):  # a user without a home, such as one that a container knows by number alone
        users = Path.home() / ".ray" / "auth_token"
        if users.is_file():
            return {"RAY_AUTH_TOKEN_PATH": str(users)}
    return {"RAY_AUTH_TOKEN": _own_token()}


@cache
def _own_token() -> str:
    return secrets.token_hex(32)  # once: Ray remembers the first one for as long as this process lives


def _remove(folder: Path) -> None:
    """Remove the folder when the last process has written to it."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
