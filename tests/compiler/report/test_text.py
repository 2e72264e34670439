"""Sentences of a report, on figures that are invented TEST DATA."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgefuse.compiler.report.text import slower_than_torch
from edgefuse.compiler.rungs.final import Ratio, RungTiming, Timings
from edgefuse.compiler.search import StageFigure
from edgefuse.compiler.timing.timer import FLOAT_RUNG


def figure(stage: str, p50: float, scheme: str = "float") -> StageFigure:
    return StageFigure(
        stage=stage,
        candidate=f"{stage}.{scheme}",
        scheme=scheme,
        p50=p50,
        p50_ci95=(p50, p50),
        speedup=1.0,
        speedup_ci95=(1.0, 1.0),
        size_bytes=1,
        snr_db=90.0,
        is_float=scheme == "float",
    )


def made(speedup: Ratio | None, *, unit: Any = "ms", stages: bool = True, float_rung: str = FLOAT_RUNG) -> Any:
    """A target whose image encoder is slower than torch, and whose fusion is faster."""
    figures = [figure("image_encoder", 4.0), figure("image_encoder", 9.0, "fp16"), figure("fusion", 0.5)]
    timings = Timings(
        reference="torch eager",
        reference_p50_ms=3.0,
        reference_stages_ms={"image_encoder": 2.5, "fusion": 0.75} if stages else {},
        rungs={"onnx": {float_rung: RungTiming(speedup=speedup, speedup_over_float=Ratio(ratio=1.0, ci95=(1.0, 1.0)))}},
        unit=unit,
    )
    return SimpleNamespace(timings=timings, results={"onnx": SimpleNamespace(figures=figures)})


SLOWER = Ratio(ratio=0.71, ci95=(0.68, 0.74))


def test_float_files_that_are_slower_than_torch_are_said_with_the_stages_that_are() -> None:
    assert slower_than_torch(made(SLOWER), "onnx") == (
        "onnx: the float files are slower than torch (0.71 times as fast): image_encoder 4.00 ms against 2.50."
    )
    assert slower_than_torch(made(SLOWER, stages=False), "onnx") == (
        "onnx: the float files are slower than torch (0.71 times as fast)."
    )


@pytest.mark.parametrize(
    "compiled",
    [
        made(Ratio(ratio=0.98, ci95=(0.95, 1.02))),
        made(Ratio(ratio=1.4, ci95=(1.3, 1.5))),
        made(None),
        made(SLOWER, unit="cost"),
        made(SLOWER, float_rung="small"),
    ],
    ids=["no shown difference", "faster", "torch not timed there", "costs counted", "no float rung timed"],
)
def test_nothing_is_said_where_that_is_not_shown(compiled: Any) -> None:
    assert slower_than_torch(compiled, "onnx") == ""
