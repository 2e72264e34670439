"""What a hostile device says, and how its client behaves: commands that play it back on this machine."""

from __future__ import annotations

import hashlib
import json
import random
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgefuse.bundle.manifest import Machine
from edgefuse.device.agent import GREETING
from edgefuse.device.device import TIMEOUT_SECONDS
from edgefuse.errors import DeviceError
from edgefuse.measure.benchmark import Benchmark
from edgefuse.measure.latency import Summary
from edgefuse.measure.rungs import ColdStart
from edgefuse.measure.statistics import Interval

MACHINE = Machine(
    architecture="aarch64", cpu="Some CPU", cores=4, features=(), runtimes={"onnxruntime": "1"}, threads=1
)
BENCHMARK = Benchmark(
    scenario="single-stream",
    machine=MACHINE,
    inputs="golden inputs (image)",
    feature_cache=False,
    rounds=64,
    baseline=None,
    steady={"float": Summary(runs=640, mean_ms=1.0, p50_ms=0.9, p90_ms=1.2, p99_ms=None, p999_ms=None)},
    speedup={},
    speedup_over_float={"float": Interval(1.0, 0.9, 1.1)},
    cold={"float": ColdStart(10.0, 20.0, 3.0, 50_000_000, 0)},
)
MOTD = b"Welcome to this device!\nLast login: today\n"
HELLO = b"\n" + GREETING + b"{}\n"
_ESCAPES = ("\x1b]0;owned\x07", "\x9b2J", "\u202e", "\n", "\r", "\x00", "", "x" * 70_000)
_NUMBERS: tuple[Any, ...] = (
    -1,
    0,
    1,
    2**26,
    2**26 + 1,
    2**31,
    2**53 + 1,
    2**63,
    10**400,
    1e308,
    -0.5,
    "8",
    None,
    [],
    {},
)
# What the client does besides; %s is the file with what it says. The first reads on, as a device does.
HONEST = "cat %s & exec cat >/dev/null"
BEHAVIOURS = (
    "exec cat %s",  # reads nothing and ends
    "cat %s; exit 1",
    "cat %s; exit 95",
    "cat %s; exit 96",
    "cat %s; echo 'Permission denied' >&2; exit 255",
    "cat %s; kill -9 $$",
    "cat %s; exec <&-; exec sleep 60",  # closes its stdin
    "cat %s; exec >&-; exec sleep 60",  # closes its stdout
    "cat %s; exec sleep 60",  # falls silent, and reads nothing
    "trap '' HUP INT TERM; cat %s; sleep 60; sleep 60",
    "cat %s; sleep 60 & exit 0",  # leaves a process with its streams
    "cat %s & exec cat >/dev/null 2>&1",
    "cat %s; exec cat /dev/zero",  # floods
    "cat %s; exec yes",
    "cat %s; exec tr '\\0' '\\n' </dev/zero",
    "cat %s; exec cat /dev/zero >&2",
    "(cat /dev/zero >&2 &) ; cat %s & exec cat >/dev/null",
    "cat /dev/zero | head -c 50000000; cat %s & exec cat >/dev/null",  # prints megabytes first
    "yes Welcome | head -c 3000000; cat %s & exec cat >/dev/null",
    "printf 'press a key: '; cat %s & exec cat >/dev/null",  # no line of its own
    "head -c 10 >/dev/null; cat %s & exec cat >/dev/null",  # a login shell that reads a part of what is sent
    "ulimit -v 1; cat %s",
    "exit 0",
    "exec sleep 60",
)


@dataclass
class Played:
    """A device whose client is a command of this machine's shell."""

    behaviour: str
    said: Path
    folder: str = "/nowhere"

    def command(self, script: str, timeout_seconds: float = TIMEOUT_SECONDS) -> list[str]:
        """Play it back, whatever is asked for."""
        return ["sh", "-c", self.behaviour.replace("%s", shlex.quote(str(self.said)))]

    def lost(self, code: int, complaint: str) -> DeviceError | None:
        """Know nothing."""
        return None


def answer(result: bytes, **header: Any) -> bytes:
    """Return a result as an agent sends it; `header` overrides what stands before it."""
    fields = {"size": len(result), "sha256": hashlib.sha256(result).hexdigest()} | header
    return json.dumps(fields).encode() + b"\n" + result + b"\n"


def progress(done: Any, total: Any, what: Any) -> bytes:
    """Return a frame of progress."""
    return json.dumps({"progress": [done, total, what]}).encode() + b"\n"


def honest(result: object) -> bytes:
    """Return what a device says that does what it is asked for."""
    return MOTD + HELLO + progress(1, 2, "time rounds") + b"\n" + answer(msgspec.json.encode(result))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Damage a conversation: bytes are cut, changed, put in, doubled or moved."""
    edited = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place, length = rng.randrange(len(edited) + 1), rng.choice((1, 2, 16, 200))
        match rng.randrange(6):
            case 0:
                del edited[place:]
            case 1:
                edited[place : place + length] = rng.randbytes(length)
            case 2:
                edited[place:place] = rng.choice((b"\n", b"\x00", b"{}\n", b"[" * 100_000, rng.randbytes(length)))
            case 3:
                edited[place:place] = edited[place : place + length]
            case 4:
                del edited[place : place + length]
            case _:
                lines = bytes(edited).split(b"\n")
                rng.shuffle(lines)
                edited = bytearray(b"\n".join(lines))
    return bytes(edited)


def lying(rng: random.Random) -> bytes:
    """Return a conversation whose frames are whole, and say what cannot be."""
    result = msgspec.json.encode(MACHINE)
    number, text = rng.choice(_NUMBERS), rng.choice(_ESCAPES)
    frame: Callable[[], bytes] = rng.choice(
        (
            lambda: answer(result, size=number),
            lambda: answer(result, sha256=rng.choice(("", text, number))),
            lambda: answer(result, full=rng.choice((True, number))),
            lambda: answer(result, error=[text, text]),
            lambda: answer(b"", error=[text, text], full=True),
            lambda: answer(result, unknown=number),
            lambda: answer(result, progress=[1, 2, "x"]),
            lambda: progress(number, rng.choice(_NUMBERS), text) + answer(result),
            lambda: progress(1, 1, rng.choice((number, text))) * rng.choice((1, 5_000)) + answer(result),
            lambda: b"\n" * rng.choice((10, 5_000)) + answer(result),
            lambda: b"[" * rng.choice((10, 60_000, 200_000)) + b"\n",
            lambda: b'{"size":' + b"9" * rng.choice((30, 5_000)) + b"}\n",
            lambda: b"x" * 200_000 + b"\n" + answer(result),
        )
    )
    greeting = rng.choice((HELLO, HELLO, HELLO, b"\n" + GREETING + json.dumps(_greeting(rng)).encode() + b"\n"))
    return MOTD + greeting + frame()


def _greeting(rng: random.Random) -> Mapping[str, Any]:
    field = rng.choice(("python", "executable", "module", "system", "errno", "damaged", "unknown"))
    return {field: rng.choice((*_NUMBERS, *_ESCAPES, True))}


def false_result(rng: random.Random, result: object) -> bytes:
    """Return a result of the right hash in which some values are others."""
    tree = msgspec.to_builtins(result)
    for _ in range(rng.randint(1, 3)):
        node: Any = tree
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            inner = node[key]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
                node[key] = rng.choice((*_NUMBERS, *_ESCAPES))
                if isinstance(node, dict) and rng.random() < 0.2:
                    node[rng.choice(_ESCAPES)] = node.pop(key)
                break
            node = inner
    return MOTD + HELLO + answer(json.dumps(tree).encode())
