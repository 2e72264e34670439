"""Compile architectures as their libraries ship them: `python -m benchmarks.zoo`, to out/zoo.json.

Each gets a factory, a spec and made-up data, and nothing else; weights are random and small. One that fails leaves the
others. Figures count where nothing else runs and `--jobs` is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.zoo.record import Row, Target

ROOT = Path(__file__).parents[2]
TARGETS = ("onnx", "tflite")
_Told = TypeVar("_Told", Row, Target)


def row_of(model: str, arguments: argparse.Namespace) -> Row:
    """Find the stages of a model and compile it for every target, each in a process with a deadline."""
    folder = arguments.work / model
    if not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    row = _child(model, folder, "", Row(model=model), arguments)
    for target in () if row.error else arguments.targets:
        row.targets[target] = _child(model, folder, target, Target(), arguments)
    errors = [f"{target}: {told.error}" for target, told in row.targets.items() if told.error]
    row.error = row.error or "; ".join(errors) or None
    print(line(row), file=sys.stderr, flush=True)
    return row


def _child(model: str, folder: Path, target: str, empty: _Told, arguments: argparse.Namespace) -> _Told:
    """Return what a process tells of a model, or why it told nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / f"{target or 'found'}.json"
    told.unlink(missing_ok=True)
    wanted: dict[str, bool] = {"--single": arguments.single, "--quick": arguments.quick}
    options: list[str] = [name for name, given in wanted.items() if target and given]
    command = [sys.executable, "-m", "benchmarks.zoo.worker", model, str(folder), *filter(None, [target]), *options]
    variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    began = time.perf_counter()
    with (folder / f"{target or 'found'}.log").open("wb") as log:
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=variables, stdout=log, stderr=log, timeout=arguments.deadline, check=False
            )
            empty.error = f"the process ended with {ended.returncode} and told nothing: see {log.name}"
        except subprocess.TimeoutExpired:
            empty.error = f"not done after {arguments.deadline:.0f} s"
    if not told.exists():
        if isinstance(empty, Target):
            empty.seconds = round(time.perf_counter() - began, 1)
        return empty
    return msgspec.json.decode(told.read_bytes(), type=type(empty))


def line(row: Row) -> str:
    """Return a row as a line to read."""
    share = "-" if row.single_modality_share is None else f"{row.single_modality_share:.0%}"
    head = f"{row.model}: {row.parameters / 1e6:.2f} M, {share} see one modality, {len(row.stages)} stages"
    told = [
        f"{target} {one.speedup_over_float} x float in {one.seconds:.0f} s" if one.compiled else f"{target} failed"
        for target, one in row.targets.items()
    ]
    return "; ".join([head, *told]) + (f" ({row.error})" if row.error else "")


def summary(rows: Sequence[Row]) -> str:
    """Return how many compile, and how much faster they are, per target."""
    lines = [f"{len(rows)} models with random, small weights"]
    for target in dict.fromkeys(target for row in rows for target in row.targets):
        tried = [row.targets[target] for row in rows if target in row.targets]
        gains = [one.speedup_over_float for one in tried if one.speedup_over_float is not None]
        median = f", median {statistics.median(gains):.2f} x float" if gains else ""
        lines.append(f"{target}: {sum(one.compiled for one in tried)} of {len(rows)} compile{median}")
    split = [row for row in rows if (row.single_modality_share or 0) >= 0.8]
    lines.append(f"{sum(len(row.stages) > 1 for row in split)} of {len(split)} with a share of 80 % or more are split")
    return "\n".join(lines)


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
    add("--deadline", type=float, default=900.0, help="seconds for one model and target")
    add("--jobs", type=int, default=1, help="models at a time; more than one spoils what is timed")
    add("--single", action="store_true", help="also compile each model as one stage, and compare")
    add("--quick", action="store_true", help="time few rounds: for whether they compile, not for how fast they are")
    add("--keep", action="store_true", help="use what an earlier run left in the caches; seconds are then less")
    return made


def _place(given: str) -> Path:
    return Path(given).absolute()


def main() -> None:
    """Compile, write and print."""
    from benchmarks.zoo.catalogue import ENTRIES  # takes seconds: --help does without

    arguments = parser().parse_args()
    names = arguments.models or list(ENTRIES)
    if unknown := [name for name in names if name not in ENTRIES]:
        parser().error(f"there is no model {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(partial(row_of, arguments=arguments), names))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    print(summary(rows))


if __name__ == "__main__":
    main()
