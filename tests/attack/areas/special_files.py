"""Paths that lead to no regular file, or to one that is not what it was: through the library and the command line."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from PIL import Image

from edgefuse import cli
from edgefuse.bundle.spec import audio, image
from edgefuse.bundle.writer import write_bundle
from edgefuse.commands import run as _run
from edgefuse.errors import EdgefuseError, InputError
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.preprocess.array_file import read_array
from tests import tiny
from tests.attack.attempt import Area, Attempt

_DEVICES = ("zero", "null", "random", "urandom", "full", "tty", "stdin", "fd/0", "mem", "kmsg", "ptmx", "loop0", "shm")
_PSEUDO = (
    *("/proc/self/mem", "/proc/self/maps", "/proc/self/environ", "/proc/kcore", "/proc/kmsg", "/proc/self/pagemap"),
    *("/proc/sys/kernel/random/uuid", "/proc/self", "/proc/self/fd/0", "/proc/self/exe", "/proc/self/task"),
    *("/sys/kernel/notes", "/sys/kernel/mm", "/sys/class/net", "/etc/shadow", "/etc/passwd"),
)
_WARM = _run  # what the command line imports when it is called


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield each path, for each of the readers, once."""
    write_bundle(folder / "tiny.edgefuse", tiny.manifest(), tiny.contents())
    paths = list(_paths(folder))
    rng.shuffle(paths)
    for what, path in paths:
        for name, read in (("image", _image), ("audio", _audio), ("array", _array)):
            yield Attempt(f"{what} as {name}", lambda read=read, path=path: _refused(read, path))  # type: ignore[misc]
        for option in ("--image", "--motion"):
            yield Attempt(
                f"{what} after {option}",
                lambda option=option, path=path: _command(folder, option, path),  # type: ignore[misc]
            )
    for name, change in _changes().items():
        for read in (_image, _audio):
            yield Attempt(
                f"{name} while it is read",
                lambda read=read, change=change: _changed(folder, read, change),  # type: ignore[misc]
            )


def _paths(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield what each path is, and the path."""
    yield "a folder", _made(folder / "folder", lambda path: path.mkdir())
    yield "a named pipe", _made(folder / "pipe", os.mkfifo)
    yield "a named pipe that ends in .npy", _made(folder / "pipe.npy", os.mkfifo)
    yield "a link to a pipe", _made(folder / "to-pipe", lambda path: path.symlink_to(folder / "pipe"))
    yield "a socket", _made(folder / "socket", _listen)
    yield "a link to itself", _made(folder / "loop", lambda path: path.symlink_to(path))
    yield "a link to nothing", _made(folder / "nothing", lambda path: path.symlink_to(folder / "gone"))
    yield "a link to /dev/zero", _made(folder / "zero.png", lambda path: path.symlink_to("/dev/zero"))
    yield "nothing", folder / "gone"
    yield "an empty file", _made(folder / "empty", lambda path: path.touch())
    yield "a sparse terabyte", _made(folder / "sparse", lambda path: os.truncate(_touched(path), 1 << 40))
    yield "sparse megabytes", _made(folder / "large", lambda path: os.truncate(_touched(path), 200 << 20))
    yield "an unreadable file", _made(folder / "shut", lambda path: _touched(path).chmod(0))
    yield "a file below a file", folder / "empty" / "more"
    yield "a null character", "a\0b"
    yield "an empty path", ""
    yield "a path without end", "x" * 5_000
    yield "a path of folders without end", "x/" * 3_000
    yield "a path that is no UTF-8", os.fsdecode(b"\xff\xfe.png")
    yield "a path of half a pair", "\ud800"
    yield "a path that colours", "\x1b[31mred\x1b[0m\n.png"
    for name in _DEVICES:
        yield f"/dev/{name}", f"/dev/{name}"
    for name in _PSEUDO:
        yield name, name


def _made(path: Path, make: Callable[[Path], object]) -> Path:
    make(path)
    return path


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _image(path: Any) -> object:
    return Preprocessor(image("camera", height=8, width=8), lambda name: b"")(path)


def _audio(path: Any) -> object:
    return Preprocessor(audio("mic", sample_rate_hz=16_000, samples=160), lambda name: b"")(path)


def _array(path: Any) -> object:
    return read_array(path, "motion")


def _refused(read: Callable[[Any], object], path: Any) -> None:
    """Read what cannot be read, with somebody at the terminal who says nothing."""
    reading, _ = os.pipe()
    os.dup2(reading, 0)
    try:
        read(path)
    except InputError as error:
        if not str(error).isprintable() or len(str(error)) >= 600:
            raise AssertionError(ascii(str(error))) from error
        raise
    raise AssertionError("it was taken")


def _command(folder: Path, option: str, path: Any) -> None:
    """Run `edgefuse run` in this process; it must end with 2."""
    reading, _ = os.pipe()
    os.dup2(reading, 0)
    code = cli.main(["run", str(folder / "tiny.edgefuse"), f"{option}={path}"])
    assert code == EdgefuseError.exit_code, code
    raise InputError("the command line refused it")


def _changes() -> dict[str, Callable[[Path], object]]:
    """Return what may happen to a file after we looked at it, by name."""

    def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            path.unlink()
            make(path)

        return change

    return {
        "replaced by a pipe": replaced(os.mkfifo),
        "replaced by a folder": replaced(lambda path: path.mkdir()),
        "replaced by a device": replaced(lambda path: path.symlink_to("/dev/zero")),
        "removed": lambda path: path.unlink(),
        "emptied": lambda path: os.truncate(path, 0),
        "cut": lambda path: os.truncate(path, 30),
        "grown": lambda path: os.truncate(path, 1 << 40),
    }


def _changed(folder: Path, read: Callable[[Any], object], change: Callable[[Path], object]) -> None:
    """Read a file that is changed as soon as somebody has looked at it."""
    path = folder / f"{os.getpid()}.file"
    if read is _image:
        Image.new("RGB", (64, 64)).save(path, "PNG")
    else:
        soundfile.write(path, np.zeros(1_000, np.float32), 16_000, format="WAV")

    looked = Path.stat

    def stat_once(self: Path, **options: bool) -> os.stat_result:
        result = looked(self, **options)
        if str(self) == str(path) and stat.S_ISREG(result.st_mode):
            Path.stat = looked  # type: ignore[method-assign]
            change(path)
        return result

    Path.stat = stat_once  # type: ignore[method-assign]
    read(path)


AREA = Area("special_files", attempts, tries=400, short=40, max_rss_bytes=1 << 30, finite=True, taken=False)
