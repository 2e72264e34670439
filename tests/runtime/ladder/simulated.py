"""A device that is simulated: its speed over time, what arrives at it, and what of that is late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgefuse.bundle.manifest import Figure, Machine, Manifest, Rung
from edgefuse.bundle.spec import subset_name
from edgefuse.runtime.ladder import Change, Ladder

PERIOD_S = 0.01
MACHINE = Machine(architecture="aarch64", cpu="simulated", cores=1, features=(), runtimes={}, threads=1)
ACCURACY = {"fast": 0.95, "reduced-1": 0.92, "reduced-2": 0.88}
TIMES_MS = {"fast": 7.0, "reduced-1": 5.0, "reduced-2": 3.5}
"""The first rung takes 70 % of the time there is; half the speed is enough for the last one, with the same 70 %."""


def manifest_of(tiny: Manifest, times_ms: dict[str, float] = TIMES_MS) -> Manifest:
    """Return the tiny manifest with rungs of these times, each less accurate than the one before."""
    base, names = tiny.rungs[0], [subset_name(subset) for subset in tiny.model.subsets()]

    def rung(name: str, p50_ms: float) -> Rung:
        lost = ACCURACY["fast"] - ACCURACY[name]
        return msgspec.structs.replace(
            base,
            name=name,
            accuracy={one: ACCURACY[name] - 0.1 * (2 - one.count("+")) for one in names},
            drop_ci95=dict.fromkeys(names, (lost - 0.01, lost + 0.01)),
            figures=(Figure(machine=MACHINE, runs=100, p50_ms=p50_ms),),
        )

    rungs = tuple(rung(name, p50_ms) for name, p50_ms in times_ms.items())
    return msgspec.structs.replace(tiny, rungs=rungs, default_rung="fast")


@dataclass
class Run:
    """What became of everything that arrived.

    Attributes:
        due_s: when each item arrived.
        late: whether its answer was late, or there was none.
        rungs: at which each was answered; empty if it was not.
        changes: of the ladder, with their times.
    """

    due_s: list[float] = field(default_factory=list)
    late: list[bool] = field(default_factory=list)
    rungs: list[str] = field(default_factory=list)
    changes: list[tuple[float, Change]] = field(default_factory=list)

    def missed(self, from_s: float, to_s: float) -> float:
        """Return the share of what arrived between two times that was late."""
        return float(np.mean([late for due, late in zip(self.due_s, self.late, strict=True) if from_s <= due < to_s]))

    @property
    def rests_s(self) -> list[float]:
        """The times between changes."""
        return list(np.diff([now_s for now_s, _ in self.changes]))


def run(
    manifest: Manifest, ladder: Ladder | None, speed: Callable[[float], float], seconds: float, spread: float = 0.02
) -> Run:
    """Let an item arrive every 10 ms, due before the next one; what cannot be begun before that is left out.

    Args:
        manifest: whose rungs' times are those at full speed.
        ladder: that chooses the rung; the first one throughout if None.
        speed: of the device at a time, 1 at full speed.
        seconds: that it goes on.
        spread: of the time of a prediction, as a share.
    """
    rng, found, free_s = np.random.default_rng(3), Run(), 0.0
    rung = manifest.rungs[0].name
    times_s = {rung.name: rung.figures[0].p50_ms / 1000 for rung in manifest.rungs}
    for number in range(int(seconds / PERIOD_S)):
        due_s = number * PERIOD_S
        begun_s = max(due_s, free_s)
        answered = begun_s < due_s + PERIOD_S
        if answered:
            free_s = begun_s + times_s[rung] * (1 + spread * rng.standard_normal()) / speed(begun_s)
        late = not answered or free_s > due_s + PERIOD_S
        found.due_s.append(due_s)
        found.late.append(late)
        found.rungs.append(rung if answered else "")
        if answered and ladder:
            ladder.observe(free_s, free_s - due_s, PERIOD_S)
            if change := ladder.decide(free_s):
                rung = change.rung
                found.changes.append((free_s, change))
    return found
