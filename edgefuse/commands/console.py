"""What the verbs write: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from edgefuse import progress
from edgefuse.bundle.manifest import Figure
from edgefuse.progress import Progress

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def write(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def write_json(value: Any) -> None:
    """Write a value to stdout as JSON; what is not finite becomes null."""
    data = msgspec.json.encode(value, order="deterministic")
    write(msgspec.json.format(data, indent=2).decode())


def add_min_placement(parser: argparse.ArgumentParser) -> None:
    """Declare `--min-placement`, a fraction."""
    parser.add_argument(
        "--min-placement",
        type=_fraction,
        metavar="SHARE",
        help="fail unless this share (0 to 1) of every file's operators runs where it was asked to",
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Declare `--strict`."""
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 if the machine was too busy for figures to be trusted"
    )


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 2) -> str:
    """Lay out rows in columns as wide as their widest cell; numbers stand to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [len(lines) > 1 and all(_is_number(line[column]) for line in lines[1:]) for column in range(len(header))]
    aligned = (
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        )
        for line in lines
    )
    return "\n".join(" " * indent + line.rstrip() for line in aligned)


def pairs(rows: Sequence[tuple[str, str]], *, indent: int = 2) -> str:
    """Lay out names and what belongs to them."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{' ' * indent}{name.ljust(width)}  {value}" for name, value in rows)


def size(size_bytes: int | None) -> str:
    """Spell a size: `1.3 MB`."""
    if size_bytes is None:
        return "-"
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


def busy(seen: Sequence[str]) -> str:
    """Say that a machine was busy while figures were measured."""
    return f"BUSY, these figures cannot be trusted: {'; '.join(seen)}"


def percent(fraction: float) -> str:
    """Spell a fraction in percent."""
    return f"{100 * fraction:.1f}"


@contextmanager
def drawn_progress() -> Iterator[Progress]:
    """Draw progress on stderr within the block: a bar on a terminal, sparse lines otherwise."""
    shown = progress.on(sys.stderr)
    try:
        yield shown
    finally:
        shown.close()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or cell[:1] in "+-"
