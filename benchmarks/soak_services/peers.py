"""Clients that keep to no protocol: what they send, and what they come to see.

Each has connections of its own and, where it goes on sending, a thread; both end with the block.
"""

from __future__ import annotations

import resource
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from benchmarks.soak_services.service import Address

SEES_S = 0.5
_TRIES_S = 0.05
_NETWORK_BYTES_PER_S = 125e6
_PART = b"\0" * 65_536
_SPARE_DESCRIPTORS = 256


class Peer:
    """One client, or as many as it pretends to be.

    Args:
        address: of the service.
        kind: says in a word what the service has sent: its first bytes, of which there is at least one.

    Attributes:
        seen: how many connections came to see what: what `kind` says, "ended" without a word, or "nothing yet".
    """

    def __init__(self, address: Address, kind: Callable[[bytes], str]) -> None:
        self.seen = Counter[str]()
        self._address, self._kind = address, kind
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def connect(self) -> socket.socket:
        """Open a connection."""
        found = socket.create_connection(self._address, timeout=30)
        self._sockets.append(found)
        return found

    def idle(self, count: int, most: int) -> None:
        """Open connections, and wait until the service has seen all of them.

        Args:
            count: of connections.
            most: that the service keeps; it ends those that were idle for the longest.
        """
        opened = [self.connect() for _ in range(count)]
        if count > most:
            with suppress(OSError):
                opened[count - most - 1].recv(1)

    def send(self, data: bytes) -> None:
        """Send over a connection of its own, and look at what comes back, for a moment."""
        own = self.connect()
        with suppress(OSError):  # the service may have heard enough
            own.sendall(data)
        self.look(own)

    def look(self, own: socket.socket) -> None:
        """Look at what comes back, for a moment."""
        own.settimeout(SEES_S)
        try:
            found = own.recv(4096)
            self.seen[self._kind(found) if found else "ended"] += 1
        except TimeoutError:
            self.seen["nothing yet"] += 1
        except OSError:
            self.seen["ended"] += 1

    def stream(self, begin: bytes, part: bytes = _PART, *, pause_s: float | None = None) -> None:
        """Send a beginning, and go on until the service ends the connection or the block is over; see what came.

        Args:
            begin: is sent first.
            part: is sent again and again.
            pause_s: between two parts; as a network of a gigabit would have it if None.
        """
        own = self.connect()
        own.settimeout(_TRIES_S)
        if pause_s is None:
            pause_s = len(part) / _NETWORK_BYTES_PER_S

        def go_on() -> None:
            with suppress(OSError):
                own.sendall(begin)
                while not self._over.wait(pause_s):
                    with suppress(TimeoutError):
                        own.sendall(part)
            self.look(own)

        self._threads.append(threading.Thread(target=go_on))
        self._threads[-1].start()

    def end(self) -> None:
        """Stop sending, and close all connections."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


@contextmanager
def peer(address: Address, kind: Callable[[bytes], str]) -> Iterator[Peer]:
    """Give a client, and end it after the block."""
    found = Peer(address, kind)
    try:
        yield found
    finally:
        found.end()


def allow_connections(count: int) -> None:
    """Let this process have so many connections open, if it may.

    Raises:
        ValueError: it may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + _SPARE_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + _SPARE_DESCRIPTORS, hard))
