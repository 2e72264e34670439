"""Command lines that nobody would write: every verb, with values that are none, of the wrong kind or hostile.

Each runs in a child by `edgefuse.cli.main`, with stdout and stderr in files. It must end with 0, 1 or 2; with 2 in one
sentence; and nothing that could be a control sequence may have been written, by us or by a runtime.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import edgefuse.runtime.backends.onnx.backend  # noqa: F401 - warm
from edgefuse import cli
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import InputError
from tests import tiny
from tests.attack.attempt import Area, Attempt
from tests.attack.shown import harmless

_TRIES = 420
_AT_ONCE = 25
"""Attempts of verbs that measure and import nothing large: these are the slice for `make test`."""
_FAST = ("inspect", "run", "verify", "models", "doctor")
_UNDELIVERED = 0.1
"""Of the attempts: stdout is closed, full, or nobody reads it."""
_QUICK = ("--rounds", "1")
_TEXTS = (
    *(
        "go",
        "stop now please",
        "",
        " ",
        "\t\n",
        "\x1b[31mred\x07",
        "\u202eevil",
        "a\0b",
        "\ud800",
        "\udcff\udc9b",
        "-",
        "--",
    ),
    *(
        "x" * 200_000,
        "\u0301" * 5_000,
        "1e999",
        "$(id)",
        "%s%n",
        "{0}",
        "../../..",
        "日本",
        "\x9b2J",
        "a\nedgefuse: ok",
    ),
)
_NUMBERS = (
    *("0", "-1", "1", "2", "3", "100000", "9" * 30, "9" * 6_000, "nan", "inf", "-inf", "1e3", "1e999", "0x10", "1_0"),
    *("1.5", " 1", "\u0663", "", "one", "-0", "+1", "1\n", "18446744073709551616"),
)
_URIS = (
    *("ssh://-oProxyCommand=true", "adb:", "adb://-s", "usb://1", "ssh://127.0.0.1:1", "ssh://me@[::1]:1", "ssh:///"),
    *("ssh://127.0.0.1:0", "ssh://127.0.0.1:99999", "file:///etc/passwd", "\x1b[31m", "ssh://127.0.0.1:1/\x07"),
)
_NAMES = (
    "float",
    "small",
    "fast",
    "onnx",
    "tflite",
    "null",
    "tensorrt",
    "os",
    "single-stream",
    "digits",
    "local",
    "ray",
)
_FACTORIES = (
    "nowhere:build",
    "os:getcwd",
    "sys:exit",
    "time:sleep",
    "json",
    "json:",
    ":build",
    "a b:c",
    "os.path:join",
    "\x1b:x",
)


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield command lines."""
    paths = _paths(folder)
    for number in range(_TRIES):
        if number == _AT_ONCE:
            importlib.import_module("edgefuse.compiler")  # torch, once for all that follow
        verb = rng.choice((*cli.VERBS, "run", "inspect", "verify") if number >= _AT_ONCE else _FAST)
        if verb == "compile" and rng.random() < 0.7:
            argv = ["compile", str(_recipe(rng, folder / f"{number}.toml")), "-o", str(folder / f"out{number}")]
        else:
            argv = _words(rng, verb, paths)
        said = f"{[word[:80] for word in argv]!a}"
        if rng.random() < _UNDELIVERED:
            how = rng.choice(("closed", "full", "gone"))
            yield Attempt(f"{said}, stdout {how}", partial(_undelivered, argv, folder, how), "undelivered")
        else:
            yield Attempt(said, partial(_called, argv, folder))


def _words(rng: random.Random, verb: str, paths: Sequence[str]) -> list[str]:
    """Return a command line for a verb: some of its arguments, and perhaps some that it does not have."""
    words = [] if rng.random() < 0.02 else [verb]
    if verb == "bench":
        words += _QUICK
    for action in _actions(verb):
        if action.option_strings and not action.required and rng.random() < 0.75:
            continue
        name = rng.choice(action.option_strings) if action.option_strings else ""
        words += _given(name, "" if action.nargs == 0 else _value(rng, action, paths), rng)
    if verb in ("run", "bench") and rng.random() < 0.8:
        for modality in ("image", "text", "motion"):
            if rng.random() < 0.5:
                words += _given(f"--{modality}", rng.choice(_TEXTS if modality == "text" else paths), rng)
    if rng.random() < 0.15:
        words.insert(
            rng.randrange(len(words) + 1), rng.choice((*_TEXTS, "--x", "-x", "--json=1", "--help", "-h", "--version"))
        )
    if rng.random() < 0.05:
        rng.shuffle(words)
    return ["models", *words[1:]] if "demo" in words and "digits" in words else words  # it would be made, for minutes


def _actions(verb: str) -> list[argparse.Action]:
    (verbs,) = [a for a in cli._parser([verb])._actions if isinstance(a, argparse._SubParsersAction)]
    return [a for a in verbs.choices[verb]._actions if not isinstance(a, argparse._HelpAction) and a.dest != "rounds"]


def _given(name: str, value: str, rng: random.Random) -> list[str]:
    if not name or not value:
        return [name or value]
    return [f"{name}={value}"] if name.startswith("--") and rng.random() < 0.5 else [name, value]


def _value(rng: random.Random, action: argparse.Action, paths: Sequence[str]) -> str:
    """Return a value of the kind that an argument takes, or of another one."""
    if rng.random() < 0.05:
        return rng.choice((*_TEXTS, *_NUMBERS, *_URIS, *paths))
    if action.dest == "device":
        return rng.choice(_URIS)
    if action.dest in ("threads", "seed", "jobs", "min_placement", "device_timeout"):
        return "1" if rng.random() < 0.5 else rng.choice(_NUMBERS)
    if action.dest in ("bundle", "recipe", "out", "cache", "against"):
        return paths[0] if rng.random() < 0.8 else rng.choice(paths)
    return rng.choice(_NAMES if rng.random() < 0.6 else _TEXTS)


