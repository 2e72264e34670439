"""The output of the verbs: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from edgefuse import progress
from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.commands import terminal
from edgefuse.commands.arguments import share
from edgefuse.errors import shown
from edgefuse.progress import Progress

_MAX_SIZE = 10**30
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def write(*parts: str | Iterable[str]) -> None:
    """Write to stdout: each string as a line of its own, each table line by line."""
    for part in parts or ("",):
        terminal.put([part] if isinstance(part, str) else part)


def write_json(value: Any) -> None:
    """Write a value to stdout as JSON; what is not finite becomes null."""
    try:
        document = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2).decode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        document = json.dumps(_finite(msgspec.to_builtins(value, order="deterministic")), indent=2)
    terminal.put_json(document)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def add_min_placement(parser: argparse.ArgumentParser) -> None:
    """Declare `--min-placement`, a fraction."""
    parser.add_argument(
        "--min-placement",
        type=share,
        metavar="SHARE",
        help="fail unless this share (0 to 1) of every file's operators runs where it was asked to",
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Declare `--strict`."""
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 if the machine was too busy for figures to be trusted"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Lay out rows in columns as wide as their widest cell; numbers stand to the right. Returns the lines.

    Args:
        header: one heading per column.
        rows: cells as text.
        indent: spaces before each line.
    """
    lines = [[terminal.escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [len(lines) > 1 and all(_is_number(line[column]) for line in lines[1:]) for column in range(len(header))]
    aligned = (
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        )
        for line in lines
    )
    return [" " * indent + line.rstrip() for line in aligned]


def pairs(rows: Sequence[tuple[str, str]], *, indent: int = 2) -> list[str]:
    """Lay out names and what belongs to them. Returns the lines."""
    names = [terminal.escaped(name) for name, _ in rows]
    width = max(map(len, names))
    return [f"{' ' * indent}{name.ljust(width)}  {value}" for name, (_, value) in zip(names, rows, strict=True)]


def size(size_bytes: int | None) -> str:
    """Spell a size: `1.3 MB`."""
    if size_bytes is None:
        return "-"
    size_bytes = min(size_bytes, _MAX_SIZE)  # whatever a file claims, a float can hold it
    for factor, unit in _UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def milliseconds(value: float | None) -> str:
    """Spell a latency in milliseconds with three digits that mean something; `-` where there is none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def figure(measured: Figure) -> tuple[str, ...]:
    """Spell percentiles, runs and peak memory."""
    latencies = map(milliseconds, (measured.p50_ms, measured.p90_ms, measured.p99_ms))
    return *latencies, str(measured.runs), size(measured.peak_rss_bytes)


def runtimes(machine: Machine) -> str:
    """Return the runtimes of a machine with their versions, one after the other."""
    return ", ".join(f"{name} {version}" for name, version in machine.runtimes.items())


def busy(seen: Sequence[str]) -> str:
    """Say that a machine was busy while figures were measured."""
    return f"BUSY, these figures cannot be trusted: {'; '.join(seen)}"


def percent(fraction: float) -> str:
    """Spell a fraction in percent."""
    return f"{100 * fraction:.1f}"


@contextmanager
def drawn_progress() -> Iterator[Progress]:
    """Draw progress on stderr within the block: a bar on a terminal, sparse lines otherwise."""
    drawn = progress.on(terminal.complaints())
    try:
        yield lambda done, total, what: drawn(done, total, shown(what))
    finally:
        drawn.close()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or cell[:1] in "+-"
