"""One entry in a process of its own: `python -m benchmarks.zoo.worker ENTRY FOLDER [TARGET] [--single] [--quick]`.

Without a target its stages are found; with one it is compiled for it. What is told goes to a JSON file in the folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import nn

from benchmarks.zoo.catalogue import ENTRIES
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.record import Row, Target, found_row, from_report, read_report
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ModelSpec
from edgefuse.compiler import compile
from edgefuse.compiler.timing import here
from edgefuse.errors import EdgefuseError
from edgefuse.measure.latency import single_stream
from edgefuse.measure.rungs import golden_inputs
from edgefuse.runtime.pipeline import load
from edgefuse.stages.found import find

_ROUNDS, _QUICK_ROUNDS = 40, 11
_SINGLE = "single"

MODULE = """from benchmarks.zoo import worker
from benchmarks.zoo.catalogue import ENTRIES

entry = ENTRIES["{name}"]
build, data = entry.build, entry.data


def single():
    return worker.as_one_stage(entry)
"""
RECIPE = """[model]
factory = "zoo_{name}:{factory}"

[data]
factory = "zoo_{name}:data"

[compile]
targets = ["onnx", "tflite"]

[search]
max_drop = {max_drop:.3g}
"""


def as_one_stage(entry: Entry) -> tuple[nn.Module, ModelSpec]:
    """Return an entry's module called by position, which stays one stage."""
    found = find(*entry.build())
    return found.module, found.spec


def write_recipes(entry: Entry, folder: Path) -> None:
    """Write a recipe as a user would, and one for the same model as a single stage."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"zoo_{entry.name}.py").write_text(MODULE.format(name=entry.name), encoding="utf-8")
    for recipe, factory in (("recipe", "build"), (_SINGLE, "single")):
        text = RECIPE.format(name=entry.name, factory=factory, max_drop=entry.max_drop())
        (folder / f"{recipe}.toml").write_text(text, encoding="utf-8")


def find_stages(entry: Entry) -> Row:
    """Return how an entry is taken apart, or why it is not."""
    module, spec = entry.build()
    try:
        return found_row(entry.name, find(module, spec))
    except EdgefuseError as error:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return Row(model=entry.name, parameters=parameters, error=" ".join(str(error).split()))


def compile_one(entry: Entry, folder: Path, target: str, *, single: bool = False, quick: bool = False) -> Target:
    """Compile an entry for a target.

    Args:
        entry: of the catalogue.
        folder: for recipes, bundles and the cache.
        target: its name.
        single: also compile the model as one stage, and compare.
        quick: time little.
    """
    write_recipes(entry, folder)
    began = time.perf_counter()
    with _hurried() if quick else _as_users():
        try:
            made = compile(folder / "recipe.toml", folder / target, targets=[target], cache=folder / "cache")
        except EdgefuseError as error:
            return Target(seconds=round(time.perf_counter() - began, 1), error=" ".join(str(error).split()))
        told = from_report(read_report(made.report_json), target, time.perf_counter() - began)
        if single and len(find(*entry.build()).stages) > 1:
            told.speedup_single_stage = _against_single(folder, target, made.bundles[0], quick)
        return told


def _against_single(folder: Path, target: str, bundle: Path, quick: bool) -> float | None:
    """Return how many times faster a bundle is than that of one stage; None if there is none."""
    place = folder / f"{target}-{_SINGLE}"
    try:
        whole = compile(folder / f"{_SINGLE}.toml", place, targets=[target], cache=folder / "cache").bundles[0]
    except EdgefuseError:
        return None
    with load(bundle, cache=False) as split, load(whole, cache=False) as one:
        inputs = golden_inputs(open_bundle(bundle))
        calls = {"split": partial(split.infer, inputs), "one": partial(one.infer, inputs)}
        timing = single_stream(rounds=_QUICK_ROUNDS if quick else _ROUNDS, max_seconds=20.0)
        return round(timing(calls).ratio("split", "one").value, 3)


@contextmanager
def _as_users() -> Iterator[None]:
    yield


@contextmanager
def _hurried() -> Iterator[None]:
    """Time few rounds: for whether a model compiles, not for how fast it is."""
    stages, rungs = here.STAGE_TIMING, here.RUNG_TIMING
    here.STAGE_TIMING = replace(stages, warmup_rounds=2, min_rounds=31, min_seconds=0.0, max_seconds=1.0)
    here.RUNG_TIMING = replace(single_stream(rounds=_QUICK_ROUNDS, max_seconds=2.0), min_seconds=0.0)
    try:
        yield
    finally:
        here.STAGE_TIMING, here.RUNG_TIMING = stages, rungs


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.zoo.worker", description=__doc__)
    made.add_argument("entry", choices=tuple(ENTRIES))
    made.add_argument("folder", type=Path)
    made.add_argument("target", nargs="?")
    made.add_argument("--single", action="store_true", help="also as one stage")
    made.add_argument("--quick", action="store_true", help="time little")
    return made


def main() -> None:
    """Do as the command line says."""
    given = parser().parse_args()
    torch.set_num_threads(1)  # small models gain nothing by more, and lose much where the processors are busy
    entry, folder = ENTRIES[given.entry], given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    told: Row | Target
    if given.target is None:
        told = find_stages(entry)
    else:
        told = compile_one(entry, folder, given.target, single=given.single, quick=given.quick)
    (folder / f"{given.target or 'found'}.json").write_bytes(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
