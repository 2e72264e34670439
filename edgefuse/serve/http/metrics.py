"""Figures of the service in the format of Prometheus; none of them says what was asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from edgefuse.runtime.live import Live
from edgefuse.serve.http.answers import Timing
from edgefuse.serve.queue import Queue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts requests and times, in a registry of its own.

    Args:
        live: whose bundle and rung are told.
        queue: whose length is told.
    """

    def __init__(self, live: Live, queue: Queue) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "edgefuse_http_requests",
            "Requests, by the endpoint and the status.",
            ("endpoint", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "edgefuse_seconds", "What a prediction took, by its part.", ("part",), buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter("edgefuse_tokens", "Tokens that were made.", registry=registry)
        registry.register(_State(live, queue))

    def count(self, endpoint: str, status: int) -> None:
        """Count a request that was answered."""
        self._requests.labels(endpoint, str(status)).inc()

    def refused(self, status: int) -> None:
        """Count a request that was refused before it was whole."""
        self.count("none", status)

    def time(self, timing: Timing) -> None:
        """Count what a prediction took."""
        parts = {"queue": timing.queued_ms, "preprocess": timing.preprocess_ms, "infer": timing.infer_ms}
        for part, spent_ms in parts.items():
            self._seconds.labels(part).observe(spent_ms / 1e3)

    def token(self) -> None:
        """Count a token."""
        self._tokens.inc()

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is true now, read when somebody asks."""

    def __init__(self, live: Live, queue: Queue) -> None:
        self._live, self._queue = live, queue

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Return the length of the queue, what it took and refused, and which bundle answers."""
        queue, pipeline = self._queue, self._live.pipeline
        yield GaugeMetricFamily("edgefuse_queue_waiting", "Requests that wait.", value=queue.waiting)
        yield GaugeMetricFamily("edgefuse_queue_running", "Requests that run.", value=queue.running)
        yield GaugeMetricFamily("edgefuse_queue_depth", "Requests that may wait or run.", value=queue.depth)
        yield CounterMetricFamily("edgefuse_queue_admitted", "Requests that were taken.", value=queue.admitted)
        yield CounterMetricFamily("edgefuse_queue_refused", "Requests that were not.", value=queue.refused)
        bundle = GaugeMetricFamily("edgefuse_bundle", "The bundle that answers.", labels=("model", "digest", "rung"))
        bundle.add_metric((pipeline.manifest.model.name, pipeline.digest, pipeline.rung.name), 1)
        yield bundle
