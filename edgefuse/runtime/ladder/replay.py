"""Readings that were written down, given back at their times: a ladder's tests need no hot device."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path

from edgefuse.errors import InputError, cited
from edgefuse.runtime.ladder.reading import Reading

_TIME = "now_s"
_NAMES = tuple(field.name for field in fields(Reading))
_SHARES = ("load", "battery")


class Replay:
    """Gives each reading from its time on; before the first one, a reading that tells nothing.

    Args:
        readings: times in seconds, ascending, each with what was read then.

    Raises:
        InputError: if the times do not ascend.
    """

    def __init__(self, readings: Iterable[tuple[float, Reading]]) -> None:
        self._readings = list(readings)
        self._times = [time for time, _ in self._readings]
        if self._times != sorted(self._times) or not all(map(math.isfinite, self._times)):
            raise InputError("the readings of a replay are out of order", expected="ascending times in seconds")

    @classmethod
    def of_csv(cls, path: str | PathLike[str]) -> Replay:
        """Read a table with the column `now_s`, and one for each field of a `Reading` that is known; empty is None.

        `throttled` is 0 or 1, `load` and `battery` are shares from 0 to 1.

        Raises:
            InputError: if the file cannot be read, or a column or a value is not one of these.
        """
        try:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                rows = [(reader.line_num, row) for row in reader]  # an empty line is no row
        except (OSError, ValueError, csv.Error) as error:  # not UTF-8, or a path with a NUL: a ValueError
            raise InputError(f"the readings in {path} cannot be read", got=cited(error)) from error
        return cls(_row(path, line, row) for line, row in rows)

    def read(self, now_s: float) -> Reading:
        """Return the last reading until now."""
        found = bisect_right(self._times, now_s)
        return self._readings[found - 1][1] if found else Reading()


def _row(path: str | PathLike[str], line: int, row: Mapping[str | None, str | None]) -> tuple[float, Reading]:
    known = (_TIME, *_NAMES)
    if unknown := [name for name in row if name not in known]:
        got = unknown[0] or f"{len(row)} values or more"  # those beyond the last column have the name None
        raise InputError(f"line {line} of {path} is in no known column", got=got, expected=", ".join(known))
    values: dict[str, float] = {}
    for name, text in row.items():
        if name and text and text.strip():
            try:
                values[name] = float(text)
            except ValueError as error:
                raise InputError(f"'{name}' in line {line} of {path} is no number", got=text) from error
            _check_value(f"'{name}' in line {line} of {path}", name, values[name])
    if _TIME not in values:
        raise InputError(f"line {line} of {path} has no time", expected=f"seconds in the column '{_TIME}'")
    now_s, throttled = values.pop(_TIME), values.pop("throttled", None)
    return now_s, Reading(**values, throttled=None if throttled is None else bool(throttled))


def _check_value(what: str, name: str, value: float) -> None:
    if name in _SHARES and not 0 <= value <= 1:
        raise InputError(f"{what} is out of range", got=value, expected="a share from 0 to 1")
    if name == "throttled" and value not in (0, 1):
        raise InputError(f"{what} is out of range", got=value, expected="0 or 1")
