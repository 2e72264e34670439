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
        return assail(area, tries or (area.short if short else area.tries), seed, whole=not short and not tries)


def assail(area: Area, wanted: int, seed: int, *, whole: bool = False) -> tuple[Row, list[str]]:
    """Make attempts of one area; return its row, and a line for each of the first attempts that broke something."""
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    seconds, rss_bytes, shown = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        # A generator of its own for each area: which areas run does not change what one tries.
        for each in islice(area.attempts(random.Random(f"{seed} {area.name}"), Path(folder)), wanted):
            outcome = attempt(each, area.max_seconds, area.max_rss_bytes)
            counts[outcome.result] += 1
            kinds[each.kind] += 1
            seconds, rss_bytes = max(seconds, outcome.seconds), max(rss_bytes, outcome.rss_bytes)
            if not outcome.ok:
                shown.append(f"{area.name}: {outcome.result}: {each.what}: {outcome.detail}")
    missing = 0 if area.finite else max(0, wanted - counts.total())
    if whole:
        missing += sum(max(0, least - kinds[kind]) for kind, least in area.least)
    if missing:
        shown.insert(0, f"{area.name}: {missing} attempts are missing")
    if area.taken and not counts["accepted_equal"] and wanted >= area.short:  # a handful may all be hostile
        shown.insert(0, f"{area.name}: nothing was taken: the attempts do not reach what they attack")
    row = {
        "area": area.name,
        "tried": counts.total(),
        **{result: counts[result] for result in RESULTS},
        "seconds_worst": round(seconds, 3),
        "rss_worst_bytes": rss_bytes,
        "missing": missing,
        "kinds": {kind: kinds[kind] for kind in sorted(kinds) if kind},
        "ok": not shown,
    }
    return row, shown[:MAX_SHOWN]


def broken(name: str) -> Row:
    """Return the row of an area that ended with an error of its own."""
    figures = {"missing": 0, "kinds": {}, "seconds_worst": 0.0, "rss_worst_bytes": 0, "ok": False}
    return {"area": name, "tried": 0, **dict.fromkeys(RESULTS, 0), **figures}
