"""Readings of this device: from the kernel's files, and from psutil, if it is installed, where there are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from edgefuse.runtime import pressure, signals
from edgefuse.runtime.ladder.reading import Reading
from edgefuse.runtime.processor import ROOT
from edgefuse.runtime.quota import processors


@dataclass
class System:
    """This device, as far as it tells: `root` holds /proc and /sys.

    A Jetson tells by the same files what `jetson-stats` reads from them. The first reading knows no load, which is
    counted between two.
    """

    root: Path = ROOT
    _before: tuple[float, float] | None = field(default=None, init=False)
    _throttled: int | None = field(default=None, init=False)

    def read(self, now_s: float) -> Reading:
        """Read it; takes about a millisecond."""
        known = Reading(
            load=self._load(now_s),
            processors=processors(root=self.root),
            temperature_c=max(signals.temperatures_c(self.root).values(), default=None),
            throttled=self._held_back(),
            available_bytes=signals.available_bytes(self.root),
            battery=signals.battery(self.root),
        )
        return known if (self.root / "proc/meminfo").exists() else _by_psutil(known)

    def _load(self, now_s: float) -> float | None:
        """Return what all tasks, and other guests of a virtual machine's host, used since the last reading."""
        busy, stolen = pressure.System(self.root).ticks()
        if busy is None or stolen is None:
            return None
        used_s = (busy + stolen) / os.sysconf("SC_CLK_TCK")
        before, self._before = self._before, (now_s, used_s)
        if before is None or now_s <= before[0]:
            return None
        return min(max((used_s - before[1]) / (now_s - before[0]) / (os.cpu_count() or 1), 0.0), 1.0)

    def _held_back(self) -> bool | None:
        """Tell whether kernel or firmware hold clocks back, or the first core was throttled since the last reading."""
        count, before = signals.throttle_count(self.root), self._throttled
        self._throttled = count
        held = signals.firmware_holds_back(self.root)
        if held or signals.cooling(self.root):
            return True
        return held if count is None or before is None else count > before


def _by_psutil(known: Reading) -> Reading:
    """Return a reading of a system without /proc: macOS, Windows."""
    try:
        psutil: Any = import_module("psutil")
    except ImportError:
        return known
    asked: Callable[[], Any] = getattr(psutil, "sensors_battery", lambda: None)
    battery = asked()
    return Reading(
        load=psutil.cpu_percent(interval=None) / 100,
        processors=known.processors,
        available_bytes=psutil.virtual_memory().available,
        battery=battery.percent / 100 if battery and battery.power_plugged is False else None,  # None: not known
    )
