"""Hostile clients of the Wyoming service: the next honest request takes at most twice its time, and nothing is kept.

As `hostile_http`, with what this protocol can be given: a payload that never ends, half a header, bad JSON, a slow
writer, 1,000 idle connections, text that is no UTF-8, sound whose rate is no number, sound that nobody takes, lengths
that hide an event behind another. Pictures and files do not come over it.
"""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import Any

from wyoming.event import Event
from wyoming.intent import Recognize

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import asking, hostility
from benchmarks.soak_services.hostility import Attack, Front
from benchmarks.soak_services.peers import Peer, allow_connections
from benchmarks.soak_services.service import Service, serving
from edgefuse.errors import MeasureError
from edgefuse.serve.wyoming.limits import Limits

EXPORTS = ("digits/recipe.toml",)
IDLE = 1_000
REFUSALS = frozenset({"error", "ended", "nothing yet"})
_MEGABYTE = bytes(1 << 20)


def run(setting: Setting) -> Line:
    """Attack in every way, again and again."""
    bundle, secret = setting.bundle(*EXPORTS), secrets.token_hex(16)
    allow_connections(IDLE)
    with serving(bundle) as service:
        front = Front(service.wyoming, _kind, _honest(service, f"seven {secret}"))
        found = hostility.suffer(service, front, attacks(secret), setting.repeated(hostility.ROUNDS))
        figures, ok = hostility.judged(found, service, secret.encode(), lambda _: REFUSALS)
    return Line(line="hostile_wyoming", figures=figures, ok=ok)


def _kind(data: bytes) -> str:
    """Return the type of the first event."""
    return str(json.loads(data.partition(b"\n")[0])["type"])


def _honest(service: Service, text: str) -> Any:
    """Return what asks for an intent that is known, and sees that it comes."""
    event = Recognize(text).event()
    right = _said(asking.asked(service.wyoming, event))

    def ask() -> None:
        found = _said(asking.asked(service.wyoming, event))
        if found != right:
            raise MeasureError("an honest request was not answered rightly", got=found, expected=right)

    return ask


def _said(event: Event | None) -> tuple[str, str | None]:
    """Return the type of an answer, and the intent that it names."""
    if event is None or event.type not in ("intent", "not-recognized"):
        raise MeasureError("an honest request was not answered", got=event and event.type)
    return event.type, event.data.get("name")


def attacks(secret: str) -> dict[str, Attack]:
    """Return the attacks by name.

    Args:
        secret: a word that is in each request.
    """
    word = secret.encode()
    hidden = _event("recognize", data={"text": secret})
    sent = {
        "bad_json": [b"{" + word + b"\n", b"\n", b"[" * 50_000 + b"\n", b'{"type": 5}\n', b'{"type": "recognize"}\n'],
        "invalid_utf8": [b'{"type": "recognize", "data": {"text": "\xff\xfe' + word + b'"}}\n'],
        "claimed_lengths": [_event("recognize", payload_length=4 << 30), _event("recognize", data_length=-1)],
        "nan_audio": [
            b'{"type": "audio-start", "data": {"rate": NaN, "width": 2, "channels": 1}}\n',
            b'{"type": "audio-start", "data": {"rate": 1e999, "width": 4, "channels": 1}}\n',
            _event("audio-chunk", data={"rate": 16_000, "width": 2, "channels": 1}, payload_length=4) + b"\0\0\xc0\x7f",
        ],
        "smuggling": [
            _event("recognize", data_length=3) + hidden,
            _event("x", payload_length=10**30) + hidden,
            _event("recognize", data_length=len(hidden)) + hidden[:-1] + b"}" + hidden,
        ],
    }
    found: dict[str, Attack] = {name: partial(_send, requests=requests) for name, requests in sent.items()}
    return found | {
        "endless_payload": _endless,
        "half_a_header": partial(_halves, whole=hidden),
        "slow_writer": partial(_slow, whole=hidden),
        "idle_connections": _idle,
    }


def _event(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"


def _send(peer: Peer, requests: list[bytes]) -> None:
    for one in requests:
        peer.send(one)


def _endless(peer: Peer) -> None:
    """Events that nobody knows, each as large as may be; a line, and an event's data, that never end."""
    peer.stream(b"", _event("x", payload_length=len(_MEGABYTE)) + _MEGABYTE)
    peer.stream(b'{"type": "', b"x" * 65_536)
    peer.stream(_event("recognize", data_length=4 << 30))


def _halves(peer: Peer, whole: bytes) -> None:
    for number in range(40):
        peer.connect().sendall(whole[: 1 + number % (len(whole) - 1)])


def _slow(peer: Peer, whole: bytes) -> None:
    for _ in range(20):
        peer.stream(whole[:1], b" ", pause_s=0.05)


def _idle(peer: Peer) -> None:
    peer.idle(IDLE, Limits().connections)
