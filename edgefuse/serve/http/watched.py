"""The connections that wait for their client: the new ones, those of which something has come, and those to end."""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any

from cheroot.connections import ConnectionManager, _ThreadsafeSelector
from cheroot.server import HTTPServer

from edgefuse.serve.http.wire import Connection

_LINGER_S = 1.0


class _Selector(_ThreadsafeSelector):
    """Knows whose each connection is: whoever took it from here.

    Cheroot goes through what was ready a moment ago. Meanwhile one of these may have been given to a thread and closed,
    and its number be that of a connection that came since.

    Attributes:
        watched: the connections by their numbers, the one that is watched for the longest first.
    """

    _selector: selectors.BaseSelector
    _lock: threading.Lock

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Any] = {}

    def register(self, fileobj: int, events: int, data: Any = None) -> None:
        """Watch a connection, or the socket that listens."""
        with self._lock:
            self._selector.register(fileobj, events, data)
            if not isinstance(data, HTTPServer):
                self.watched[fileobj] = data

    def select(self, timeout: float | None = None) -> Iterator[tuple[int, Any]]:
        """Take, one after the other, what is ready and still watched; new ones last, since they may need a place."""
        ready = [(key.fd, key.data, isinstance(key.data, HTTPServer)) for key, _ in self._selector.select(timeout)]
        for fileno, data, new in sorted(ready, key=itemgetter(2)):
            if new or self.take(fileno, data):
                yield fileno, data

    def take(self, fileno: int, data: Any) -> bool:
        """Watch a connection no more; whether it was watched."""
        with self._lock:
            if self.watched.get(fileno) is not data:
                return False
            del self.watched[fileno]
            self._selector.unregister(fileno)
        return True

    def unregister(self, fileobj: int) -> None:
        """Is called by cheroot for what `select` has taken already, and for what the system has closed."""
        with self._lock, suppress(KeyError, ValueError):
            if self.watched.pop(fileobj, None) is not None:
                self._selector.unregister(fileobj)


class Watched(ConnectionManager):
    """The connections that wait for their client.

    Args:
        server: whose they are, a `Server`.
    """

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        server.socket.setblocking(False)
        self._selector.close()
        self._selector: Any = _Selector()
        self._selector.register(server.socket.fileno(), selectors.EVENT_READ, data=server)
        self._lingering: deque[Connection] = deque()
        self._lock, self._ended = threading.Lock(), False

    def put(self, conn: Connection) -> None:
        """Watch a connection. One that lingers has nothing to say: what comes is thrown away at intervals.

        Raises:
            ValueError: this has ended, and watches no more.
        """
        if not conn.lingering:
            super().put(conn)
            return
        with self._lock:
            if self._ended:
                raise ValueError
            self._lingering.append(conn)

    @property
    def waiting(self) -> list[Connection]:
        """All that have something to say, the one that is watched for the longest first."""
        with self._selector._lock:
            return list(self._selector.watched.values())

    def accepted(self) -> Iterator[Connection]:
        """Accept what has come, as many as may be open at the most.

        Cheroot accepts one each time it looks at all of them: more than it looks a second would wait in the system.
        """
        for _ in range(self.server.limits.connections):
            try:
                new = self._from_server_socket(self.server.socket)  # type: ignore[attr-defined] # its types lack it
            except OSError:  # it has ended already, or there is no descriptor for it: others go on
                continue
            if new is None:
                return
            yield new

    def end_lingering(self) -> bool:
        """End the one that lingers for the longest; whether there is one."""
        with suppress(IndexError):
            longest = self._lingering.popleft()
            longest.discard()
            longest.close()
            return True
        return False

    def take(self, connection: Connection) -> bool:
        """Watch one no more; whether it was watched: if not, it is another thread's."""
        return bool(self._selector.take(connection.arrived.fileno(), connection))

    def stop(self) -> None:
        """Watch and listen no more; what has come up to now is given to threads: closed, it would have no answer."""
        super().stop()
        come = [one for one in self.waiting if self.take(one)]
        come += self.accepted()
        listener, self.server.socket = self.server.socket, None
        listener.close()
        for one in come:
            self.server.finish(one)
        with self._lock:
            self._ended = True
        while self.end_lingering():
            pass

    def _expire(self, threshold: float) -> None:
        """End what was idle, or lingers, for too long; a request that does not come in time is told so by a thread."""
        now = time.monotonic()
        for one in self.waiting:
            unfinished = bool(one.arrived.data)
            over = now - one.since_s > self.server.limits.read_s if unfinished else one.last_used < threshold
            if over and self.take(one):
                one.arrived.late = unfinished
                self.server.requests.put(one) if unfinished else one.close()
        for _ in range(len(self._lingering)):
            one = self._lingering.popleft()
            if one.discard() and now - one.since_s <= _LINGER_S:
                self._lingering.append(one)
            else:
                one.close()
