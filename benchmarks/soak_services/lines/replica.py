"""A replica killed under Ray Serve: no admitted request is lost.

Two replicas answer sixteen clients, none of which asks twice; again and again one of the two is killed (SIGKILL) under
that load, and Ray puts another one in its place. Admitted is what was not refused with 429. Each has to get a right
answer: a request that was in a dead replica is asked again of the other one, by what stands in front of both.
"""

from __future__ import annotations

import base64
import http.client
import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from PIL import Image

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services.replicated import Replicated, replicated
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ImagePreprocess
from edgefuse.errors import MeasureError

EXPORTS = ("digits/recipe.toml",)
CLIENTS = 16
KILLS = 5
_BETWEEN_S = 2.0
_LIMIT_S = 120.0


class Seen(NamedTuple):
    """What a client saw: the status, 0 where nothing came; whether the answer was right; how long it took."""

    status: int
    right: bool
    seconds: float


def run(setting: Setting) -> Line:
    """Kill replicas under load."""
    return line(setting.bundle(*EXPORTS), setting.repeated(KILLS))


def line(bundle: Path, kills: Iterable[object]) -> Line:
    """Return what the clients saw.

    Args:
        bundle: that answers, from a picture.
        kills: kills a replica for each.
    """
    body = request(bundle)
    with replicated(bundle, "--replicas", "2", "--queue", str(2 * CLIENTS)) as service:
        expected = ask(service, body, None)[1]
        ended = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(_load, service, body, expected, ended) for _ in range(CLIENTS)]
            try:
                back_s = [_kill(service) for _ in kills]
                time.sleep(_BETWEEN_S)
            finally:
                ended.set()
            seen = [one for client in clients for one in client.result()]
    figures, ok = judged(seen, back_s)
    return Line(line="replica", figures=figures, ok=ok)


def judged(seen: list[Seen], back_s: list[float]) -> tuple[dict[str, Any], bool]:
    """Return the figures, and whether they show what they must.

    Args:
        seen: by all clients.
        back_s: seconds from each kill until there were two replicas again.
    """
    admitted = [one for one in seen if one.status != 429]
    lost = [one for one in admitted if one.status != 200]
    figures = {
        "kills": len(back_s),
        "admitted": len(admitted),
        "lost": len(lost),
        "wrong": sum(one.status == 200 and not one.right for one in admitted),
        "statuses": {str(status): count for status, count in sorted(Counter(one.status for one in seen).items())},
        "p50_ms": 1e3 * float(np.median([one.seconds for one in admitted])) if admitted else None,
        "longest_ms": 1e3 * max((one.seconds for one in admitted), default=0.0),
        "two_again_s": back_s,
    }
    return figures, bool(admitted) and bool(back_s) and not lost and not figures["wrong"]


def request(bundle: Path) -> bytes:
    """Return a request with noise for the first picture that a model takes.

    Raises:
        MeasureError: it takes none.
    """
    with open_bundle(bundle) as opened:
        modalities = opened.manifest.model.modalities
    for one in modalities:
        if isinstance(one.preprocess, ImagePreprocess):
            noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(noise).save(made := io.BytesIO(), "PNG")
            return msgspec.json.encode({"inputs": {one.name: base64.b64encode(made.getvalue()).decode()}})
    raise MeasureError("the model takes no picture", got=", ".join(one.name for one in modalities))


def ask(service: Replicated, body: bytes, expected: Mapping[str, Any] | None) -> tuple[Seen, Mapping[str, Any]]:
    """Ask once, and return what was seen and the outputs.

    Args:
        service: that answers.
        body: of the request.
        expected: the outputs that are right; None: any.
    """
    connection = http.client.HTTPConnection(service.host, service.port, timeout=_LIMIT_S)
    began = time.monotonic()
    status = 0
    outputs: dict[str, Any] = {}
    try:
        connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        status, data = answer.status, answer.read()
        outputs = msgspec.json.decode(data).get("outputs", {}) if status == 200 else {}
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    right = status == 200 and (expected is None or outputs == expected)
    return Seen(status, right, time.monotonic() - began), outputs


def _load(service: Replicated, body: bytes, expected: Mapping[str, Any], ended: threading.Event) -> list[Seen]:
    seen = []
    while not ended.is_set():
        seen.append(ask(service, body, expected)[0])
    return seen


def _kill(service: Replicated) -> float:
    """Kill a replica when there are two, and return the seconds until there are two again."""
    time.sleep(_BETWEEN_S)
    before = _two(service, frozenset())
    os.kill(min(before), signal.SIGKILL)
    began = time.monotonic()
    _two(service, frozenset({min(before)}))
    return time.monotonic() - began


def _two(service: Replicated, without: frozenset[int]) -> set[int]:
    until = time.monotonic() + _LIMIT_S
    while len(found := service.replicas - without) < 2:
        if time.monotonic() > until:
            raise MeasureError("a replica does not come back", expected=f"within {_LIMIT_S:g} s")
        time.sleep(0.2)
    return found
