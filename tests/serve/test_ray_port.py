"""Two commands with replicas at one port: the proxies of Ray would share it, and clients hear either."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefuse.errors import EngineError
from edgefuse.serve.ray import service
from tests.serve.test_ray_replicas import refused


@pytest.mark.skipif(sys.platform != "linux", reason="names of the system are Linux's")
def test_a_port_at_which_another_command_starts_is_taken(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    told = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    @contextmanager
    def starting(*_: object) -> Iterator[None]:
        told.append(refused(tiny_bundle, address=address))  # nobody listens yet, and nobody is bound
        raise EngineError("no cluster in this test")
        yield

    monkeypatch.setattr(service, "connected", starting)
    for _ in range(2):  # what did not start leaves the port to others
        with pytest.raises(EngineError, match="no cluster in this test"), service.serving(tiny_bundle, address=address):
            pass
    assert told == [f"the replicas cannot listen: got {address} (Address already in use)."] * 2
