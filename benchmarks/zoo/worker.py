"""One entry in a process of its own: `python -m benchmarks.zoo.worker ENTRY FOLDER STEP … [--no-single]`.

A step is `found`, or one of `made`, `timed`, `check` and a target: `made:onnx`. What each tells goes to a file of its
own in the folder as soon as it is known, so that a process that dies takes nothing with it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import nn

from benchmarks.zoo.catalogue import ENTRIES
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.record import SINGLE, SPLIT, Row, Target, found_row, from_report, read_report
from benchmarks.zoo.timers import PAIR_ROUNDS, Alone, Untimed, compiled_with
from edgefuse import registry
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ModelSpec
from edgefuse.compiler import compile
from edgefuse.compiler.check.checking import check
from edgefuse.errors import EdgefuseError
from edgefuse.measure.latency import single_stream
from edgefuse.measure.rungs import golden_inputs
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.runtime.pipeline import load
from edgefuse.stages.found import find
from edgefuse.stages.stage import TorchStage

_SCHEMES = 2
_AGAIN = 4
"""How many times as many rounds a comparison gets in which splitting seems to lose."""

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
targets = ["{target}"]

[search]
max_drop = {max_drop:.3g}
"""


def as_one_stage(entry: Entry) -> tuple[nn.Module, ModelSpec]:
    """Return an entry's module called by position, which stays one stage."""
    return entry.found.module, entry.found.spec


