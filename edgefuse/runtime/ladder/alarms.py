"""Which limits a reading is beyond, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

from edgefuse.runtime.ladder.reading import Reading
from edgefuse.runtime.ladder.settings import Settings

_COOLER_C = 5.0


class Alarms:
    """Follows readings of a device.

    Attributes:
        clear: whether the last reading was back within all limits, with the margin.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._since: dict[str, float] = {}
        self._words: dict[str, str] = {}
        self.clear = True

    def look(self, now_s: float, reading: Reading) -> None:
        """Take the next reading."""
        self.clear, self._words = True, {}
        since, self._since = self._since, {}  # what the device does not tell any more has not lasted
        for name, beyond, near, words in self._checks(reading):
            self.clear = self.clear and not (beyond or near)
            if beyond:
                self._since[name] = since.get(name, now_s)
                self._words[name] = words

    def cause(self, now_s: float) -> str | None:
        """Return which limits have been passed for long enough, in words."""
        sustained_s = self._settings.sustained_s
        found = [words for name, words in self._words.items() if now_s - self._since[name] >= sustained_s]
        return " and ".join(found) or None

    def _checks(self, reading: Reading) -> Iterator[tuple[str, bool, bool, str]]:
        """Yield of each signal that is there its name, whether it is beyond its limit or near it, and words."""
        limits, more, less = self._settings, 1 + self._settings.margin, 1 - self._settings.margin
        if (load := reading.load) is not None:
            most = limits.most_load
            yield "load", load > most, load > less * most, f"{load:.0%} of all processors in use (limit {most:.0%})"
        if (hot := reading.temperature_c) is not None:
            most = limits.hottest_c
            yield "temperature", hot > most, hot > most - _COOLER_C, f"{hot:.0f} degrees (limit {most:.0f})"
        if reading.throttled is not None:
            yield "throttled", reading.throttled, False, "clocks held back against heat"
        if (left := reading.available_bytes) is not None:
            least = limits.least_available_bytes
            words = f"{left / 1e6:.0f} MB of memory left (limit {least / 1e6:.0f})"
            yield "memory", left < least, left < more * least, words
        if (charge := reading.battery) is not None:
            least = limits.least_battery
            yield "battery", charge < least, charge < more * least, f"battery at {charge:.0%} (limit {least:.0%})"
