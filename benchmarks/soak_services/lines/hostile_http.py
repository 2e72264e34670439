"""Hostile clients of the HTTP service: the next honest request takes at most twice its time, and nothing is kept.

Each is at work (or waits, with what it has opened) while honest requests are timed. Resident memory stays within what
bodies may take together, and does not grow from one round to the next; neither what is said nor the service's folders
hold a word that all requests have in them; no answer is a 5xx.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import secrets
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services import asking, hostility
from benchmarks.soak_services.hostility import Attack, Front
from benchmarks.soak_services.peers import Peer, allow_connections
from benchmarks.soak_services.service import Service, serving
from edgefuse.errors import MeasureError
from edgefuse.serve.http.limits import Limits

EXPORTS = ("digits/recipe.toml",)
IDLE = 1_000
REFUSALS = frozenset({"400", "408", "411", "413", "414", "415", "429", "501", "ended", "nothing yet"})
_START = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nX-Word: %s\r\n"
_JSON = b"Content-Type: application/json\r\n"
_SIDE = 10_000
_BOMB_BYTES = 100 << 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run(setting: Setting) -> Line:
    """Attack in every way, again and again."""
    bundle, secret = setting.bundle(*EXPORTS), secrets.token_hex(16)
    given = asking.inputs(bundle, f"seven {secret}")
    allow_connections(IDLE)
    with serving(bundle) as service:
        front = Front(service.http, lambda data: data[9:12].decode("ascii", "replace"), _honest(service, given))
        found = hostility.suffer(service, front, attacks(secret, given), setting.repeated(hostility.ROUNDS))
        figures, ok = hostility.judged(found, service, secret.encode(), _allowed)
    return Line(line="hostile_http", figures=figures, ok=ok)


def _allowed(attack: str) -> frozenset[str]:
    """Return what may be seen: of a WAV that claims more than it has, what it has may be answered."""
    return REFUSALS | {"200"} if attack == "claimed_wav" else REFUSALS


def _honest(service: Service, given: Mapping[str, str]) -> Any:
    """Return what asks for a prediction that is known, and sees that it comes."""
    data = asking.body(given)
    right = asking.decoded(asking.predicted(service.http, data))["outputs"]

    def ask() -> None:
        answer = asking.predicted(service.http, data)
        if answer.status != 200 or asking.decoded(answer)["outputs"] != right:
            raise MeasureError("an honest request was not answered rightly", got=answer.status, expected=200)

    return ask


def attacks(secret: str, given: Mapping[str, str]) -> dict[str, Attack]:
    """Return the attacks by name.

    Args:
        secret: a word that is in each request.
        given: what an honest client sends, by modality.
    """
    word = secret.encode()
    head = _START % word + _JSON
    sent = {
        "bad_json": [
            b'{"inputs": {"text": "' + word,
            b"[" * 500_000,
            b'{"inputs": {"text": 1e999}, "' + word + b'": 1}',
        ],
        "invalid_utf8": [b'{"inputs": {"text": "\xff\xfe ' + word + b'"}}', b"\xc3\x28" + word],
        "large_picture": [_body(image=picture())],
        "claimed_wav": [_body(audio=claimed_wav())],
        "nan_audio": [_body(audio=nan_wav()), b'{"inputs": {"audio": [[NaN]]}}', b'{"inputs": {"audio": [[1e999]]}}'],
        "bombs": [_body(image=bomb_picture()), _body(audio=claimed_array()), gzip.compress(b"\0" * _BOMB_BYTES)],
    }
    found: dict[str, Attack] = {
        name: partial(_send, requests=[_request(head, data) for data in bodies]) for name, bodies in sent.items()
    }
    return found | {
        "endless_payload": partial(_endless, head=head),
        "half_a_header": partial(_halves, head=head),
        "slow_writer": partial(_slow, head=head, data=asking.body(given)),
        "idle_connections": _idle,
        "smuggling": partial(_send, requests=[one + _request(head, b"{}") for one in smuggled(head)]),
    }


def _request(head: bytes, data: bytes) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(data) + data


def _body(**files: bytes) -> bytes:
    return json.dumps({"inputs": {name: base64.b64encode(data).decode() for name, data in files.items()}}).encode()


def _send(peer: Peer, requests: list[bytes]) -> None:
    for one in requests:
        peer.send(one)


def _endless(peer: Peer, head: bytes) -> None:
    """Bodies that are announced as too large and as just not, a head without an end, more than was announced."""
    peer.stream(head + b"Content-Length: 1000000000000\r\n\r\n")
    peer.stream(head + b"Content-Length: %d\r\n\r\n" % Limits().body_bytes)
    peer.stream(head + b"X: ", b"x" * 65_536)
    peer.stream(_request(head, b"{}"))


def _halves(peer: Peer, head: bytes) -> None:
    for half in (b"P", b"POST /v1/pre", head, head + b"X: half a hea", head + b"Content-Length: 1000\r\n\r\n{"):
        for _ in range(20):
            peer.connect().sendall(half)


def _slow(peer: Peer, head: bytes, data: bytes) -> None:
    for _ in range(20):
        peer.stream(head + b"Content-Length: %d\r\n\r\n" % len(data), data[:1], pause_s=0.05)


def _idle(peer: Peer) -> None:
    peer.idle(IDLE, Limits().connections)


def smuggled(head: bytes) -> list[bytes]:
    """Return requests that two readers may end at different places."""
    return [
        head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        head + b"Content-Length: +4\r\n\r\nabcd",
        head + b"Content-Length : 4\r\n\r\nabcd",
        head + b"Transfer-Encoding: xchunked\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        head + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        head + b"X: a\rContent-Length: 4\r\n\r\nabcd",
        head.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
        head + b"Host: elsewhere\r\nContent-Length: 0\r\n\r\n",
    ]


def picture() -> bytes:
    """Return a PNG of 100 megapixels, in about as many kilobytes."""
    size = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    return (
        _SIGNATURE
        + _chunk(b"IHDR", size)
        + _chunk(b"IDAT", zlib.compress(bytes((_SIDE + 1) * _SIDE)))
        + _chunk(b"IEND")
    )


def bomb_picture() -> bytes:
    """Return a small PNG whose text unfolds to 100 MB."""
    size = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = b"Comment\0\0" + zlib.compress(bytes(_BOMB_BYTES))
    return (
        _SIGNATURE
        + _chunk(b"IHDR", size)
        + _chunk(b"zTXt", text)
        + _chunk(b"IDAT", zlib.compress(b"\0\0"))
        + _chunk(b"IEND")
    )


def _chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claimed_wav() -> bytes:
    """Return a WAV of 100 bytes that says it has 4 GB."""
    kind = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + kind + b"data\xfe\xff\xff\xff" + bytes(56)


def nan_wav() -> bytes:
    """Return a WAV of floating-point samples that are no numbers."""
    data = np.full(16_000, np.nan, "<f4").tobytes()
    kind = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    inner = b"WAVEfmt " + struct.pack("<I", 16) + kind + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def claimed_array() -> bytes:
    """Return a `.npy` file of a few bytes that says it has 4 TB."""
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    return made.getvalue() + bytes(64)
