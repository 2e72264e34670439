"""Compare edgefuse with other tools: same model, data, machine, one thread, all of them interleaved.

Every peer makes its file from the same whole float graph, calibrated on the same samples, in an environment of its own.
Accuracy is that of its file in its own runtime, by subset of modalities; sizes hold frontends. `edgefuse_speedup` says
how many times faster edgefuse is than a system (the row of edgefuse's that it names under `against`: the fastest that
holds the budget, of the same runtime where there is one, pruned where there is one). What cannot be made or run is a
row with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers import catalogue, table
from benchmarks.peers.catalogue import REFERENCE, SYSTEMS, System
from benchmarks.peers.contender import Contender, from_bundle, prepare
from benchmarks.peers.environment import ROOT
from benchmarks.peers.protocol import Worker
from benchmarks.peers.subject import Subject
from benchmarks.peers.table import Answers, Row
from benchmarks.peers.timing import interleave
from benchmarks.peers.whole import make
from edgefuse.datasets.cache import cache_folder as default_folder
from edgefuse.errors import EdgefuseError, MeasureError
from edgefuse.measure.latency import BURST
from edgefuse.progress import Progress, on

_WARMUP = 1
_FEWEST = 11


class Comparison:
    """One model against all systems: what takes part, what it answers, how long it takes, what failed."""

    def __init__(self, subject: Subject, items: int, note: Callable[[str], None]) -> None:
        self.subject = subject
        self.contenders: dict[str, Contender] = {}
        self.answers: dict[str, Answers] = {}
        self.failures: dict[str, Row] = {}
        self._items = items
        self._note = note

    def enter(self, name: str, find: Callable[[], Contender]) -> None:
        """Make and judge a contender, or keep why that failed."""
        if name in self.contenders or name in self.failures:
            self._note(f"{name}: another bundle has one, this one is left out")
            return
        version = ""
        try:
            self._note(f"{name}: make")
            contender = find()
            version = contender.version
            self._note(f"{name}: judge")
            self.answers[name] = contender.answers(self.subject, self._items)
            self.contenders[name] = contender
        except EdgefuseError as error:
            self._note(f"{name}: failed: {error}")
            self.failures[name] = table.failure(self.subject, name, version, str(error))

    def rows(self, rounds: int, seed: int, progress: Progress) -> list[Row]:
        """Time all contenders together and return every row.

        Raises:
            MeasureError: if the reference failed, so that nothing can be said about accuracy.
        """
        if REFERENCE.name not in self.answers:
            raise MeasureError("the reference cannot be run", got=self.failures[REFERENCE.name]["error"])
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name, contender in self.contenders.items():
                workers[name] = stack.enter_context(contender.worker(self.subject))
            latencies, failed = interleave(workers, rounds=rounds, warmup=_WARMUP, seed=seed, progress=progress)
        ours = [contender for contender in self.contenders.values() if contender.kind != "peer"]
        ours = [own for own in ours if self._holds_budget(own.name)] or ours
        rows = list(self.failures.values())
        for name, contender in self.contenders.items():
            if name in failed:
                rows.append(table.failure(self.subject, name, contender.version, failed[name]))
                continue
            against = table.opponent(contender, ours, latencies)
            reference = self.answers[REFERENCE.name]
            rows.append(table.row(self.subject, contender, self.answers[name], reference, latencies, against))
        return table.order(rows)

    def _holds_budget(self, name: str) -> bool:
        _, drop = table.worst_drop(self.subject, self.answers[name], self.answers[REFERENCE.name])
        return table.holds_budget(self.subject, drop)


def compare(arguments: argparse.Namespace, recipe: Path, systems: Sequence[System]) -> list[Row]:
    """Compare all systems on one recipe's model."""
    report = on(sys.stderr)
    subject = make(recipe, arguments.work / recipe.resolve().parent.name / "subject", report)
    work, environments = subject.folder.parent, arguments.environments
    comparison = Comparison(subject, arguments.items, lambda text: print(text, file=sys.stderr, flush=True))
    jobs: list[tuple[str, Callable[[], Contender]]] = []
    for system in (REFERENCE, *systems):
        jobs.append((system.name, _preparation(system, subject, work, environments, arguments.build_seconds)))
    for bundle in arguments.bundle:
        jobs += [(own.name, _ready(own)) for own in from_bundle(bundle, subject, work)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in [pool.submit(comparison.enter, name, find) for name, find in jobs]:
            done.result()
    return comparison.rows(arguments.rounds, arguments.seed, report)


def _preparation(
    system: System, subject: Subject, work: Path, environments: Path, seconds: float
) -> Callable[[], Contender]:
    return lambda: prepare(system, subject, work, environments, seconds)


def _ready(contender: Contender) -> Callable[[], Contender]:
    return lambda: contender


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    # Workers stand in folders of their own: paths are absolute from here on.
    add("--recipe", type=_place, action="append", help="recipe of a model (again for more); default: examples/digits")
    add("--bundle", type=_place, action="append", default=[], help="a bundle of such a model (again for more)")
    add("--out", type=_place, default="out/peers.json", help="the rows as JSON; beside it, as Markdown")
    add("--work", type=_place, default="out/peers", help="folder of files, answers and logs; kept for the next run")
    environments = str(default_folder() / "environments")
    add("--environments", type=_place, default=environments, help="folder of the environments")
    add("--systems", nargs="*", choices=catalogue.names(), metavar="NAME", help="only these peers: see catalogue.py")
    add("--items", type=int, default=2000, help="items of the test split that are judged, per subset")
    add("--rounds", type=int, default=40, help=f"of {BURST} timed calls per system")
    add("--jobs", type=int, default=1, help="systems that are made and judged at a time; timing is never parallel")
    add("--build-seconds", type=float, default=3600.0, help="how long a peer may take to make its file")
    add("--seed", type=int, default=0, help="of the order within rounds")
    return made


def _place(given: str) -> Path:
    return Path(given).absolute()


def main() -> None:
    """Compare, write and print."""
    arguments = parser().parse_args()
    if arguments.rounds < _FEWEST:
        parser().error(f"--rounds {arguments.rounds}: an interval to report needs at least {_FEWEST} rounds")
    recipes = arguments.recipe or [ROOT / "examples/digits/recipe.toml"]
    systems = [system for system in SYSTEMS if not arguments.systems or system.name in arguments.systems]
    try:
        tables = [compare(arguments, recipe, systems) for recipe in recipes]
    except EdgefuseError as error:
        sys.exit(f"edgefuse: {error}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for rows in tables for row in rows]
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(table.markdown(rows) for rows in tables)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
