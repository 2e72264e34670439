"""Attack edgefuse from every side: `python -m tests.attack [--seed N] [--areas NAME...] [--out FILE]`.

Each module in `areas/` holds one kind of attack (`AREA`). Every attempt must be refused with one sentence (an
`EdgefuseError`) or give the right answer: no signal, no hang, no traceback, no runaway memory. What did not is printed
with the seed, which makes the same attempts again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import json
import multiprocessing
import pkgutil
import random
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tests.attack import areas
from tests.attack.attempt import Area, attempt

MAX_SHOWN = 10


def main() -> int:
    """Run the areas asked for and write one row for each; return 1 if one is not as it should be."""
    options = _options()
    names = options.areas or area_names()
    print(f"seed {options.seed}", flush=True)
    rows = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(assail, name, options.seed, options.short, options.tries) for name in names]
        for job in concurrent.futures.as_completed(jobs):
            row, shown = job.result()
            rows.append(row)
            print(*shown, json.dumps(row), sep="\n", flush=True)
    rows.sort(key=lambda row: str(row["area"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n")
    failed = [row["area"] for row in rows if not row["ok"]]
    tried = sum(row["tried"] for row in rows)
    print(f"{tried} tries, seed {options.seed}: " + (f"not ok: {', '.join(failed)}" if failed else "all rows ok"))
    return 1 if failed else 0


def area_names() -> list[str]:
    """Return the names of all areas: those of their modules."""
    return sorted(module.name for module in pkgutil.iter_modules(areas.__path__))


def assail(name: str, seed: int, short: bool, tries: int | None) -> tuple[dict[str, Any], list[str]]:
    """Make the attempts of one area; return its row, and a line for each of the first attempts that broke something."""
    area: Area = importlib.import_module(f"tests.attack.areas.{name}").AREA
    wanted = tries or (area.short if short else area.tries)
    counts: Counter[str] = Counter()
    seconds, rss_bytes, shown = 0.0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        # A generator of its own for each area: which areas run does not change what one tries.
        for each in islice(area.attempts(random.Random(f"{seed} {name}"), Path(folder)), wanted):
            outcome = attempt(each, area.max_seconds)
            counts[outcome.result] += 1
            seconds, rss_bytes = max(seconds, outcome.seconds), max(rss_bytes, outcome.rss_bytes)
            if outcome.result not in ("refused", "accepted_equal") or outcome.rss_bytes > area.max_rss_bytes:
                shown.append(f"{name}: {outcome.result}: {each.what}: {outcome.detail}, {outcome.rss_bytes} bytes")
    row = {
        "area": area.name,
        "tried": counts.total(),
        **{kind: counts[kind] for kind in ("refused", "accepted_equal", "crashed", "hung", "uncaught")},
        "seconds_worst": round(seconds, 3),
        "rss_worst_bytes": rss_bytes,
        "ok": not shown and counts.total() > 0,
    }
    return row, shown[:MAX_SHOWN]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="default: random")
    parser.add_argument("--areas", nargs="+", choices=area_names(), metavar="NAME", help=", ".join(area_names()))
    parser.add_argument("--short", action="store_true", help="a slice of each area, as the tests run it")
    parser.add_argument("--tries", type=int, help="in each area, instead of its own number")
    parser.add_argument("--jobs", type=int, default=2, help="areas side by side (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/attack.json"), help="default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
