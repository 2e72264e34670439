"""Compile the reference models for ONNX and TFLite, and hold each to what it must show; see `docs/systems.md`.

Systems that are composed of several of them follow, and are asked with the bundles that were just compiled.

A run that was stopped goes on where it was: compiles find their work in the cache, and systems that are not asked for
keep their place in the file. A system that fails does not keep the others from theirs. Exit code 1: one does not show
what it must.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import compiling
from benchmarks.systems import composed, page, record
from benchmarks.systems.catalogue import Composition, Entry, compositions, entries
from benchmarks.systems.record import System, Target
from benchmarks.systems.verdicts import verdicts
from edgefuse.commands.models import ReferenceModel
from edgefuse.compiler.report.encoding import parse
from edgefuse.errors import DataError, EdgefuseError, MeasureError, cited
from edgefuse.typed_json import decode

TARGETS = ("onnx", "tflite")


def compiled(entry: Entry, folder: Path, jobs: int) -> Path:
    """Compile a system in a process of its own, and return its report.

    Args:
        entry: the model and its recipe.
        folder: of bundles, report and log.
        jobs: at the same time.

    Raises:
        MeasureError: the compile failed.
    """
    return compiling.compiled(entry.model.name, entry.recipe, folder, jobs=jobs, targets=TARGETS)


class Compiles:
    """The compiles of a run; each is done once.

    Args:
        known: the models and their recipes.
        work: the folder of what is made of them, a folder each.
        jobs: at the same time.
    """

    def __init__(self, known: Sequence[Entry], work: Path, jobs: int) -> None:
        self._known, self._work, self._jobs = {entry.name: entry for entry in known}, work, jobs
        self._reports: dict[str, Path] = {}

    def report(self, name: str) -> Path:
        """Return the report of a model's compile.

        Raises:
            MeasureError: the compile failed.
        """
        if name not in self._reports:
            self._reports[name] = compiled(self._known[name], self._work / name, self._jobs)
        return self._reports[name]

    def floats(self, name: str, target: str, folder: Path) -> Path:
        """Return a bundle of a model's float files, which is written into a folder.

        Raises:
            MeasureError: the export failed.
        """
        bundle = folder / f"{name}-float.edgefuse"
        compiling.exported(name, self._known[name].recipe, bundle, target)
        return bundle


class Task(NamedTuple):
    """A system that can be asked for.

    Attributes:
        described: as it describes itself.
        made_of: its recipe, or its models.
        figures: makes them.
    """

    described: ReferenceModel | Composition
    made_of: str
    figures: Callable[[], System]


def judged(task: Task, explained: Collection[str]) -> System:
    """Return a system with its figures and verdicts; without figures, and with the reason, if there are none.

    Args:
        task: makes the figures.
        explained: the systems of which the page says why one modality does as well.
    """
    try:
        found = task.figures()
    except (EdgefuseError, OSError, msgspec.MsgspecError) as error:
        found = record.described(task.described)
        found = msgspec.structs.replace(found, failed={found.name: cited(error)})
    return msgspec.structs.replace(found, verdicts=verdicts(found, explained))


def _tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield all systems, those of one model first, since the others are composed of these."""
    known = entries(arguments.examples)
    compiles = Compiles(known, arguments.work, arguments.jobs)
    for entry in known:
        yield Task(entry.model, str(entry.recipe), partial(_of_model, entry, compiles))
    for one in compositions(arguments.examples, [entry.name for entry in known]):
        places = arguments.work / one.name, arguments.examples.resolve().parent
        yield Task(one, " + ".join(one.models), partial(_of_several, one, compiles, *places))


def _of_model(entry: Entry, compiles: Compiles) -> System:
    report = compiles.report(entry.name)
    found = record.measured(entry.model, parse(decode(report.read_bytes(), dict[str, Any])))
    return msgspec.structs.replace(found, targets=dict(_with_steps(found.targets, report.parent)))


def _of_several(one: Composition, compiles: Compiles, folder: Path, root: Path) -> System:
    reports = [compiles.report(name) for name in one.models]
    floats = [compiles.floats(name, one.target, folder) for name in one.models]
    found = composed.measured(one, floats, reports, folder, root)
    return msgspec.structs.replace(record.described(one), composed=found)


def _with_steps(targets: Mapping[str, Target], folder: Path) -> Iterator[tuple[str, Target]]:
    """Yield targets with what a step takes beyond the runtime's own, of models that generate.

    Raises:
        MeasureError: a bundle's steps cannot be timed.
    """
    for name, target in targets.items():
        if target.tokens_equal is not None:
            (bundle,) = folder.glob(f"*-{name}.edgefuse")
            words = [sys.executable, "-m", "benchmarks.decoder_steps", str(bundle), "--rung", target.rung]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MeasureError(
                    f"the steps of {bundle.name} cannot be timed", got=done.stderr.strip().split("\n")[-1]
                )
            step = decode(done.stdout.encode(), dict[str, Any])
            target = msgspec.structs.replace(target, step_overhead=step["ratio"] - 1)
        yield name, target


def run(arguments: argparse.Namespace) -> int:
    """Compile what is asked for, write file and page after each, and return the exit code.

    Raises:
        DataError: there is no such system, or the page has no place for the table.
    """
    tasks = {task.described.name: task for task in _tasks(arguments)}
    for name in arguments.only or ():
        if name not in tasks:
            raise DataError("there is no such system", got=repr(name), expected=" or ".join(tasks))
    written = arguments.docs.read_text(encoding="utf-8") if arguments.docs else ""
    found = {one.name: one for one in record.read(arguments.out) if one.name in tasks}
    for name, task in tasks.items():
        if not arguments.only or name in arguments.only:
            print(f"{name}: {task.made_of}", file=sys.stderr, flush=True)
            found[name] = judged(task, page.explained(written))
            _told(found[name])
        systems = tuple(found[name] for name in tasks if name in found)
        record.write(arguments.out, systems)
        if arguments.docs:
            arguments.docs.write_text(page.with_table(written, systems), encoding="utf-8")
    return 0 if all(one.ok for system in found.values() for one in system.verdicts) else 1


def _told(system: System) -> None:
    for one in system.verdicts:
        print(f"{'ok    ' if one.ok else 'not ok'}  {system.name}, {one.what}: {one.figure}", flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.systems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--out", type=Path, default=Path("out/systems.json"), help="the systems as JSON")
    add("--work", type=Path, default=Path("out/systems"), help="folder of bundles, reports and logs, one per system")
    add("--docs", type=Path, help="a page, whose table is written anew")
    add("--only", action="append", metavar="NAME", help="only this system (again for more)")
    add("--examples", type=Path, default=Path("examples"), help="the folder whose models are compiled")
    add("--jobs", type=int, default=1, help="of a compile, at the same time")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the arguments; those of the process if None.
    """
    try:
        return run(parser().parse_args(argv))
    except EdgefuseError as error:
        print(f"edgefuse: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
