"""What a device says of itself at one moment, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Reading:
    """The condition of a device at one moment; what it does not tell is None.

    Attributes:
        load: of the time of all processors since the last reading, the share that was used, by anybody: 0 to 1.
        processors: how many the system lets this process use; less than 1 where it has a part of one.
        temperature_c: of the hottest thermal zone.
        throttled: whether clocks are held back against heat.
        available_bytes: of memory, what this process can still get, within the limits of its control groups.
        battery: its charge, 0 to 1, the mean of several; None where there is none, or none is being used up.
    """

    load: float | None = None
    processors: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    available_bytes: float | None = None
    battery: float | None = None


class Signals(Protocol):
    """Where readings come from: `System`, a `Replay`, or what a device has of its own."""

    def read(self, now_s: float) -> Reading:
        """Return the condition now; it must not wait for anything.

        Args:
            now_s: the time, by the clock of the ladder that asks.
        """
