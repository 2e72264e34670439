from __future__ import annotations

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.compiler.rungs.final import Ratio, RungAccuracy, RungTiming
from edgefuse.compiler.rungs.rungs import give_to_fastest
from edgefuse.compiler.search import Combination

MACHINE = Machine(architecture="x86_64", cpu="any", cores=2, features=(), runtimes={}, threads=1)


def timing(p50_ms: float) -> RungTiming:
    one = Ratio(ratio=1.0, ci95=(0.9, 1.1))
    return RungTiming(figure=Figure(machine=MACHINE, runs=100, p50_ms=p50_ms), speedup=one, speedup_over_float=one)


def settled(order: list[str], times: dict[str, float]) -> dict[str, Combination]:
    chosen: dict[str, Combination] = {name: {"fusion": f"fusion.{name}"} for name in order}
    accuracies = {name: RungAccuracy({"all": 0.9}, {}) for name in order}
    give_to_fastest(chosen, accuracies, {name: timing(p50_ms) for name, p50_ms in times.items()})
    return chosen


def test_the_fastest_rung_is_what_was_fastest_end_to_end() -> None:
    chosen = settled(["fastest", "smallest"], {"fastest": 1.0, "smallest": 0.9, "float": 3.0})
    assert chosen == {"fastest": {"fusion": "fusion.smallest"}}


def test_another_default_keeps_its_place() -> None:
    chosen = settled(["smallest", "fastest"], {"fastest": 1.0, "smallest": 0.9, "float": 3.0})
    assert chosen == {"smallest": {"fusion": "fusion.smallest"}}


def test_a_reduced_rung_is_no_rival() -> None:
    times = {"fastest": 1.0, "reduced-1": 0.5, "smallest": 1.2, "float": 3.0}
    assert list(settled(["fastest", "reduced-1", "smallest"], times)) == ["fastest", "reduced-1", "smallest"]
