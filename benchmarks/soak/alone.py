"""One line in this process: `python -m benchmarks.soak.alone MODULE OUT`, its setting as JSON on stdin."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import msgspec

from benchmarks.soak.line import Line, Setting
from edgefuse.errors import cited
from edgefuse.typed_json import decode


def line_of(module: str, setting: Setting) -> Line:
    """Run a line; whatever it raises is why it failed."""
    try:
        found: Line = importlib.import_module(module).run(setting)
    except Exception as error:  # noqa: BLE001 - a line that fails is told, and stops no other
        found = Line(line=module.rpartition(".")[2], figures={"failed": cited(error)}, ok=False)
    return found


def main() -> None:
    """Run the line that is named, and write what it came to."""
    _, module, out = sys.argv
    found = line_of(module, decode(sys.stdin.buffer.read(), Setting))
    Path(out).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
