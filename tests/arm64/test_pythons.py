"""The same bundles on this processor under every Python and with the oldest and the newest runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.portability import judge, runtimes
from benchmarks.portability.machines import Device, Machine
from benchmarks.portability.runtimes import PREDECESSOR, PREDECESSORS_PYTHON, Placement
from edgefuse.errors import DataError

if TYPE_CHECKING:
    from tests.arm64.conftest import Asked


def put_together(placement: Placement, project: Path, cache: Path) -> Device:
    try:
        return placement.device(project, cache)
    except DataError as error:
        pytest.skip(f"not checked with {', '.join(placement.requirements)}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("series", "age"),
    [
        pytest.param(series, age, marks=() if series == "3.13" else pytest.mark.exhaustive)
        for series in ("3.10", "3.11", "3.12", "3.13")
        for age in ("newest", "oldest")
    ],
)
def test_bundles_give_the_same(
    pythons: Mapping[str, Machine],
    asked: Mapping[str, Asked],
    project: Path,
    cache: Path,
    tmp_path: Path,
    series: str,
    age: str,
) -> None:
    if series not in pythons:
        pytest.skip(f"not checked on Python {series}: there is none here")
    packages = runtimes.newest() if age == "newest" else runtimes.oldest(series)
    device = put_together(Placement(pythons[series], packages), project, cache)
    for name, one in asked.items():
        judge.verify(device, one.question.bundle)
        one.check(device, tmp_path / name)


@pytest.mark.slow
def test_tflite_runtime_gives_the_same(
    pythons: Mapping[str, Machine], asked: Mapping[str, Asked], project: Path, cache: Path, tmp_path: Path
) -> None:
    if PREDECESSORS_PYTHON not in pythons:
        pytest.skip(f"tflite-runtime was not checked: there is no Python {PREDECESSORS_PYTHON} here")
    device = put_together(Placement(pythons[PREDECESSORS_PYTHON], PREDECESSOR), project, cache)
    assert judge.runtime(device, "tflite") == "tflite-runtime 2.14.0"
    for name in ("tflite-float", "tflite-int8"):
        judge.verify(device, asked[name].question.bundle)
        # It rounds what it quantizes at run time in a way of its own: this untrained model's near ties fall otherwise.
        asked[name].check(device, tmp_path / name, labels=0.95)
