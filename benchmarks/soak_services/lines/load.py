"""At 1, 2 and 10 times what a service can do throughput holds, the admitted wait a bounded time, the others get 429.

Capacity is how many predictions a second come where half as many clients as the queue has places ask without a pause.
Then requests come at random times at that rate, twice and ten times that, in turn, over sockets kept and new. Held are:
the predictions a second, to those of the capacity; their p99, to the p99 of a request that finds nobody else plus the
queue's depth times its p50; the others, to 429 with Retry-After. A request that waits for this machine to send it
counts as waiting.

What is asked for takes a while: the picture is one of four megapixels, which the service makes small. A refusal costs
0.2 ms of a processor, so that ten times the requests of what takes one could hardly be sent, nor refused, by a process.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import asking, load
from benchmarks.soak_services.load import Plan, Row
from benchmarks.soak_services.service import Address, serving
from edgefuse.errors import MeasureError
from edgefuse.measure.statistics import percentile

EXPORTS = ("digits/recipe.toml",)
DEPTH = 16
TIMES = (1, 2, 10)
HOLDS = 0.8
"""Of the capacity: what must come at any load."""
ROUNDS = 3
_SIDE = 2_000
_CAPACITY_S, _LOAD_S, _ALONE = 5.0, 15.0, 1_000


def run(setting: Setting) -> Line:
    """Measure a request alone, the capacity, and each load."""
    bundle = setting.bundle(*EXPORTS)
    body = asking.body(asking.inputs(bundle, "seven", _SIDE))
    capacities: list[float] = []
    found: dict[int, list[Row]] = {times: [] for times in TIMES}
    with serving(bundle, "--queue", str(DEPTH)) as service:
        alone_ms = [_alone_ms(service.http, body) for _ in setting.repeated(_ALONE)]
        for number in setting.repeated(ROUNDS):
            for times in TIMES:
                capacities.append(_capacity_hz(service.http, body))
                rate_hz = times * capacities[-1]
                found[times] += load.rows(_plan(service.http, body, _LOAD_S, rate_hz=rate_hz, seed=number))
        rounds = number + 1
    figures, ok = judged(alone_ms, mean(capacities), {times: (rows, rounds * _LOAD_S) for times, rows in found.items()})
    return Line(line="load", figures=figures, ok=ok)


def judged(
    alone_ms: list[float], capacity_hz: float, loads: dict[int, tuple[list[Row], float]]
) -> tuple[dict[str, Any], bool]:
    """Return the figures, and whether they show what they must.

    Args:
        alone_ms: what requests took that found nobody else.
        capacity_hz: predictions a second.
        loads: by how many times the capacity it is, its requests and for how many seconds they came.
    """
    p50_ms, p99_ms = float(np.median(alone_ms)), percentile(np.array(alone_ms), 0.99)
    bound_ms = None if p99_ms is None else p99_ms + DEPTH * p50_ms
    figures: dict[str, Any] = {
        "alone_p50_ms": p50_ms,
        "alone_p99_ms": p99_ms,
        "bound_ms": bound_ms,
        "capacity_per_s": capacity_hz,
    }
    ok = bound_ms is not None
    for times, (rows, seconds) in loads.items():
        told = figures[f"{times}x"] = _told(rows, seconds)
        within = bound_ms is not None and told["p99_ms"] is not None and told["p99_ms"] <= bound_ms
        others = told["others"] == 0 and told["refused"] == told["refused_with_retry_after"]
        ok = ok and within and others and told["answered_per_s"] >= HOLDS * capacity_hz
    return figures, ok


def _told(rows: list[Row], seconds: float) -> dict[str, Any]:
    answered = [row for row in rows if row.status == 200]
    refused = [row for row in rows if row.status == 429]
    took_ms = 1e3 * np.array([row.took_s for row in answered])
    return {
        "offered_per_s": len(rows) / seconds,
        "answered_per_s": len(answered) / seconds,
        "refused": len(refused),
        "refused_with_retry_after": sum(row.retry for row in refused),
        "others": len(rows) - len(answered) - len(refused),
        "p50_ms": float(np.median(took_ms)) if answered else None,
        "p99_ms": percentile(took_ms, 0.99) if answered else None,
        "sent_late_p50_ms": 1e3 * float(np.median([row.late_s for row in rows])),
    }


def _alone_ms(address: Address, body: bytes) -> float:
    with asking.timed() as took:
        answer = asking.predicted(address, body)
    if answer.status != 200:
        raise MeasureError("an honest request was refused", got=answer.status)
    return 1e3 * took.seconds


def _capacity_hz(address: Address, body: bytes) -> float:
    """Return the answers a second, from the first second on."""
    rows = load.rows(_plan(address, body, 1 + _CAPACITY_S, clients=DEPTH // 2))
    ended = [row.due_s + row.took_s for row in rows if row.status == 200]
    return sum(1 <= one < 1 + _CAPACITY_S for one in ended) / _CAPACITY_S


def _plan(address: Address, body: bytes, seconds: float, **how: Any) -> Plan:
    host, port = address
    return Plan(host=host, port=port, body=body, seconds=seconds, **how)
