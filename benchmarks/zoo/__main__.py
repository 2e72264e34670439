"""Compile architectures as their libraries ship them: `python -m benchmarks.zoo`, to out/zoo.json.

Each gets a factory, a spec and made-up data, and nothing else; weights are random. One that fails leaves the others.
First the files of all models are made, `--jobs` at a time; then they are timed, one model after another, while nothing
else runs: as it was split, in float, and as one stage. After a whole run the exit code is 1 if the zoo does not show
what it must.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.zoo.record import Row, Target
from benchmarks.zoo.verdicts import verdicts

ROOT = Path(__file__).parents[2]
TARGETS = ("onnx", "tflite")


class Zoo:
    """Runs the steps of each model in processes with a deadline.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._given = arguments
        self._flags = [
            *(["--no-single"] if not arguments.single else []),
            *(["--every-scheme"] if arguments.every_scheme else []),
        ]

    def make(self, model: str) -> Row:
        """Find the stages of a model and make its files for every target; ask `edgefuse check` about what fails."""
        if not self._given.keep:
            shutil.rmtree(self._given.work / model, ignore_errors=True)
        wanted = ["found", *(f"made:{target}" for target in self._given.targets)]
        told, errors, seconds = self._told(model, wanted)
        row = msgspec.convert(told["found"], Row) if "found" in told else Row(model=model, error=errors["found"])
        for target in self._given.targets:
            step = f"made:{target}"
            if step in told:
                row.targets[target] = msgspec.convert(told[step], Target)
            else:
                row.targets[target] = Target(error=row.error or errors[step], seconds=seconds.get(step, 0.0))
        self._check(row)
        print(line(row), file=sys.stderr, flush=True)
        return row

    def _check(self, row: Row) -> None:
        """Ask `edgefuse check` about the targets that fail."""
        failed = [target for target, one in row.targets.items() if one.error]
        told = self._told(row.model, [f"check:{target}" for target in failed])[0]
        for target in failed:
            row.targets[target].check = tuple(told.get(f"check:{target}", ()))
        errors = [f"{target}: {row.targets[target].error}" for target in failed]
        row.error = row.error or "; ".join(errors) or None

    def time(self, row: Row) -> None:
        """Time what was made of a model."""
        if not (made := [target for target, one in row.targets.items() if one.compiled]):
            return
        told, errors, seconds = self._told(row.model, [f"timed:{target}" for target in made])
        for target in made:
            step = f"timed:{target}"
            if step in told:
                later = msgspec.convert(told[step], Target)
            else:
                later = Target(error=errors[step], seconds=seconds[step])
            row.targets[target] = row.targets[target].timed(later)
        if any(row.targets[target].error for target in made):
            self._check(row)
        print(line(row), file=sys.stderr, flush=True)

    def _told(self, model: str, steps: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], dict[str, float]]:
        """Return what each step tells, and of those that told nothing why, and after how many seconds.

        A process does one step after another. If it dies, or is late, that is the fault of the first step that told
        nothing; another process goes on behind it.
        """
        folder: Path = self._given.work / model
        told: dict[str, Any] = {}
        errors: dict[str, str] = {}
        seconds: dict[str, float] = {}
        left = list(steps)
        while left:
            began = time.perf_counter()
            fault = self._run(model, folder, left)
            for step in left:
                if (path := _told_in(folder, step)).exists():
                    told[step] = msgspec.json.decode(path.read_bytes())
            left = [step for step in left if step not in told]
            if "found" in told and told["found"]["error"]:
                return told, errors | dict.fromkeys(left, told["found"]["error"]), seconds
            if left:
                errors[left[0]], seconds[left[0]] = fault, round(time.perf_counter() - began, 1)
                left = [] if left[0] == "found" else left[1:]
        return told, errors, seconds

    def _run(self, model: str, folder: Path, steps: Sequence[str]) -> str:
        """Run steps in a process; return what is to be said if one of them tells nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        for step in steps:
            _told_in(folder, step).unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.zoo.worker", model, str(folder), *steps, *self._flags]
        variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        deadline = self._given.deadline * len(steps)
        with (folder / "log.txt").open("ab") as log:
            try:
                ended = subprocess.run(
                    command, cwd=ROOT, env=variables, stdout=log, stderr=log, timeout=deadline, check=False
                )
            except subprocess.TimeoutExpired:
                return f"not done after {deadline:.0f} s"
        return f"the process ended with {ended.returncode} and told nothing: see {log.name}"


def _told_in(folder: Path, step: str) -> Path:
    return folder / f"{step.replace(':', '-')}.json"


def line(row: Row) -> str:
    """Return a row as a line to read."""
    share = "-" if row.single_modality_share is None else f"{row.single_modality_share:.0%}"
    head = f"{row.model}: {row.parameters / 1e6:.2f} M, {share} see one modality, {len(row.stages)} stages"
    told = [f"{target} {_in_words(one)}" for target, one in row.targets.items()]
    return "; ".join([head, *told]) + (f" ({row.error})" if row.error else "")


def _in_words(one: Target) -> str:
    if not one.compiled:
        return "failed"
    gains = [
        f"{value} x {over}"
        for value, over in ((one.speedup_over_float, "float"), (one.speedup_single_stage, "one stage"))
        if value is not None
    ]
    return f"{', '.join(gains) or 'made'} in {one.seconds:.0f} s{' (busy)' if one.busy else ''}"


def summary(rows: Sequence[Row]) -> str:
    """Return what the rows show, with a verdict on each."""
    busy = sum(bool(one.busy) for row in rows for one in row.targets.values())
    lines = [f"{len(rows)} models with random weights", *map(str, verdicts(rows))]
    return "\n".join([*lines, *([f"{busy} timings of a busy machine: they are not to be trusted"] if busy else [])])


def whole(arguments: argparse.Namespace) -> bool:
    """Tell whether a run can show all that the zoo must."""
    everything = arguments.models is None and set(arguments.targets) == set(TARGETS)
    return everything and arguments.single and not arguments.quick


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--models", nargs="+", metavar="NAME", help="only these; all of them are listed where a name is wrong")
    add("--targets", nargs="*", default=list(TARGETS), metavar="TARGET", help="none: stages are found, and no more")
    add("--out", type=_place, default="out/zoo.json", help="the rows as JSON")
    add("--work", type=_place, default="out/zoo", help="folder of recipes, bundles, logs and caches")
    add("--deadline", type=float, default=400.0, help="seconds for one step of a model: making or timing one target")
    add("--jobs", type=int, default=2, help="models whose files are made at a time; each is timed alone")
    add("--no-single", dest="single", action="store_false", help="do not compare with each model as one stage")
    add("--quick", action="store_true", help="make the files and time nothing: for whether models compile")
    add(
        "--every-scheme",
        action="store_true",
        help="try all schemes on each stage, not the likeliest two",
    )
    add("--keep", action="store_true", help="use what an earlier run left in the caches; seconds are then less")
    return made


def _place(given: str) -> Path:
    return Path(given).absolute()


def main() -> int:
    """Compile, write and print."""
    from benchmarks.zoo.catalogue import ENTRIES  # takes seconds: --help does without

    arguments = parser().parse_args()
    names = arguments.models or list(ENTRIES)
    if unknown := [name for name in names if name not in ENTRIES]:
        parser().error(f"there is no model {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    zoo = Zoo(arguments)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(zoo.make, names))
    _write(arguments.out, rows)
    for row in rows if not arguments.quick else ():
        zoo.time(row)
        _write(arguments.out, rows)
    print(summary(rows))
    return int(whole(arguments) and not all(verdict.ok for verdict in verdicts(rows)))


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
