"""The tables of `docs/systems.md`, between two marks. The rest is written by hand.

A row for each system and target; and, in a table of their own, one for each system that is composed of several models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from benchmarks.systems.record import Answers, Composed, System, Target, whole
from edgefuse.compiler.report.part import Gain
from edgefuse.errors import DataError
from edgefuse.measure.metrics import is_share

BEGIN, END = "<!-- systems: begin (`make systems` writes this) -->", "<!-- systems: end -->"

Cell: TypeAlias = Callable[[System, Target], str]
ComposedCell: TypeAlias = Callable[[System, Composed], str]
NOTHING = "–"


def _metric(system: System, figures: Mapping[str, float] | None, subset: str) -> str:
    if not figures or system.metric is None:
        return NOTHING
    return f"{100 * figures[subset]:.2f} %" if is_share(system.metric) else f"{figures[subset]:.4g}"


def _reference(system: System, target: Target) -> str:
    shown = _metric(system, system.reference, whole(system))
    return shown if shown == NOTHING else f"{system.metric} {shown}"


def _worst(system: System, target: Target) -> str:
    if not target.drop or not target.drop_ci95 or system.metric is None:
        return NOTHING
    worst = max(system.bound, key=lambda subset: target.drop[subset])  # type: ignore[index] # seen not to be None
    scale, digits = (100, ".2f") if is_share(system.metric) else (1, ".4g")
    lost, low, high = (f"{scale * one:{digits}}" for one in (target.drop[worst], *target.drop_ci95[worst]))
    return f"{lost} [{low}, {high}], {worst}"


def _gain(gain: Gain | None) -> str:
    return NOTHING if gain is None else f"{gain.ratio:.2f} ×{' (busy)' if gain.marked else ''}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def _shown(system: System) -> str:
    missed = [one for one in system.verdicts if not one.ok]
    return "yes" if not missed else "no: " + "; ".join(f"{one.what} ({one.figure})" for one in missed)


COLUMNS: Mapping[str, tuple[str, Cell]] = MappingProxyType(
    {
        "system": ("name", lambda system, target: f"`{system.name}`"),
        "modalities": ("modalities", lambda system, target: " + ".join(system.modalities)),
        "synthetic": ("data", lambda system, target: ", ".join(system.data.synthetic) or "nothing"),
        "target": ("targets", lambda system, target: next(n for n, one in system.targets.items() if one is target)),
        "reference": ("reference", _reference),
        "after": ("metric", lambda system, target: _metric(system, target.metric, whole(system))),
        "most lost": ("drop_ci95", _worst),
        "over float": ("speedup_over_float", lambda system, target: _gain(target.speedup_over_float)),
        "over torch": ("speedup_over_torch", lambda system, target: _gain(target.speedup_over_torch)),
        "smaller": ("size_ratio", lambda system, target: f"{target.size_ratio:.2f} ×"),
        "smallest rung": ("smallest_size_ratio", lambda system, target: f"{target.smallest_size_ratio:.2f} ×"),
        "tokens equal": ("tokens_equal", lambda system, target: _share(target.tokens_equal)),
        "step overhead": ("step_overhead", lambda system, target: _share(target.step_overhead)),
        "shows what it must": ("verdicts", lambda system, target: _shown(system)),
    }
)
"""A column of the table: the field of `systems.json` that it shows, and its cell."""


def _right(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {100 * share:.2f} %" for part, share in shares.items())


def _lost(found: Composed) -> str:
    shown = []
    for part, drop in found.drop.items():
        lost, low, high = (f"{100 * one:.2f}" for one in (drop, *found.drop_ci95[part]))
        shown.append(f"{part} {lost} [{low}, {high}]")
    return ", ".join(shown)


def _rate(found: Composed, answers: Answers) -> str:
    return f"{answers.per_second:.1f}{' (busy)' if found.busy else ''}"


COMPOSED_COLUMNS: Mapping[str, tuple[str, ComposedCell]] = MappingProxyType(
    {
        "system": ("name", lambda system, found: f"`{system.name}`"),
        "models": ("models", lambda system, found: " + ".join(f"`{name}`" for name in found.models)),
        "target": ("target", lambda system, found: found.target),
        "items": ("items", lambda system, found: f"{found.items:,}"),
        "float": ("float_files", lambda system, found: _right(found.float_files.right)),
        "after": ("compiled", lambda system, found: _right(found.compiled.right)),
        "lost": ("drop_ci95", lambda system, found: _lost(found)),
        "smaller": ("size_ratio", lambda system, found: f"{found.size_ratio:.2f} ×"),
        "size": ("size_bytes", lambda system, found: f"{found.size_bytes / 1e6:.2f} MB"),
        "replicas of each": ("replicas", lambda system, found: f"{found.replicas}"),
        "clients": ("clients", lambda system, found: f"{found.clients}"),
        "answers per second": ("busy", lambda system, found: _rate(found, found.compiled)),
        "in float": ("float_files", lambda system, found: _rate(found, found.float_files)),
        "p50": ("compiled", lambda system, found: f"{found.compiled.p50_ms:.0f} ms"),
        "p90": ("compiled", lambda system, found: f"{found.compiled.p90_ms:.0f} ms"),
        "shows what it must": ("verdicts", lambda system, found: _shown(system)),
    }
)
"""A column of the table of composed systems: the field of `systems.json` that it shows, and its cell."""


def table(systems: Sequence[System]) -> str:
    """Return the table, what failed, the table of composed systems, and references by subset of the modalities."""
    head = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    rows = [
        f"| {' | '.join(cell(system, target).replace('|', '/') for _, cell in COLUMNS.values())} |"
        for system in systems
        for target in system.targets.values()
    ]
    failed = [f"- `{one.name}`, {what}: {why}" for one in systems for what, why in one.failed.items()]
    return "\n".join([*head, *rows, *([""] if failed else []), *failed, *_composed(systems), *_subsets(systems)])


def _composed(systems: Sequence[System]) -> Iterator[str]:
    told = [(system, system.composed) for system in systems if system.composed]
    if not told:
        return
    yield from ("", "Composed of several models, and asked as their clients ask:", "")
    yield from (f"| {' | '.join(COMPOSED_COLUMNS)} |", f"|{'---|' * len(COMPOSED_COLUMNS)}")
    for system, found in told:
        cells = (cell(system, found).replace("|", "/") for _, cell in COMPOSED_COLUMNS.values())
        yield f"| {' | '.join(cells)} |"


def _subsets(systems: Sequence[System]) -> Iterator[str]:
    told = [system for system in systems if system.reference]
    if told:
        yield from ("", "The full-precision models in each subset of their modalities, on the test split:", "")
    for system in told:
        figures = (f"{subset} {_metric(system, system.reference, subset)}" for subset in system.reference or ())
        items = f"{system.items:,} items of {system.data.source}"
        yield f"- `{system.name}`, {system.metric}, {items}: {', '.join(figures)}"


def with_table(page: str, systems: Sequence[System]) -> str:
    """Return a page with the table of these systems in place of the one that it has.

    Args:
        page: Markdown.
        systems: by name.

    Raises:
        DataError: the page has no place for it.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise DataError("the page has no place for the table of systems", expected=f"'{BEGIN}' and then '{END}', once")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(systems)}\n{END}{rest.split(END)[1]}"


def explained(page: str) -> frozenset[str]:
    """Return the systems of which the page says why one modality does as well: `- **name**: …` after the table."""
    return frozenset(re.findall(r"^- \*\*([^*]+)\*\*: \S", page.partition(END)[2], re.MULTILINE))
