"""Attack edgefuse from every side: `python -m tests.attack [--seed N] [--areas NAME...] [--out FILE]`.

Each module in `areas/` holds one kind of attack (`AREA`). Every attempt must be refused with one sentence (an
`EdgefuseError`) or give the right answer: no signal, no hang, no traceback, no runaway memory. What did not is printed
with the seed, which makes the same attempts again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import pkgutil
import random
import sys
import traceback
from pathlib import Path

from tests.attack import areas
from tests.attack.rows import Row, attack, broken


def main() -> int:
    """Run the areas asked for and write one row for each; return 1 if one is not as it should be."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    rows = _rows(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    failed = [row["area"] for row in rows if not row["ok"]]
    tried = sum(row["tried"] for row in rows)
    print(f"{tried} tries, seed {options.seed}: " + (f"not ok: {', '.join(failed)}" if failed else "all rows ok"))
    return 1 if failed else 0


def area_names() -> list[str]:
    """Return the names of all areas: those of their modules."""
    return sorted(module.name for module in pkgutil.iter_modules(areas.__path__))


def _rows(options: argparse.Namespace) -> list[Row]:
    """Run the areas side by side, each in a process of its own, and print what broke as they end."""
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        arguments = (options.seed, options.short, options.tries)
        jobs = {pool.submit(attack, name, *arguments): name for name in options.areas or area_names()}
        for job in concurrent.futures.as_completed(jobs):
            try:
                row, shown = job.result()
            except Exception:  # noqa: BLE001 - an area that cannot even make its attempts is a row, too
                row, shown = broken(jobs[job]), [traceback.format_exc()]
            rows.append(row)
            print(*shown, json.dumps(row), sep="\n", flush=True)
    return sorted(rows, key=lambda row: str(row["area"]))


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
    if not __debug__:
        sys.exit("tests.attack: attempts assert what is right, and python -O leaves assertions out")
    sys.exit(main())
