"""The page `docs/portability.md`: the rows as tables, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.portability.judge import Row

_TOP = """\
# Portability

The same bundles, verified and run wherever the device part of edgefuse is to work. Written by `make portability`
({items} test items); the same rows are in `out/portability.json`. A bundle is named with its folder.

- **verified**: `edgefuse verify` holds every file of the bundle to its golden vectors from torch.
- **largest error**: of the bundle's float files on their golden inputs (and of its float rung on the test items, where
  it has one) against the first row: same bundle, this machine's Python, newest runtime.
- **labels**: the share of the test items on which the default rung gives the label that it gives in the first row.
- **accuracy**: of the default rung on these items.

Emulated processors (`qemu-aarch64 -cpu …`) run the real aarch64 wheels under Debian's arm64 Python: instructions that a
processor lacks are refused, so results are those of the kernels that it would choose. Their times mean nothing and are
not shown; what a runtime does with caches, clocks and several cores is not covered. Nothing here ran on Arm hardware.
"""
_HEAD = """\
| machine | Python | runtime | verified | largest error | labels | accuracy |
|---|---|---|---|---:|---:|---:|"""


def markdown(rows: Sequence[Row], items: int, problems: Sequence[str] = ()) -> str:
    """Return the whole page."""
    parts = [_TOP.format(items=items)]
    for bundle in dict.fromkeys(row["bundle"] for row in rows):
        mine = [row for row in rows if row["bundle"] == bundle]
        lines = [f"## {bundle} (backend `{mine[0]['backend']}`)", "", _HEAD, *map(_line, mine)]
        parts.append("\n".join(lines) + "\n")
    if problems:
        parts.append("\n".join(["## What could not be put together", "", *(f"- {said}" for said in problems)]) + "\n")
    return "\n".join(parts)


def _line(row: Row) -> str:
    place = f"| {row['machine']} | {row['python']} | {row['version']} |"
    if "error" in row:
        return f"{place} **no**: {row['error'].replace('|', '/')} | | | |"
    error = "–" if row["max_abs_error"] is None else f"{row['max_abs_error']:.1e}"
    return f"{place} yes | {error} | {100 * row['label_agreement']:.1f} % | {100 * row['accuracy']:.1f} % |"
