"""One part of `benchmarks/gpu.py` in a process of its own: a request as JSON on stdin, what it found into a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_reference.parts import Request, run


def main() -> None:
    """Do what is asked for; the file holds at any time all that is known, and at the end why there is no more."""
    out, known = Path(sys.argv[1]), dict[str, Any]()

    def keep(found: dict[str, Any]) -> None:
        known.update(found)
        fresh = out.with_suffix(".new")
        fresh.write_text(json.dumps(known, allow_nan=False), encoding="utf-8")
        os.replace(fresh, out)  # noqa: PTH105 - pathlib's replace says the same with more words

    keep(run(Request(**json.load(sys.stdin)), keep))


if __name__ == "__main__":
    main()
