"""Compile the reference models for ONNX and TFLite, and hold each to what it must show; see `docs/systems.md`.

A run that was stopped goes on where it was: compiles find their work in the cache, and systems that are not asked for
keep their place in the file. A system that fails does not keep the others from theirs. Exit code 1: one does not show
what it must.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import compiling
from benchmarks.systems import page, record
from benchmarks.systems.catalogue import Entry, entries
from benchmarks.systems.record import System, Target
from benchmarks.systems.verdicts import verdicts
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


def system_of(entry: Entry, folder: Path, jobs: int, explained: Collection[str]) -> System:
    """Return a system with its figures and verdicts; without figures, and with the reason, if it cannot be compiled.

    Args:
        entry: the model and its recipe.
        folder: of what is made of it.
        jobs: at the same time.
        explained: the systems of which the page says why one modality does as well.
    """
    try:
        report = parse(decode(compiled(entry, folder, jobs).read_bytes(), dict[str, Any]))
        found = record.measured(entry.model, report)
        found = msgspec.structs.replace(found, targets=dict(_with_steps(found.targets, folder)))
    except (EdgefuseError, OSError, msgspec.MsgspecError) as error:
        found = msgspec.structs.replace(record.described(entry.model), failed={entry.model.name: cited(error)})
    return msgspec.structs.replace(found, verdicts=verdicts(found, explained))


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
    known = entries(arguments.examples)
    names = [entry.model.name for entry in known]
    for name in arguments.only or ():
        if name not in names:
            raise DataError("there is no such system", got=repr(name), expected=" or ".join(names))
    written = arguments.docs.read_text(encoding="utf-8") if arguments.docs else ""
    found = {one.name: one for one in record.read(arguments.out) if one.name in names}
    for entry in known:
        if not arguments.only or entry.model.name in arguments.only:
            print(f"{entry.model.name}: {entry.recipe}", file=sys.stderr, flush=True)
            folder = arguments.work / entry.model.name
            found[entry.model.name] = system_of(entry, folder, arguments.jobs, page.explained(written))
            _told(found[entry.model.name])
        systems = tuple(found[name] for name in names if name in found)
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
