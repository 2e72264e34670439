"""Compiles that time little: what they measure is not what most tests are about, and takes most of their time.

`python -m tests.compiler.hurry compile …` is the command line that does so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from edgefuse.cli import main
from edgefuse.compiler.timing import here
from edgefuse.measure.latency import Interleaved, single_stream


@contextmanager
def hurried() -> Iterator[None]:
    """Time little, and the torch reference in eager mode alone: of a compile's 45 s these take 35."""

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("not in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here, "STAGE_TIMING", Interleaved(warmup_rounds=2, min_rounds=31, max_seconds=1.0))
        patch.setattr(here, "RUNG_TIMING", single_stream(rounds=7, max_seconds=2.0))
        patch.setattr(torch, "compile", refused)
        yield


if __name__ == "__main__":
    with hurried():
        sys.exit(main(sys.argv[1:]))
