"""The limits of a ladder, and how long it waits."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from edgefuse.errors import InputError
from edgefuse.runtime.numbers import number_of

_SHARES = ("most_missed", "fits", "most_load", "least_battery", "margin")


@dataclass(frozen=True)
class Settings:
    """When a ladder goes down and up, and what it may leave out.

    Attributes:
        may_drop: optional modalities that may be left out below the last rung, in this order, one more at each step.
        most_missed: of the deadlines in the window, the share that may be missed.
        fits: of the deadline, what a rung may be expected to take where the ladder chooses it.
        window_s: how far back predictions count; the last eight always do.
        hold_s: the shortest time between two changes.
        calm_s: how long a rung further up must be expected to fit before it is tried.
        trial_s: a rung that is left within this time after it was tried had failed.
        first_wait_s: for how long it is then not tried again; twice as long after each further failure.
        longest_wait_s: the longest such time.
        every_s: the shortest time between two readings of the device.
        sustained_s: how long a limit must be passed before it counts.
        most_load: of all processors, the share that may be in use.
        hottest_c: the highest temperature.
        least_available_bytes: of memory.
        least_battery: the lowest charge, 0 to 1.
        margin: how far a device must be back within these four limits before the ladder goes up: a share of the limit,
            of temperatures 5 degrees.
    """

    may_drop: tuple[str, ...] = ()
    most_missed: float = 0.1
    fits: float = 0.85
    window_s: float = 2.0
    hold_s: float = 5.0
    calm_s: float = 2.0
    trial_s: float = 10.0
    first_wait_s: float = 10.0
    longest_wait_s: float = 300.0
    every_s: float = 0.5
    sustained_s: float = 2.0
    most_load: float = 0.98
    hottest_c: float = 85.0
    least_available_bytes: float = 32e6
    least_battery: float = 0.2
    margin: float = 0.1

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "may_drop"):
            value, most = getattr(self, name), 1.0 if name in _SHARES else math.inf
            number = number_of(value)
            if number is None or not 0 <= number <= most:  # which NaN is not
                expected = "a share from 0 to 1" if name in _SHARES else "zero or more"
                raise InputError(f"{name} of a ladder is out of range", got=value, expected=expected)
            object.__setattr__(self, name, number)
        if not self.fits:
            raise InputError("fits of a ladder is out of range", got=self.fits, expected="more than 0")
        if not isinstance(self.may_drop, list | tuple):  # the letters of a string are names, too
            got, expected = repr(self.may_drop), "a tuple of their names, as in ('image',)"
            raise InputError("may_drop of a ladder is no list of modalities", got=got, expected=expected)
        object.__setattr__(self, "may_drop", tuple(self.may_drop))
