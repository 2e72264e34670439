"""One area's attempts as one row of `attack.json`; here, and not in `__main__`, so that other processes find it."""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from tests.attack.attempt import Area, attempt

MAX_SHOWN = 10
RESULTS = ("refused", "accepted_equal", "crashed", "hung", "uncaught")

Row: TypeAlias = "dict[str, Any]"


def attack(name: str, seed: int, short: bool, tries: int | None) -> tuple[Row, list[str]]:
    """Attack the area of a module: in its short or its whole number of attempts, or in a number of them."""
    area: Area = importlib.import_module(f"tests.attack.areas.{name}").AREA
    with tempfile.TemporaryDirectory() as folder:  # for what a killed child leaves behind
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        return assail(area, tries or (area.short if short else area.tries), seed)


def assail(area: Area, wanted: int, seed: int) -> tuple[Row, list[str]]:
    """Make attempts of one area; return its row, and a line for each of the first attempts that broke something."""
    counts: Counter[str] = Counter()
    seconds, rss_bytes, shown = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        # A generator of its own for each area: which areas run does not change what one tries.
        for each in islice(area.attempts(random.Random(f"{seed} {area.name}"), Path(folder)), wanted):
            outcome = attempt(each, area.max_seconds, area.max_rss_bytes)
            counts[outcome.result] += 1
            seconds, rss_bytes = max(seconds, outcome.seconds), max(rss_bytes, outcome.rss_bytes)
            if not outcome.ok:
                shown.append(f"{area.name}: {outcome.result}: {each.what}: {outcome.detail}")
    row = {
        "area": area.name,
        "tried": counts.total(),
        **{result: counts[result] for result in RESULTS},
        "seconds_worst": round(seconds, 3),
        "rss_worst_bytes": rss_bytes,
        "ok": not shown and counts.total() > 0,
    }
    return row, shown[:MAX_SHOWN]


def broken(name: str) -> Row:
    """Return the row of an area that ended with an error of its own."""
    figures = {"seconds_worst": 0.0, "rss_worst_bytes": 0, "ok": False}
    return {"area": name, "tried": 0, **dict.fromkeys(RESULTS, 0), **figures}
