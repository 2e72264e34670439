"""Compiles that time little: what they measure is not what most tests are about, and takes most of their time.

`python -m tests.compiler.hurry compile …` is the command line that does so; with `--inductor` before the verb, torch's
compiler runs as it does for a user.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from edgefuse.cli import main
from edgefuse.compiler.timing import here
from edgefuse.measure.latency import Interleaved, single_stream


@contextmanager
def hurried(*, inductor: bool = False) -> Iterator[None]:
    """Time little, and the torch reference in eager mode alone: of a compile's 60 s these take 45.

    Args:
        inductor: let the reference be compiled all the same.
    """

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("not in this test")

    with pytest.MonkeyPatch.context() as patch:
        few = Interleaved(warmup_rounds=2, min_rounds=31, min_seconds=0.0, max_seconds=1.0)
        patch.setattr(here, "STAGE_TIMING", few)
        patch.setattr(here, "RUNG_TIMING", replace(single_stream(rounds=7, max_seconds=2.0), min_seconds=0.0))
        if not inductor:
            patch.setattr(torch, "compile", refused)
        yield


if __name__ == "__main__":
    words = sys.argv[1:]
    inductor = words[:1] == ["--inductor"]
    with hurried(inductor=inductor):
        sys.exit(main(words[inductor:]))
