"""What `prepare` measured on this device, kept beside the immutable bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.bundle.spec import Record
from edgefuse.errors import MeasureError

SCHEMA = 1


class Entry(Record, frozen=True, kw_only=True):
    """Figures by rung, for one bundle (by digest) on one machine."""

    digest: str
    machine: Machine
    figures: dict[str, Figure]


class Prepared(Record, frozen=True, kw_only=True):
    """The content of the cache file."""

    schema: int = SCHEMA
    entries: tuple[Entry, ...] = ()


def path_of(bundle: Path) -> Path:
    """Return where the figures of a bundle are kept: `<bundle>.prepared.json` in the same folder."""
    resolved = bundle.resolve()
    return resolved.with_name(resolved.name + ".prepared.json")


def read(bundle: Path, digest: str) -> tuple[Entry, ...]:
    """Return what was measured of this very bundle, on all machines that shared the folder.

    Raises:
        MeasureError: if the cache file is damaged.
    """
    return tuple(entry for entry in _load(path_of(bundle)).entries if entry.digest == digest)


def write(bundle: Path, digest: str, machine: Machine, figures: Mapping[str, Figure]) -> Path:
    """Keep the figures of a bundle, in place of older ones of this machine and of other contents of the bundle.

    The file appears whole or not at all.

    Raises:
        MeasureError: if the folder cannot be written, or the cache file is damaged.
    """
    path = path_of(bundle)
    others = tuple(entry for entry in read(bundle, digest) if entry.machine != machine)
    content = Prepared(entries=(*others, Entry(digest=digest, machine=machine, figures=dict(figures))))
    data = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MeasureError(
            f"the figures cannot be kept in {path}", got=error.strerror, fix="make the folder of the bundle writable"
        ) from error
    return path


def _load(path: Path) -> Prepared:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=Prepared)
    except FileNotFoundError:
        return Prepared()
    except (OSError, msgspec.MsgspecError) as error:
        raise MeasureError(f"the figures in {path} cannot be read", got=str(error), fix="delete that file") from error
    return content if content.schema == SCHEMA else Prepared()
