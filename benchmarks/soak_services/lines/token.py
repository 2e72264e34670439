"""How long a wrong token is looked at tells nothing of the right one: 10,000 of them, over the wire.

Wrong tokens of the right length begin like the right one for 0, 1, a half and all but 1 of its characters. One of each
kind is sent in turn, in random order, over one connection, 2,500 times. Friedman's test says how probable differences
as large as those found are where the kinds do not matter.
"""

from __future__ import annotations

import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.soak.line import Line, Setting
from benchmarks.soak_services.service import Address, serving
from edgefuse.errors import MeasureError

EXPORTS = ("digits/recipe.toml",)
BLOCKS = 2_500
ALPHA = 1e-4
"""The probability at which kinds are said to differ; so often, that would be wrong."""
_LEAST_BLOCKS = 100


def run(setting: Setting) -> Line:
    """Time wrong tokens, and see whether they can be told apart."""
    token = secrets.token_urlsafe(32)
    kinds = wrong(token)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "token"
        path.write_text(token, encoding="ascii")
        with serving(setting.bundle(*EXPORTS), "--token-file", str(path)) as service:
            rows = list(_timed(service.http, list(kinds.values()), setting))
    figures, ok = judged(np.array(rows), tuple(kinds))
    return Line(line="token", figures=figures, ok=ok)


def wrong(token: str) -> dict[int, str]:
    """Return wrong tokens, by how many characters they begin with as the right one does."""
    other = "".join("b" if one == "a" else "a" for one in token)
    return {same: token[:same] + other[same:] for same in (0, 1, len(token) // 2, len(token) - 1)}


def judged(times_ns: npt.NDArray[np.int64], kinds: tuple[int, ...]) -> tuple[dict[str, Any], bool]:
    """Return the figures, and whether the kinds can not be told apart.

    Args:
        times_ns: int64 [blocks, kinds].
        kinds: how many characters are right.
    """
    found = stats.friedmanchisquare(*times_ns.T)
    medians_us = np.median(times_ns, axis=0) / 1e3
    differences_us = (times_ns[:, 1:] - times_ns[:, :1]) / 1e3
    figures = {
        "tokens": times_ns.size,
        "p50_us_by_right_characters": dict(zip(map(str, kinds), map(float, medians_us), strict=True)),
        "largest_median_difference_us": float(np.abs(np.median(differences_us, axis=0)).max()),
        "friedman_chi_square": float(found.statistic),
        "p_value": float(found.pvalue),
    }
    return figures, bool(found.pvalue >= ALPHA)


def _timed(address: Address, tokens: list[str], setting: Setting) -> Iterator[list[int]]:
    """Yield what each kind took, in ns, block after block."""
    rng = np.random.default_rng(0)
    head = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
    requests = [head % token.encode() for token in tokens]
    with socket.create_connection(address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in _at_least(setting, BLOCKS):
            took_ns = [0] * len(requests)
            for kind in rng.permutation(len(requests)):
                took_ns[kind] = _one_ns(connection, requests[kind])
            yield took_ns


def _at_least(setting: Setting, times: int) -> Iterator[int]:
    """Yield numbers as `setting.repeated` does, and so many that the test can say something."""
    yield from range(_LEAST_BLOCKS)
    yield from setting.repeated(times - _LEAST_BLOCKS)


def _one_ns(connection: socket.socket, request: bytes) -> int:
    began = time.perf_counter_ns()
    connection.sendall(request)
    answer = connection.recv(4096)
    took = time.perf_counter_ns() - began
    while b"}}" not in answer:  # its body may come in a second part
        answer += connection.recv(4096)
    if answer[9:12] != b"401":
        raise MeasureError("a wrong token was not refused", got=answer[9:12].decode(), expected=401)
    return took
