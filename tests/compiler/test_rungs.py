from __future__ import annotations

from edgefuse.bundle.manifest import Figure, Machine
from edgefuse.compiler.rungs.final import Ratio, RungAccuracy, RungTiming
from edgefuse.compiler.rungs.rungs import give_to_fast
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