def write_recipes(entry: Entry, folder: Path, target: str, *, every_scheme: bool = False) -> None:
    """Write a recipe as a user would, and one for the same model as a single stage.

    Args:
        entry: of the catalogue.
        folder: for the recipes.
        target: its name.
        every_scheme: try on each stage all that the quantizer offers, as a recipe without `[schemes]` does, and not
            the likeliest two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"zoo_{entry.name}.py").write_text(MODULE.format(name=entry.name), encoding="utf-8")
    for recipe, factory in ((target, "build"), (f"{target}-{SINGLE}", SINGLE)):
        text = RECIPE.format(name=entry.name, factory=factory, target=target, max_drop=entry.max_drop())
        if not every_scheme:
            stages = entry.found.stages if factory == "build" else find(*as_one_stage(entry)).stages
            text += _likeliest(stages, target)
        (folder / f"{recipe}.toml").write_text(text, encoding="utf-8")


def _likeliest(stages: Sequence[TorchStage], target: str) -> str:
    """Return the section that narrows the schemes: quantizers name the likely best first."""
    quantizer: Quantizer = registry.create("quantizers", target)
    offered = {stage.spec.name: quantizer.schemes(stage.spec)[:_SCHEMES] for stage in stages}
    lines = [f'"{name}" = {[scheme.id for scheme in schemes]}' for name, schemes in offered.items() if schemes]
    return "\n".join(["", "[schemes]", *lines, ""])


def find_stages(entry: Entry) -> Row:
    """Return how an entry is taken apart, or why it is not."""
    module, _ = entry.build()
    try:
        return found_row(entry.name, entry.found)
    except EdgefuseError as error:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return Row(model=entry.name, parameters=parameters, error=_in_a_line(error))


def make(entry: Entry, folder: Path, target: str, *, single: bool, every_scheme: bool = False) -> Target:
    """Compile an entry for a target, and also as one stage; nothing is timed.

    Args:
        entry: of the catalogue.
        folder: for recipes, bundles and the cache.
        target: its name.
        single: whether to compile it as one stage, too.
        every_scheme: as in `write_recipes`.
    """
    write_recipes(entry, folder, target, every_scheme=every_scheme)
    with compiled_with(Untimed()):
        told = _compiled(folder, target)
        if told.compiled and single and len(entry.found.stages) > 1:
            alone = _compiled(folder, target, f"-{SINGLE}")
            told.single_stage_seconds, told.single_stage_error = alone.seconds, alone.error
        return told


def timed(entry: Entry, folder: Path, target: str, *, single: bool) -> Target:
    """Compile an entry again from what was made of it, with its choices timed; and compare it with the single stage.

    Args:
        entry: of the catalogue.
        folder: as for `make`.
        target: its name.
        single: whether to compare, where it was made as one stage.
    """
    with compiled_with(Alone()):
        told = _compiled(folder, target)
        if told.compiled and single and list(_place(folder, target, f"-{SINGLE}").glob("*.edgefuse")):
            alone = _compiled(folder, target, f"-{SINGLE}")
            told.single_stage_seconds, told.busy = alone.seconds, (*told.busy, *alone.busy)
            if alone.compiled:
                bundles = [next(_place(folder, target, kind).glob("*.edgefuse")) for kind in ("", f"-{SINGLE}")]
                against_single(told, *bundles)
    told.busy = tuple(dict.fromkeys(told.busy))
    return told


def checked(entry: Entry, folder: Path, target: str) -> tuple[str, ...]:
    """Return what `edgefuse check` says stands in the way of a target."""
    if not (folder / f"{target}.toml").exists():  # its stages are not found, so that no schemes can be named for them
        write_recipes(entry, folder, target, every_scheme=True)
    try:
        found = check(folder / f"{target}.toml", targets=[target], cache=folder / "cache")
    except EdgefuseError as error:
        return (_in_a_line(error),)
    return tuple(" ".join(finding.says.split()) for finding in found.findings if finding.stops)


def _compiled(folder: Path, target: str, kind: str = "") -> Target:
    """Compile a recipe, from the cache where that has something, and return what is told of it."""
    began = time.perf_counter()
    try:
        made = compile(folder / f"{target}{kind}.toml", _place(folder, target, kind), cache=folder / "cache")
    except EdgefuseError as error:
        return Target(seconds=round(time.perf_counter() - began, 1), error=_in_a_line(error))
    told = from_report(read_report(made.report_json), target, time.perf_counter() - began)
    told.busy = made.busy
    return told


def _place(folder: Path, target: str, kind: str) -> Path:
    return folder / f"{target}{kind}"


def _in_a_line(error: EdgefuseError) -> str:
    return " ".join(str(error).split())


def against_single(told: Target, split: Path, single: Path) -> None:
    """Time a bundle against that of the same model as one stage.

    Both are opened three times, as `edgefuse bench` does (decision 101). One of forty equals seems slower: what does is
    timed once more, and for longer.

    Args:
        told: of the first bundle; it is told what was found.
        split: that bundle.
        single: the other one.
    """
    with open_bundle(split) as bundle:
        inputs = golden_inputs(bundle)
    with ExitStack() as stack:

        def opened() -> dict[str, Callable[[], object]]:
            stack.close()
            pipelines = {name: stack.enter_context(load(path, cache=False)) for name, path in paths.items()}
            return {name: partial(pipeline.infer, inputs) for name, pipeline in pipelines.items()}

        paths = {SPLIT: split, SINGLE: single}
        latencies = single_stream(rounds=PAIR_ROUNDS, max_seconds=6.0)(opened(), opened=opened)
        told.compare(latencies)
        if told.slower_than(1.0):
            again = single_stream(rounds=_AGAIN * PAIR_ROUNDS, max_seconds=20.0, seed=1)
            told.compare(latencies := again(opened(), opened=opened))
    told.busy = (*told.busy, *(f"against one stage: {seen}" for seen in latencies.pressure.seen))


def steps(entry: Entry, folder: Path, wanted: Iterable[str], *, single: bool, every_scheme: bool) -> None:
    """Do steps, and write what each tells.

    Args:
        entry: of the catalogue.
        folder: for all files.
        wanted: the steps.
        single: whether it is compared with the same model as one stage.
        every_scheme: as in `write_recipes`.
    """
    for step in wanted:
        kind, _, target = step.partition(":")
        told: Row | Target | tuple[str, ...]
        if kind == "found":
            told = find_stages(entry)
        elif kind == "made":
            told = make(entry, folder, target, single=single, every_scheme=every_scheme)
        elif kind == "timed":
            told = timed(entry, folder, target, single=single)
        else:
            told = checked(entry, folder, target)
        told_in(folder, step).write_bytes(msgspec.json.encode(told))
        if isinstance(told, Row) and told.error:
            return


def told_in(folder: Path, step: str) -> Path:
    """Return the file with what a step tells."""
    return folder / f"{step.replace(':', '-')}.json"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.zoo.worker", description=__doc__)
    made.add_argument("entry", choices=tuple(ENTRIES))
    made.add_argument("folder", type=Path)
    made.add_argument("steps", nargs="+")
    made.add_argument("--no-single", dest="single", action="store_false", help="not as one stage")
    made.add_argument("--every-scheme", action="store_true", help="try all schemes on each stage")
    return made


def main() -> None:
    """Do as the command line says."""
    given = parser().parse_args()
    torch.set_num_threads(1)  # small models gain nothing by more, and lose much where the processors are busy
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    steps(ENTRIES[given.entry], folder, given.steps, single=given.single, every_scheme=given.every_scheme)


if __name__ == "__main__":
    main()
