"""`edgefuse inspect`: the content of a bundle, and its measured figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from edgefuse.bundle.manifest import Machine, Manifest
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.bundle.spec import Modality, Output, spelled, subset_name
from edgefuse.bundle.streamed import chunks_of
from edgefuse.commands import console
from edgefuse.errors import shown
from edgefuse.measure import placement
from edgefuse.measure.metrics import is_share
from edgefuse.measure.placement import Placement
from edgefuse.runtime import signals
from edgefuse.runtime.incremental import streamed_at
from edgefuse.runtime.ladder import Step, steps_of
from edgefuse.runtime.signals import Entry

_MAX_CELL = 500
_MAX_SUBSETS = 255
"""All of eight modalities; sixteen have 65,535."""
_RECOVERIES = {"none": "no", "alone": "against the unpruned stage", "joint": "together with the other stages"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument(
        "--placement", action="store_true", help="also open every file, and show where its operators run"
    )
    parser.add_argument("--json", action="store_true", help="write the manifest and the figures measured here as JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Show the manifest; no stage is opened unless `--placement` asks for it."""
    with open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        here = signals.read_prepared(bundle.path, bundle.digest)
        placements = placement.measure(bundle) if arguments.placement else None
        if arguments.json:
            facts = {"path": str(bundle.path), "digest": bundle.digest, "size_bytes": bundle.size_bytes}
            measured = {"prepared": here} | ({"placement": placements} if placements is not None else {})
            console.write_json(facts | {"manifest": msgspec.to_builtins(bundle.manifest)} | measured)
            return 0
        _print(bundle, here)
        if placements is not None:
            console.write("", "runs where asked")
            console.write(_placements(placements))
    return 0


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out cells that may be of any length: one long cell would widen all of its column."""
    return console.table(header, [[shown(cell, _MAX_CELL) for cell in row] for row in rows])


def _placements(placements: Sequence[Placement]) -> list[str]:
    rows = [
        (found.candidate, str(found.operators), placement.spelled(found), ", ".join(found.elsewhere) or "nothing")
        for found in placements
    ]
    return _table(("candidate", "operators", "where asked", "elsewhere"), rows)


def _print(bundle: Bundle, here: Sequence[Entry]) -> None:
    manifest = bundle.manifest
    console.write(f"{manifest.model.name}: {console.size(bundle.size_bytes)} in {len(manifest.files)} files")
    console.write(f"  digest {bundle.digest}")
    schema = ".".join(map(str, manifest.schema))
    console.write(f"  target {manifest.target}, backend {manifest.backend}, schema {schema}")
    console.write("", "modalities")
    header = ("name", "kind", "tensors", "preprocessing", "may be absent")
    console.write(_table(header, map(_modality_row, manifest.model.modalities)))
    if manifest.streamed:
        console.write("", "streams")
        console.write(_streams(manifest))
    console.write("", "outputs")
    console.write(_table(("name", "content"), [(o.name, _output(o)) for o in manifest.model.outputs]))
    console.write("", "rungs")
    console.write(_rungs(manifest))
    console.write("", "stages by rung")
    console.write(_stages(manifest))
    if pruned := _pruned(manifest):
        console.write("", "pruned stages")
        console.write(pruned)
    if any(rung.accuracy for rung in manifest.rungs):
        of_first = [(rung.accuracy, rung.drop_ci95) for rung in manifest.rungs]
        _print_metric(manifest, manifest.model.metric, "", of_first)
        for output in dict.fromkeys(output for rung in manifest.rungs for output in rung.outputs):
            found = [rung.outputs.get(output) for rung in manifest.rungs]
            metric = next(one.metric for one in found if one)
            _print_metric(
                manifest, metric, f" of {output}", [(o.accuracy, o.drop_ci95) if o else ({}, {}) for o in found]
            )
    else:
        console.write("", manifest.model.metric, "  not measured: an export reads no labels")
    console.write("", "latency")
    console.write(_figures(manifest, here) or "  not measured yet: edgefuse prepare measures it here")
    if len(steps := steps_of(manifest)) > 1:
        console.write("", "ladder: what a device steps down, where it slows down")
        console.write(_ladder(manifest, steps))
    if costs := [(rung.name, f"{rung.cost:.3f}") for rung in manifest.rungs if rung.cost is not None]:
        console.write("", "cost, counted from the files", _table(("rung", "cost"), costs))
    console.write("", "files")
    files = [(entry.path, console.size(entry.size_bytes), entry.sha256[:16]) for entry in manifest.files]
    console.write(_table(("path", "size", "sha256"), files))


def _modality_row(modality: Modality) -> tuple[str, ...]:
    tensors = ", ".join(f"{t.name} {t.dtype} {spelled(t.shape)}" for t in modality.tensors)
    fields = msgspec.to_builtins(modality.preprocess)
    kind = fields.pop("kind")
    steps = ", ".join(f"{name} {value}" for name, value in fields.items()) or "none"
    return modality.name, kind, tensors + (" + length" if modality.length else ""), steps, _yes(modality.optional)


def _streams(manifest: Manifest) -> list[str]:
    """Say of each modality, rung by rung, whether it is encoded chunk by chunk, and of how many values."""
    rows = []
    for modality in manifest.model.modalities:
        cells = []
        for rung in manifest.rungs:
            one = streamed_at(manifest.streamed or (), rung.name).get(modality.name)
            steps = [manifest.candidate(id_).scheme for id_ in one.rungs[rung.name].values()] if one else []
            size = f"chunk by chunk, of {chunks_of(one.stages).size} ({', '.join(steps)})" if one else ""
            cells.append(size or "a whole window each time (ring buffer)")
        rows.append((modality.name, *cells))
    return _table(("modality", *(rung.name for rung in manifest.rungs)), rows)


def _output(output: Output) -> str:
    fields = msgspec.to_builtins(output)
    kind, labels = fields["type"], fields.get("labels", ())
    shown = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
    return f"{len(labels)} {kind}: {shown}" if labels else f"{kind} {list(output.shape)}"


def _rungs(manifest: Manifest) -> list[str]:
    header = ("name", "objective", "stage files", "within budget", "")
    rows = (
        (
            rung.name,
            rung.objective,
            console.size(rung.size_bytes),
            "not measured" if rung.within_budget is None else _yes(rung.within_budget),
            "default" if rung.name == manifest.default_rung else "",
        )
        for rung in manifest.rungs
    )
    return _table(header, rows)


def _stages(manifest: Manifest) -> list[str]:
    header = ("stage", "role", *(rung.name for rung in manifest.rungs))
    rows, joined = [], len(manifest.backends) > 1
    candidates = {candidate.id: candidate for candidate in manifest.candidates}
    for stage in manifest.stages:
        chosen = [candidates[rung.candidates[stage.name]] for rung in manifest.rungs]
        pruned = [f" {c.pruning.id}" if c.pruning else "" for c in chosen]
        where = [f" in {c.backend}" * joined for c in chosen]
        cells = [
            f"{c.scheme}{cut}{place} ({console.size(c.size_bytes)})"
            for c, cut, place in zip(chosen, pruned, where, strict=True)
        ]
        rows.append((stage.name, stage.role, *cells))
    return _table(header, rows)


def _pruned(manifest: Manifest) -> list[str]:
    rows = []
    users: dict[str, list[str]] = {}
    for rung in manifest.rungs:
        for chosen in rung.candidates.values():
            users.setdefault(chosen, []).append(rung.name)
    for candidate in manifest.candidates:
        if candidate.pruning is not None:
            steps = (
                f"{step.method} {100 * step.ratio:g} %" + (f" by {step.importance}" if step.importance else "")
                for step in candidate.pruning.steps
            )
            recovery = _RECOVERIES[candidate.pruning.recovery]
            rows.append((candidate.id, ", then ".join(steps), recovery, ", ".join(users.get(candidate.id, []))))
    return _table(("candidate", "removed", "recovered", "rungs"), rows) if rows else []


_Figures: TypeAlias = tuple[Mapping[str, float], Mapping[str, tuple[float, float]]]
"""A metric by subset, and the intervals of its drops."""


def _print_metric(manifest: Manifest, metric: str, whose: str, found: Sequence[_Figures]) -> None:
    """Print a metric of an output, rung by rung."""
    unit = " in percent" if is_share(metric) else ""
    console.write("", f"{metric}{whose}{unit} by subset of the inputs (lost against the reference, 95 % interval)")
    console.write(_accuracy(manifest, found, 100 if unit else 1))


def _accuracy(manifest: Manifest, figures: Sequence[_Figures], scale: int) -> list[str]:
    rows, form = [], ".1f" if scale > 1 else ".4g"
    subsets = [subset_name(subset) for subset in manifest.model.subsets()]
    for subset in subsets[:_MAX_SUBSETS]:
        cells = []
        for accuracy, drops in figures:
            found, drop = accuracy.get(subset), drops.get(subset)
            interval = f" ({scale * drop[0]:+{form}} to {scale * drop[1]:+{form}})" if drop else ""
            cells.append("-" if found is None else f"{scale * found:{form}}{interval}")
        rows.append((subset, *cells))
    if more := subsets[_MAX_SUBSETS:]:
        rows.append((f"and {len(more)} more (--json)", *("" for _ in manifest.rungs)))
    return _table(("present", *(rung.name for rung in manifest.rungs)), rows)


def _ladder(manifest: Manifest, steps: Sequence[Step]) -> list[str]:
    """Lay out the steps, with what each costs where everything is given, and where it loses most."""
    form = ".1%" if is_share(manifest.model.metric) else ".4g"
    rows, first = [], steps[0].time or 1.0
    for step in steps:
        faster = "" if step is steps[0] or not step.time else f"{first / step.time:.2f} x"
        lost = [(price.lost, price.subset) for price in step.price if price.lost]
        (low, high), where = max(lost, key=lambda one: sum(one[0]), default=((0.0, 0.0), ""))
        worst = f"{low:+{form}} to {high:+{form}} in {where}" if where else "-"
        rows.append((step.rung, faster, f"{step.price[0].now:{form}}" if step.price else "-", worst))
    return _table(("rung", "faster", f"{manifest.model.metric}, all given", "most lost, 95 % interval"), rows)


def _figures(manifest: Manifest, here: Iterable[Entry]) -> list[str]:
    measured = [(rung.name, figure, "compile") for rung in manifest.rungs for figure in rung.figures]
    measured += [(name, figure, "prepare") for entry in here for name, figure in entry.figures.items()]
    header = ("rung", "measured by", "p50 ms", "p90 ms", "p99 ms", "runs", "peak memory", "machine")
    rows = ((rung, by, *console.figure(figure), _machine(figure.machine)) for rung, figure, by in measured)
    return _table(header, rows) if measured else []


def _machine(machine: Machine) -> str:
    return f"{machine.cpu} ({machine.architecture}), threads: {machine.threads}, {console.runtimes(machine)}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
