"""`edgefuse check`: what a compile of a recipe would meet, in seconds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgefuse.commands import console, ending, terminal
from edgefuse.commands.arguments import add_targets, whole
from edgefuse.errors import needing

if TYPE_CHECKING:
    from edgefuse.compiler.check.record import Check, Estimate, Finding, PrunedStage

_MAX_REASONS = 4
_MOSTLY = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    add_targets(parser)
    parser.add_argument(
        "-j",
        "--jobs",
        type=whole(1, 1024),
        metavar="N",
        help="processes that lower stages (default: two for a large model)",
    )
    parser.add_argument("--json", action="store_true", help="write what was found as JSON")


@ending.as_interrupted()
def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Check; 2 if model or data are wrong, 1 if no target is left or a budget cannot be met."""
    with needing("checking", extra="compile"):
        from edgefuse.compiler.check.checking import check
    targets = tuple(arguments.target) if arguments.target else None
    with console.drawn_progress() as progress:
        found = check(arguments.recipe, targets=targets, cache=arguments.cache, progress=progress, jobs=arguments.jobs)
    if arguments.json:
        console.write_json({**msgspec.to_builtins(found), "stopped": found.stopped, "exit_code": found.exit_code})
    else:
        console.write(rendered(found))
    return found.exit_code


def rendered(found: Check) -> list[str]:
    """Return what was found as lines."""
    return [terminal.escaped(line) for part in _parts(found) for line in part]


def _parts(found: Check) -> Iterator[list[str]]:
    yield [f"{found.model}: {len(found.stages)} stages, for {', '.join(found.targets)}"]
    yield ["", "stages", *_stages(found), *(f"  {note}" for note in found.notes)]
    if found.lowered:
        yield ["", "what targets take", *_lowered(found)]
    if found.pruned:
        yield ["", _pruning_title(found.pruned), *_pruned(found)]
    yield ["", "data", *(f"  {name}: {read} of {total} samples read" for name, (read, total) in found.samples.items())]
    if stopping := [finding for finding in found.findings if finding.stops]:
        yield ["", "in the way", *map(_finding, stopping)]
    if others := [finding for finding in found.findings if not finding.stops]:
        yield ["", "to be known", *map(_finding, others)]
    if found.estimate is not None:
        yield ["", *_estimate(found.estimate)]
    yield ["", _verdict(found)]


def _stages(found: Check) -> list[str]:
    header = ("stage", "role", "parameters", "multiply-accumulates", "crosses per sample")
    rows = [
        (
            stage.name,
            stage.role,
            f"{stage.parameters:,}",
            "-" if stage.mac is None else f"{stage.mac:,}",
            console.size(stage.crossing_bytes) if stage.crossing_bytes else "-",
        )
        for stage in found.stages
    ]
    return console.table(header, rows)


def _lowered(found: Check) -> list[str]:
    targets = list(dict.fromkeys(one.target for one in found.lowered))
    results = {(one.target, one.stage): one for one in found.lowered}
    rows = []
    for stage in found.stages:
        cells = [results[target, stage.name] for target in targets]
        rows.append((stage.name, *(f"ok, {console.size(one.size_bytes)}" if one.ok else "no" for one in cells)))
    why = [f"  {one.target}, {one.stage}: {one.says}" for one in found.lowered if not one.ok]
    return [*console.table(("stage, in float", *targets), rows), *why]


def _pruning_title(pruned: Sequence[PrunedStage]) -> str:
    if pruned[0].asked:
        return "what prunes (the recipe's variants, tried without recovery)"
    return "what could be pruned (half of every width, tried without recovery; the recipe prunes nothing)"


def _pruned(found: Check) -> list[str]:
    whole = {stage.name: stage.parameters for stage in found.stages}
    rows = []
    for one in found.pruned:
        left = "no" if one.says else f"{one.parameters:,} of {whole[one.stage]:,}"
        zeros = "" if one.says or one.nonzero > _MOSTLY * one.parameters else f", {one.nonzero:,} not zero"
        narrow = f"{one.narrows} of {one.widths}" if one.widths else "-"
        rows.append((one.stage, one.pruning, left + zeros, narrow))
    why = [line for one in found.pruned for line in _reasons(one)]
    return [*console.table(("stage", "pruning", "parameters left", "widths that narrow"), rows), *dict.fromkeys(why)]


def _reasons(one: PrunedStage) -> list[str]:
    said = [reason for reason in (one.says, *one.stays) if reason]
    more = [f"and {len(said) - _MAX_REASONS} more (--json)"] if len(said) > _MAX_REASONS else []
    return [f"  {one.stage}, {one.pruning}: {reason}" for reason in (*said[:_MAX_REASONS], *more)]


def _finding(finding: Finding) -> str:
    where = ", ".join(word for word in (finding.target, finding.stage) if word)
    return f"  {finding.about}{f' ({where})' if where else ''}: {finding.says}"


def _estimate(estimate: Estimate) -> list[str]:
    parts = ", ".join(f"{what} {_duration(seconds)}" for what, seconds in estimate.seconds.items())
    return [
        f"estimate of the compile, with an empty cache and one job: {_duration(estimate.total_seconds)} "
        f"for {estimate.candidates} files, {console.size(estimate.memory_bytes)} of memory",
        f"  {parts}",
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _verdict(found: Check) -> str:
    took = f"checked in {_duration(found.seconds)}"
    if not found.stopped:
        return f"nothing is in the way of a compile ({took})"
    if len(found.stopped) == len(found.targets):
        return f"no target can be compiled for ({took})"
    return f"{', '.join(found.stopped)} cannot be compiled for, the rest can ({took})"
