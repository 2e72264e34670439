"""Home Assistant's `describe` is answered within 50 ms (p99) while the model is busy.

As many clients as the queue has places ask for predictions over HTTP without a pause, so that some wait at any time.
Meanwhile `describe` is asked 1,000 times, each over a connection of its own, as Home Assistant does; beside it, as
often before, while nobody else asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from wyoming.info import Describe

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import asking, load
from benchmarks.soak_services.service import Address, Service, serving
from edgefuse.errors import MeasureError
from edgefuse.measure.statistics import percentile

EXPORTS = ("digits/recipe.toml",)
TIMES = 1_000
MOST_MS = 50.0
_QUEUE = 16
_FOREVER_S = 3600.0


def run(setting: Setting) -> Line:
    """Describe a service that has nothing to do, and one that is busy."""
    bundle = setting.bundle(*EXPORTS)
    body = asking.body(asking.inputs(bundle, "seven"))
    with serving(bundle, "--queue", str(_QUEUE)) as service, asking.Http(service.http) as client:
        idle_ms = [_described_ms(service.wyoming) for _ in setting.repeated(TIMES)]
        with _busy(service, body, client):
            before = client.figures()
            busy_ms = [_described_ms(service.wyoming) for _ in setting.repeated(TIMES)]
            after = client.figures()
    answered = after["edgefuse_queue_admitted_total"] - before["edgefuse_queue_admitted_total"]
    figures: dict[str, Any] = {"idle": _told(idle_ms), "busy": _told(busy_ms), "predictions_meanwhile": int(answered)}
    p99_ms = figures["busy"]["p99_ms"]
    return Line(line="describe", figures=figures, ok=p99_ms is not None and p99_ms <= MOST_MS and answered > 0)


def _described_ms(address: Address) -> float:
    with asking.timed() as took:
        answer = asking.asked(address, Describe().event())
    if answer is None or answer.type != "info":
        raise MeasureError("'describe' was not answered", got=answer and answer.type, expected="info")
    return 1e3 * took.seconds


def _told(times_ms: list[float]) -> dict[str, Any]:
    series = np.array(times_ms)
    return {
        "times": len(times_ms),
        "p50_ms": median(times_ms),
        "p99_ms": percentile(series, 0.99),
        "longest_ms": max(times_ms),
    }


@contextmanager
def _busy(service: Service, body: bytes, client: asking.Http) -> Iterator[None]:
    """Keep the model busy within the block."""
    host, port = service.http
    process = load.started(load.Plan(host=host, port=port, body=body, seconds=_FOREVER_S, clients=_QUEUE))
    try:
        while client.figures()["edgefuse_queue_admitted_total"] < _QUEUE:
            if process.poll() is not None:
                raise MeasureError("the generator of load failed", got=f"code {process.returncode}")
        yield
    finally:
        process.kill()
        process.communicate()
