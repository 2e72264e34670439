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

    @contextmanager
    def starting(*_: object) -> Iterator[None]:
        told.append(refused(tiny_bundle, address=address))  # nobody listens yet
        raise EngineError("no cluster in this test")
        yield

    monkeypatch.setattr(service, "connected", starting)
    with socket.socket() as kept:  # no other test is given the port, and whoever reuses addresses may have it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{kept.getsockname()[1]}"
        for _ in range(2):  # what did not start leaves the port to others
            with pytest.raises(EngineError, match="no cluster in this"), service.serving(tiny_bundle, address=address):
                pass
    assert told == [f"the replicas cannot listen: got {address} (Address already in use)."] * 2
