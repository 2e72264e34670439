"""What hostile clients do to a service: to its memory, its files and log, and to the next honest request.

Honest requests are timed in turn while nobody else asks and while a hostile client is at work, so that both are of the
same moments of the machine.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeAlias

from benchmarks.soak_services.asking import timed
from benchmarks.soak_services.peers import Peer, peer
from benchmarks.soak_services.service import Address, Service, Usage
from edgefuse.errors import MeasureError

Attack: TypeAlias = Callable[[Peer], None]
"""Begins, and leaves open what it has opened."""

SLOWER = 2.0
"""Times as long as usual that the next honest request may take."""
HELD_BYTES = 2 * (64 << 20)
"""Resident memory by which a service may grow: what all bodies together may take (`Limits.bodies_bytes`) as they come,
and once more as they are decoded."""
KEPT_BYTES = 16 << 20
"""Resident memory by which it may have grown when all attacks have been made again and again: that of one body."""
ROUNDS = 15
_HONEST = 5
_SWITCH_S = 1e-4


@dataclass
class Suffered:
    """What came of one kind of attack.

    Attributes:
        usual_s: what honest requests took just before, the median of each round.
        under_s: what they took while it was made, as well.
        seen: what the hostile client came to see.
        peak_bytes: of resident memory, at the most.
    """

    usual_s: list[float] = field(default_factory=list)
    under_s: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0

    @property
    def times_slower(self) -> float:
        """How many times as long honest requests took under it as just before: the median of the rounds."""
        return median(under / usual for under, usual in zip(self.under_s, self.usual_s, strict=True))


@dataclass
class Outcome:
    """What came of all of them: by attack, and memory before the first, after each round and in the end."""

    attacks: dict[str, Suffered]
    before: Usage
    rounds: list[Usage] = field(default_factory=list)


@dataclass(frozen=True)
class Front:
    """One of a service's addresses, and how it is asked.

    Attributes:
        address: where the hostile clients come.
        kind: says in a word what the service has sent.
        honest: asks as an honest client, over a connection of its own; raises if the answer is not the right one.
    """

    address: Address
    kind: Callable[[bytes], str]
    honest: Callable[[], None]


def suffer(service: Service, front: Front, attacks: Mapping[str, Attack], rounds: Iterable[int]) -> Outcome:
    """Attack a service in every way, again and again.

    Args:
        service: that is attacked.
        front: where.
        attacks: by name.
        rounds: are counted.
    """
    for _ in range(_HONEST):
        front.honest()
    found = Outcome({name: Suffered() for name in attacks}, service.usage())
    with _fair_threads():
        for _ in rounds:
            for name, attack in attacks.items():
                _suffer(service, front, attack, found.attacks[name])
            found.rounds.append(service.usage())
    return found


@contextmanager
def _fair_threads() -> Iterator[None]:
    """Let the honest client of this process not wait for the hostile ones, which are threads of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _suffer(service: Service, front: Front, attack: Attack, told: Suffered) -> None:
    told.usual_s.append(_taken_s(front))
    service.forget_peak()
    with peer(front.address, front.kind) as hostile:
        attack(hostile)
        told.under_s.append(_taken_s(front))
    told.seen += hostile.seen
    told.peak_bytes = max(told.peak_bytes, service.usage().peak)


def _taken_s(front: Front) -> float:
    """Return the median of what some honest requests take."""
    found = []
    for _ in range(_HONEST):
        with timed() as took:
            front.honest()
        found.append(took.seconds)
    return median(found)


def judged(
    found: Outcome, service: Service, secret: bytes, allowed: Callable[[str], Collection[str]]
) -> tuple[dict[str, Any], bool]:
    """Return the figures, and whether they show what they must.

    Args:
        found: what came of the attacks.
        service: that was attacked.
        secret: that all requests held.
        allowed: by attack, what a hostile client may come to see.

    Raises:
        MeasureError: there was no round.
    """
    if not found.rounds:
        raise MeasureError("nothing was attacked")
    figures: dict[str, Any] = {
        name: {
            "usual_p50_ms": 1e3 * median(one.usual_s),
            "times_slower": one.times_slower,
            "peak_growth_bytes": one.peak_bytes - found.before.now,
            "seen": dict(sorted(one.seen.items())),
        }
        for name, one in found.attacks.items()
    }
    growth = max(one["peak_growth_bytes"] for one in figures.values())
    kept = found.rounds[-1].now - found.rounds[0].now
    said, written = service.said(), service.written()
    strange = [
        f"{name}: {seen}" for name, one in found.attacks.items() for seen in one.seen if seen not in allowed(name)
    ]
    slowest = max(one.times_slower for one in found.attacks.values())
    ok = slowest <= SLOWER and growth <= HELD_BYTES and kept <= KEPT_BYTES
    ok = ok and secret not in said and not written and not strange
    return {
        "rounds": len(found.rounds),
        "slowest": slowest,
        "before_bytes": found.before.now,
        "after_bytes": found.rounds[-1].now,
        "peak_growth_bytes": growth,
        "kept_bytes": kept,
        "after_each_round_bytes": [one.now for one in found.rounds],
        "logged": secret in said,
        "lines_said": len(said.splitlines()),
        "written": written,
        "seen_wrongly": strange,
        "attacks": figures,
    }, ok
