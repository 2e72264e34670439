"""Refuses what the queue has no place for before it is read: a thread that does so takes several times as long.

Python is one processor: where ten times as many requests come as can be answered, it would have no time left for those.
"""

from __future__ import annotations

import time
from http import HTTPStatus

from edgefuse.serve.http.faults import status
from edgefuse.serve.http.metrics import Metrics
from edgefuse.serve.http.wire import refusal
from edgefuse.serve.queue import Draining, Full, Queue

INFERRING = ("/v1/predict", "/v1/generate")
"""What is posted there waits for inference; everything else is answered beside it."""
_BEGINNINGS = tuple((f"POST {path}{end}".encode(), path) for path in INFERRING for end in " ?")


class Gate:
    """Is asked whether a request may come in.

    Args:
        queue: in front of the pipeline.
        metrics: count what is refused here.
    """

    def __init__(self, queue: Queue, metrics: Metrics) -> None:
        self._queue, self._metrics = queue, metrics

    def __call__(self, begin: bytes) -> bytes | None:
        """Return the answer to a request for which there is no place; None if it is to be read.

        Args:
            begin: its first bytes; enough for the path.
        """
        path = next((path for beginning, path in _BEGINNINGS if begin.startswith(beginning)), None)
        if path is None:
            return None
        began = time.perf_counter()
        try:
            self._queue.check()
        except (Full, Draining) as error:
            code, fields = status(error)
            self._metrics.count(path, code, time.perf_counter() - began)
            return refusal(f"{code} {HTTPStatus(code).phrase}", str(error), fields)
        return None
