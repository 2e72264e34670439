"""Refuses what the queue has no place for before it is read: a thread that does so takes several times as long.

Python is one processor: where ten times as many requests come as can be answered, it would have no time left for those.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus

from werkzeug.exceptions import Unauthorized

from edgefuse.serve.http.faults import check_token, status
from edgefuse.serve.http.metrics import Metrics
from edgefuse.serve.http.wire import END, refusal
from edgefuse.serve.queue import Draining, Full, Queue

INFERRING = ("/v1/predict", "/v1/generate")
"""What is posted there waits for inference; everything else is answered beside it."""
_BEGINNINGS = tuple((f"POST {path}{end}".encode(), path) for path in INFERRING for end in " ?")
_GIVEN = re.compile(rb"\r\nauthorization:([^\r\n]*)\r\n", re.IGNORECASE)


class Gate:
    """Is asked whether a request may come in.

    Args:
        queue: in front of the pipeline.
        metrics: count what is refused here.
        token: that requests must have, if any.
    """

    def __init__(self, queue: Queue, metrics: Metrics, token: str | None = None) -> None:
        self._queue, self._metrics, self._token = queue, metrics, token

    def __call__(self, begun: bytearray) -> bytes | None:
        """Return the answer to a request without the token, or for which there is no place; None if it is to be read.

        Who has no token does not hear how much there is to do. So where there is one, the whole head has to come first.

        Args:
            begun: what has come of it; enough for the path.
        """
        path = next((path for beginning, path in _BEGINNINGS if begun.startswith(beginning)), None)
        if path is None:
            return None
        began = time.perf_counter()
        try:
            if self._token is not None and not self._has_token(begun, self._token):
                return None
            self._queue.check()
        except (Unauthorized, Full, Draining) as error:
            code, fields = status(error)
            self._metrics.count(path, code, time.perf_counter() - began)
            message = str(getattr(error, "description", None) or error)
            return refusal(f"{code} {HTTPStatus(code).phrase}", message, fields)
        return None

    @staticmethod
    def _has_token(begun: bytearray, token: str) -> bool:
        """Tell whether a request has the token; not yet where its head has not come.

        A field that stands twice is refused by whoever reads the request, as are heads that can be read in two ways.

        Raises:
            Unauthorized: it has none, or another one.
        """
        end = begun.find(END)
        if end < 0:
            return False
        given = _GIVEN.search(begun, 0, end + 2)
        check_token(token, given and given[1].decode("latin-1").strip())
        return True
