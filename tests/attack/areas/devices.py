"""Devices that are not what they seem: URIs that name no device, and clients that play a hostile one.

Nothing is connected to: URIs go through the parser only, and the clients are commands of this machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from edgefuse.bundle.manifest import Machine
from edgefuse.commands import bench, console, terminal
from edgefuse.device.device import device_of
from edgefuse.device.session import DeviceSession
from edgefuse.device.tasks import Describe
from edgefuse.errors import DeviceError
from edgefuse.measure.benchmark import Benchmark
from tests.attack.attempt import Area, Attempt
from tests.attack.device_streams import (
    BEHAVIOURS,
    BENCHMARK,
    HONEST,
    MACHINE,
    Played,
    damaged,
    false_result,
    honest,
    lying,
)

_TIMEOUT_SECONDS = 0.4
_URIS, _STREAMS = 400, 260
_HOSTS = (
    *("board", "192.168.0.7", "[::1]", "[fe80::1%25eth0]", "", "-oProxyCommand=true", "--", "-", ".", "..", "~", "*"),
    *(
        "ho st",
        "ho\tst",
        "ho\nst",
        "h\0st",
        "h\x1b[31mst",
        "b\u202eoard",
        "\u0431oard",
        "\ud800",
        "[::1",
        "::1]",
        "a" * 300,
    ),
    *(
        "x" * 100_000,
        "$(id)",
        "`id`",
        "a;b",
        "a|b",
        "a&b",
        "a>b",
        "a'b",
        'a"b',
        "a\\b",
        "%h",
        "%%",
        "a,b",
        "board:22:22",
    ),
)
_USERS = (
    "",
    "me@",
    "@",
    "-l@",
    "--@",
    "me:pw@",
    ":@",
    "m e@",
    "m\ne@",
    "$(id)@",
    "DOMAIN\\me@",
    "a@b@",
    "\u00e9@",
    "u" * 9000 + "@",
)
_PORTS = (
    "",
    ":",
    ":22",
    ":0",
    ":65535",
    ":65536",
    ":-1",
    ":99999999999999999999",
    ":2 2",
    ":\u0662\u0662",
    ":0x16",
    ":22;id",
)
_TAILS = ("", "/", "//", "/folder", "?x=1", "#f", "?", "#", ";a", " ", "\n", "\0", "/../..")
_SCHEMES = (
    *("ssh://", "ssh://", "ssh://", "ssh:", "adb://", "adb:", "adb:/", "SSH://", "ftp://", "file:///", "ssh+git://"),
    *("", ":", "://", "-ssh://", "\u017fsh://", "ssh\n://", " ssh://", "javascript:", "os:", "ssh:// "),
)
_SAFE = re.compile(r"[A-Za-z0-9_\[:][A-Za-z0-9_.@:+%\\\]-]{0,999}")


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield URIs and conversations in turn, as far as there are both."""
    both = zip_longest(_uris(rng), _conversations(rng, folder))
    yield from (attempt for attempt in chain.from_iterable(both) if attempt is not None)


def _uris(rng: random.Random) -> Iterator[Attempt]:
    for _ in range(_URIS):
        uri = "".join(rng.choice(words) for words in (_SCHEMES, _USERS, _HOSTS, _PORTS, _TAILS))
        if rng.random() < 0.2:
            place = rng.randrange(len(uri) + 1)
            uri = uri[:place] + chr(rng.choice((0, 9, 10, 13, 27, 32, 45, 64, 127, 155, 0x202E, 0x1F600))) + uri[place:]
        yield Attempt(f"the URI {uri[:200]!a}", lambda uri=uri: _parsed(uri))  # type: ignore[misc]


def _parsed(uri: str) -> None:
    """Refuse a URI, or make of it a command line in which nothing could be an option, or another command."""
    with contextlib.suppress(FileNotFoundError):
        os.environ["PATH"] = "/nowhere"  # nothing is run: what the command would be is all that is asked for
    device: Any = device_of(uri)
    words = [*getattr(device, "_port", ()), getattr(device, "_host", ""), *getattr(device, "_serial", ())]
    if words == [""]:
        assert uri in ("adb:", "adb://", "adb:/", "adb:///"), "a device without a name"
        return
    host = next(word for word in reversed(words) if word)
    assert _SAFE.fullmatch(host), host
    assert all(word in ("-p", "-s") or not word.startswith("-") for word in words), words
    assert host.split("@")[-1].lower() in uri.lower()


def _conversations(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    told = honest(MACHINE)
    for number in range(_STREAMS):
        said = folder / f"{number}"
        behaviour: str = HONEST
        kind: type[Any] = Machine
        expected: object = None
        match number % 8:
            case 0:
                behaviour, data = BEHAVIOURS[(number // 8) % len(BEHAVIOURS)], rng.choice((told, told[:60], b""))
            case 1 | 2:
                data = damaged(rng, told)
            case 3 | 4 | 5:
                data = lying(rng)
            case 6:
                kind, data = rng.choice(
                    ((Machine, false_result(rng, MACHINE)), (Benchmark, false_result(rng, BENCHMARK)))
                )
            case _:
                kind, expected = rng.choice(((Machine, MACHINE), (Benchmark, BENCHMARK)))
                data = rng.choice((b"", b"no line", rng.randbytes(100_000))) + honest(expected)
        said.write_bytes(data)
        what = f"conversation {number} of {len(data)} bytes, {behaviour}: {data[:100]!r}"
        yield Attempt(what, lambda b=behaviour, s=said, k=kind, e=expected: _talk(Played(b, s), k, e))  # type: ignore[misc]


def _talk(device: Played, kind: type[Any], expected: object) -> None:
    """Ask for something, and see that nothing of the client stays, whatever came of it."""
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    session = DeviceSession(device, timeout_seconds=_TIMEOUT_SECONDS)
    try:
        with session:
            found = session.run(Describe(backends=("onnx",), threads=1), kind, {"model": bytes(300_000)})
    finally:
        _nothing_left(session, before)
    assert expected is None or found == expected, found
    _shown(found)


def _nothing_left(session: DeviceSession, before: set[str]) -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(20)
    assert threading.active_count() == 1, threading.enumerate()
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before, "open files"
    until = time.monotonic() + 20
    while _group(session._wire._process.pid):  # one that was killed may take a moment
        assert time.monotonic() < until, "processes stay"
        time.sleep(0.01)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        raise AssertionError("a child was not waited for")


def _group(number: int) -> list[str]:
    """Return the processes of a group that run; those that have ended and wait for their parent do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group, *_ = path.read_text().rpartition(") ")[2].split()
            if int(group) == number and state not in "ZX":
                found.append(path.parent.name)
    return found


def _shown(found: object) -> None:
    """Show a result as the command line does: no value of it may stop that, or reach the terminal as it is."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        if isinstance(found, Benchmark):
            try:
                bench._print(found)
            except DeviceError:
                return
        console.write_json(found)
    assert not terminal._UNSAFE_IN_JSON.search(stdout.getvalue())


AREA = Area("devices", attempts, tries=_URIS + _STREAMS, short=40)
