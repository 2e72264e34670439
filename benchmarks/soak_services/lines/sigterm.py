"""At SIGTERM under load everything that was admitted is answered, and the process ends within 5 s.

Admitted is what was read and taken into the queue, as the service itself counts it: each such request has its answer
(over HTTP 200, over Wyoming an intent) whole. Every other one is refused in a sentence, finds nobody who listens, or
its connection ends without a byte: so it is with a request that comes in the moment in which a server stops to read.

Twice as many clients as the queue has places ask without a pause, three of four over HTTP; the signal comes while the
queue is full. A further one reads the figures up to the end.
"""

from __future__ import annotations

import http.client
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from wyoming.event import Event
from wyoming.intent import Recognize

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import asking
from benchmarks.soak_services.service import Service, serving

EXPORTS = ("digits/recipe.toml",)
DEPTH = 64
END_S = 5.0
TIMES = 5
_LOAD_S = 2.0
_FULL_S, _LIMIT_S = 10.0, 60.0
_ANSWERED = ("200", "intent", "not-recognized")
_OTHERS = ("429", "503", "error: full", "error: ending", "nobody listens", "ended without a byte")


def run(setting: Setting) -> Line:
    """End services under load."""
    bundle = setting.bundle(*EXPORTS)
    body, event = asking.body(asking.inputs(bundle, "seven")), Recognize("seven").event()
    found: list[dict[str, Any]] = []
    for _ in setting.repeated(TIMES):
        with serving(bundle, "--queue", str(DEPTH)) as service:
            found.append(_ended(service, body, event))
    figures, ok = judged(found)
    return Line(line="sigterm", figures=figures, ok=ok)


def judged(found: list[dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Return the figures of all ends, and whether they show what they must.

    Args:
        found: of each end.
    """
    seen = Counter[str]()
    for one in found:
        seen += Counter(one["seen"])
    strange = sorted(set(seen) - {*_ANSWERED, *_OTHERS})
    lost = sum(max(0, one["admitted"] - one["answered"]) for one in found)
    figures = {
        "ends": len(found),
        "longest_s": max(one["seconds"] for one in found),
        "codes": sorted({one["code"] for one in found}),
        "admitted": sum(one["admitted"] for one in found),
        "answered": sum(one["answered"] for one in found),
        "in_the_queue_at_the_signal": [one["queued"] for one in found],
        "lost": lost,
        "seen": dict(sorted(seen.items())),
        "seen_wrongly": strange,
    }
    in_time = all(one["code"] == 0 and one["seconds"] <= END_S for one in found)
    return figures, in_time and not lost and not strange and all(one["queued"] for one in found)


def _ended(service: Service, body: bytes, event: Event) -> dict[str, Any]:
    """End a service under load."""
    reading = _Figures(service)
    with ThreadPoolExecutor(2 * DEPTH) as pool:
        clients = [
            pool.submit(_until_the_end, service, _http(service, body) if number % 4 else _wyoming(service, event))
            for number in range(2 * DEPTH)
        ]
        time.sleep(_LOAD_S)
        queued = reading.until_full()
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        code = _code(service.process)
        seconds = time.monotonic() - began
        seen = Counter(chain.from_iterable(one.result() for one in clients))
    answered = sum(seen[kind] for kind in _ANSWERED)
    admitted = reading.end()
    return {
        "code": code,
        "seconds": seconds,
        "queued": queued,
        "admitted": admitted,
        "answered": answered,
        "seen": seen,
    }


def _code(process: subprocess.Popen[bytes]) -> int:
    """Return with which code a process ends; it is killed if it does not."""
    try:
        return process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class _Figures:
    """Reads what a service counts, up to its end."""

    def __init__(self, service: Service) -> None:
        self._client = asking.Http(service.http)
        self._last: dict[str, float] = {}
        self._full = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def until_full(self) -> int:
        """Wait until the queue is full, and return what is in it."""
        self._full.wait(_FULL_S)
        return int(self._last["edgefuse_queue_waiting"] + self._last["edgefuse_queue_running"])

    def end(self) -> int:
        """Return how many requests were admitted, as the last answer had it."""
        self._thread.join()
        self._client.close()
        return int(self._last["edgefuse_queue_admitted_total"])

    def _read(self) -> None:
        try:
            while True:
                self._last = self._client.figures()
                if self._last["edgefuse_queue_waiting"] >= DEPTH // 2:
                    self._full.set()
        except (OSError, http.client.HTTPException):
            pass


def _until_the_end(service: Service, ask: Callable[[], str]) -> list[str]:
    """Ask again and again while the service runs; return what was seen."""
    seen = []
    while service.process.returncode is None:  # later, the port may be another's
        try:
            seen.append(ask())
        except ConnectionRefusedError:
            return [*seen, "nobody listens"]
        except (ConnectionError, http.client.RemoteDisconnected):
            seen.append("ended without a byte")
        except (http.client.HTTPException, EOFError, ValueError):
            seen.append("half an answer")
    return seen


def _http(service: Service, body: bytes) -> Callable[[], str]:
    def ask() -> str:
        answer = asking.predicted(service.http, body)
        asking.decoded(answer)
        return str(answer.status)

    return ask


def _wyoming(service: Service, event: Event) -> Callable[[], str]:
    def ask() -> str:
        answer = asking.asked(service.wyoming, event)
        if answer is None:
            return "ended without a byte"
        return f"error: {answer.data['code']}" if answer.type == "error" else answer.type

    return ask
