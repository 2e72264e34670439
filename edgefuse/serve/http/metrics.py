"""Counters and times for Prometheus, in a registry of the service's own: nothing of what a request holds."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgefuse.serve.queue import Queue

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _OfQueue(Collector):
    """Reads the queue's counters when they are asked for."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        queue = self._queue
        yield GaugeMetricFamily("edgefuse_queue_waiting", "Requests that wait for their turn.", queue.waiting)
        yield GaugeMetricFamily("edgefuse_queue_running", "Requests that are being answered.", queue.running)
        yield GaugeMetricFamily("edgefuse_queue_depth", "Requests that may wait or run.", queue.depth)
        yield GaugeMetricFamily("edgefuse_call_p50_seconds", "Median time of the latest calls.", queue.p50_s)
        for name, help_ in (
            ("admitted", "Requests that were taken."),
            ("refused", "Requests that were not, since the queue was full or ended."),
            ("expired", "Requests that waited for too long."),
        ):
            yield CounterMetricFamily(f"edgefuse_queue_{name}", help_, getattr(queue, name))


class Metrics:
    """What `/metrics` tells.

    Args:
        queue: in front of the pipeline.
    """

    def __init__(self, queue: Queue) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfQueue(queue))
        self._requests = Counter(
            "edgefuse_http_requests",
            "By endpoint and status.",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "edgefuse_http_request_seconds",
            "Time from the header of a request to that of its answer.",
            ("endpoint",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    def count(self, endpoint: str, status: int, took_s: float) -> None:
        """Count a request.

        Args:
            endpoint: its path, one of a few.
            status: of the answer.
            took_s: from one header to the other.
        """
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(took_s)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