def _paths(folder: Path) -> list[str]:
    """Make files of all kinds; the first is a bundle."""
    bundle = folder / "tiny"
    write_bundle(bundle, tiny.manifest(), tiny.contents())
    (folder / "empty").mkdir()
    (folder / "zeros").write_bytes(bytes(10_000))
    (folder / "secret").write_bytes(b"x")
    (folder / "secret").chmod(0)
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to(bundle)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket")[-100:] if len(str(folder)) > 90 else str(folder / "socket"))
    np.save(folder / "motion.npy", np.ones((1, 4, 3), np.float32))
    np.save(folder / "wide.npy", np.ones((1, 4, 7), np.float32))
    (folder / "grey.png").write_bytes(_png(8, 8))
    (folder / "cut.png").write_bytes(_png(8, 8)[:40])
    hostile = folder / "\x1b[31m\nforged\udcff"
    hostile.write_bytes(b"no bundle")
    names = ("tiny", "tiny", "link", "empty", "zeros", "secret", "loop", "fifo", "socket", "motion.npy", "wide.npy")
    inside = ("manifest.json", "stages", "stages/fusion.float.onnx", "gone", ".")
    return [
        *(str(folder / name) for name in (*names, "grey.png", "cut.png", "gone", "gone/gone", hostile.name)),
        *(str(bundle / name) for name in inside),
        *("/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/fd/0", "/", "~", "*", "-", "a" * 300),
        "/".join(["a"] * 3_000),
    ]


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + bytes(range(width))) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _recipe(rng: random.Random, path: Path) -> Path:
    """Write a recipe that cannot be compiled: its factory is none, and some of its values are wrong."""
    values: tuple[object, ...] = (*_TEXTS[:18], 0, -1, 1.5, 10**18, True, [], ["onnx"], {}, "onnx", "nan")
    sections: dict[str, dict[str, object]] = {
        "model": {"factory": rng.choice(_FACTORIES), "weights": rng.choice(values), "assets": rng.choice(values)},
        "data": {"factory": rng.choice(_FACTORIES)},
        "compile": {"targets": rng.choice((["onnx"], ["tflite"], *values)), "threads": rng.choice((1, *values))},
        "search": {"max_drop": rng.choice((0.1, *values)), "objective": rng.choice(("size", *values))},
        "device": {"uri": rng.choice((*_URIS, *values)), "timeout_seconds": rng.choice((1, *values))},
        "recover": {"epochs": rng.choice((1, *values)), "threads": rng.choice((1, *values))},
        rng.choice(("serach", "prune", "quantize", "x")): {"narrow": rng.choice(values)},
    }
    lines = []
    for section, fields in sections.items():
        if rng.random() > (0.95 if "factory" in fields else 0.2):
            continue
        lines.append(f"[{section}]")
        kept = [pair for pair in fields.items() if pair[0] == "factory" or rng.random() < 0.3]
        lines += [f"{name} = {_toml(value)}" for name, value in kept]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return path


def _toml(value: object) -> str:
    return "nan" if value == "nan" else json.dumps(value)


def _called(argv: list[str], folder: Path) -> None:
    """Call the command line in this process, and look at how it ends and what it wrote."""
    os.chdir(folder)
    os.environ["EDGEFUSE_CACHE"] = str(folder / "cache")
    written = [_redirected(number, folder / f"stream{number}") for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    code = cli.main(argv)
    out, err = (read() for read in written)
    assert code in (0, 1, 2), f"exit code {code}: {err[-2_000:]!r}"
    assert b"Traceback" not in out + err, err[-2_000:]
    harmless(out)
    harmless(err)
    if not code and "--json" in argv and not out.startswith((b"usage", b"edgefuse")):
        json.loads(out)
    if code:
        last = err.decode().rstrip("\n").rpartition("\n")[2]
        assert ": error: " in last or last == "", last
        assert last.endswith(".") or ": error: argument " in last or "required" in last or code == 1, last
        raise InputError(f"exit code {code}", got=last)


def _undelivered(argv: list[str], folder: Path, how: str) -> None:
    """Call the command line where what it says cannot be delivered: no traceback, and no other file gets it."""
    os.chdir(folder)
    os.environ["EDGEFUSE_CACHE"] = str(folder / "cache")
    written = _redirected(2, folder / "stream2")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if how == "closed":
        os.close(1)
        sys.stdout = None
    else:
        reading, writing = os.pipe() if how == "gone" else (-1, os.open("/dev/full", os.O_WRONLY))
        os.dup2(writing, 1)
        if how == "gone":
            os.close(reading)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the rest of the process
    code = cli.main(argv)
    err = written()
    assert code in (0, 1, 2) or (how == "gone" and code == cli.BROKEN_PIPE), f"exit code {code}: {err[-2_000:]!r}"
    assert b"Traceback" not in err, err[-2_000:]
    harmless(err)
    if code:
        raise InputError(f"exit code {code}", got=err.decode()[-200:])


def _redirected(number: int, path: Path) -> Callable[[], bytes]:
    """Let a standard stream end in a file, also for what does not go through Python; return what reads it."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, number)
    replaced = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the rest of the process
    if number == 1:
        sys.stdout = replaced
    else:
        sys.stderr = replaced
    return path.read_bytes


AREA = Area("command_line", attempts, tries=_TRIES, short=_AT_ONCE)
