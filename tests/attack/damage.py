"""What happens to files on a disk: bits flip, writes stop half-way, somebody moves things; by name."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

Damage = Callable[[Path, random.Random], None]
"""Does something to a path; for a file of a folder, `of_a_file` picks one."""


def flip(path: Path, rng: random.Random) -> None:
    """Flip a bit; an empty file gets one."""
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    """Cut the end off."""
    os.truncate(path, rng.randrange(max(path.stat().st_size, 1)))


def empty(path: Path, rng: random.Random) -> None:
    """Leave nothing."""
    path.write_bytes(b"")


def garbage(path: Path, rng: random.Random) -> None:
    """Put other bytes into the same length."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


def zeros(path: Path, rng: random.Random) -> None:
    """Lose a block, as after a power cut."""
    size = path.stat().st_size
    path.write_bytes(bytes(size))


def extend(path: Path, rng: random.Random) -> None:
    """Add something."""
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 100)))


def inflate(path: Path, rng: random.Random) -> None:
    """Grow without end: a hole of a terabyte, which nobody may read."""
    os.truncate(path, 1 << 40)


def transpose(path: Path, rng: random.Random) -> None:
    """Exchange the halves."""
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 2 :] + data[: len(data) // 2])


def remove(path: Path, rng: random.Random) -> None:
    """Leave no trace."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path, rng: random.Random) -> None:
    """Put a folder there."""
    remove(path, rng)
    path.mkdir()
    if rng.random() < 0.5:
        (path / "x").write_bytes(b"x")


def file(path: Path, rng: random.Random) -> None:
    """Put a file there."""
    remove(path, rng)
    path.write_bytes(rng.choice((b"", b"{}", b"\x80\x04.", rng.randbytes(50))))


def link(path: Path, rng: random.Random) -> None:
    """Put a link there, to the same content, to something else, to nothing, or to itself."""
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    path.symlink_to(rng.choice((aside, path, "nowhere", "/dev/zero", "/", "/etc/hostname")))


def pipe(path: Path, rng: random.Random) -> None:
    """Put a pipe there, which nobody writes to."""
    remove(path, rng)
    os.mkfifo(path)


def closed(path: Path, rng: random.Random) -> None:
    """Take all rights away (which root does not need)."""
    path.chmod(0)


def more(path: Path, rng: random.Random) -> None:
    """Add a file to a folder, or a neighbour to a file."""
    place = path if path.is_dir() else path.parent
    (place / rng.choice(("x", "0.bin", "record.json", "\udcff", "a\nb", "index.json~"))).write_bytes(b"x")


def deep(path: Path, rng: random.Random) -> None:
    """Add folders within folders to a folder, or to that of a file."""
    place = path if path.is_dir() else path.parent
    (place / "/".join("d" * rng.randrange(1, 300))).mkdir(parents=True)


def of_a_file(what: Damage) -> Damage:
    """Return what does something to one file of a folder, or to a file itself."""

    def damage(path: Path, rng: random.Random) -> None:
        inside = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        what(rng.choice(inside), rng)

    return damage


CONTENT: Mapping[str, Damage] = {
    each.__name__: of_a_file(each)
    for each in (flip, truncate, empty, garbage, zeros, extend, inflate, transpose, remove, folder, link, pipe, closed)
}
"""What happens to one file."""

PLACE: Mapping[str, Damage] = {
    f"whole_{each.__name__}": each for each in (remove, folder, file, link, pipe, closed, more, deep)
}
"""What happens to a file or folder as a whole."""
