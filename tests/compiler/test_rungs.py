from __future__ import annotations

import pytest

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.compiler.rungs.final import Ratio, RungAccuracy, RungTiming
from edgefuse.compiler.rungs.rungs import give_to_fast, leave_out_near_rungs
from edgefuse.compiler.search import Combination

MACHINE = Machine(architecture="x86_64", cpu="any", cores=2, features=(), runtimes={}, threads=1)


def timing(p50_ms: float) -> RungTiming:
    one = Ratio(ratio=1.0, ci95=(0.9, 1.1))
    return RungTiming(figure=Figure(machine=MACHINE, runs=100, p50_ms=p50_ms), speedup=one, speedup_over_float=one)


def settled(order: list[str], times: dict[str, float]) -> dict[str, Combination]:
    chosen: dict[str, Combination] = {name: {"fusion": f"fusion.{name}"} for name in order}
    accuracies = {name: RungAccuracy({"all": 0.9}, {}) for name in order}
    give_to_fast(chosen, accuracies, {name: timing(p50_ms) for name, p50_ms in times.items()})
    return chosen


def test_the_rung_fast_is_what_was_fastest_end_to_end() -> None:
    chosen = settled(["fast", "small"], {"fast": 1.0, "small": 0.9, "float": 3.0})
    assert chosen == {"fast": {"fusion": "fusion.small"}}


def test_another_default_keeps_its_place() -> None:
    chosen = settled(["small", "fast"], {"fast": 1.0, "small": 0.9, "float": 3.0})
    assert chosen == {"small": {"fusion": "fusion.small"}}


def test_a_reduced_rung_is_no_rival() -> None:
    times = {"fast": 1.0, "reduced-1": 0.5, "small": 1.2, "float": 3.0}
    assert list(settled(["fast", "reduced-1", "small"], times)) == ["fast", "reduced-1", "small"]


@pytest.mark.parametrize(
    ("times", "ratio", "left"),
    [
        ((0.9, 0.5, 0.4), 1.0, ["reduced-1", "reduced-2", "reduced-3"]),
        ((0.5, 0.6, 0.4), 1.0, ["reduced-1", "reduced-3"]),
        ((0.9, 0.5, 0.4), 1.3, ["reduced-3"]),  # which goes down further than the one that costs less
        ((0.7, 0.5, 0.35), 1.3, ["reduced-1", "reduced-2", "reduced-3"]),
        ((0.7, 0.5, 0.55), 1.3, ["reduced-1", "reduced-2"]),
        ((0.95, 0.9, 0.8), 1.3, []),
    ],
)
def test_what_end_to_end_is_too_near_is_no_rung(times: tuple[float, ...], ratio: float, left: list[str]) -> None:
    here = {"fast": timing(1.0), **{f"reduced-{number}": timing(p50) for number, p50 in enumerate(times, start=1)}}
    chosen: dict[str, Combination] = {name: {"fusion": name} for name in here}
    leave_out_near_rungs(chosen, here, ratio)
    assert list(chosen) == ["fast", *left]
