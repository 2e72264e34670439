"""The tables and bars of the report page: its figures arranged, without a word of markup."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from edgefuse.compiler.report.charts import worst
from edgefuse.compiler.report.format import reference_name
from edgefuse.compiler.report.part import Interval
from edgefuse.compiler.report.schema import BundleReport, CandidateReport, Report, RungReport, StageCosts

# Without a budget, a drop of one point gives a cell the full colour.
_DEFAULT_BUDGET = 0.01


@dataclass(frozen=True)
class Row:
    """A line of the main table: the reference, a target's float stages, or a rung with the subset that lost most."""

    name: str
    target: str
    tone: str
    p50: float | None
    size_bytes: int
    accuracy: float | None = None
    rung: RungReport | None = None
    worst: tuple[str, float] | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of the subset matrix; `heat` is the drop in budgets, from -1 (gained) to 1 (all of it, or more)."""

    accuracy: float
    drop: float
    ci95: Interval | None
    heat: float
    over: bool


@dataclass(frozen=True)
class Sensitivity:
    """The figures of every scheme on every form of every stage of one target: `cells[stage, pruning][scheme]`."""

    target: str
    schemes: tuple[str, ...]
    cells: Mapping[tuple[str, str], Mapping[str, tuple[CandidateReport, ...]]]


@dataclass(frozen=True)
class Step:
    """A rung of a target's ladder, with its price.

    Attributes:
        mean_drop: over all subsets.
        saved: against the rung above; negative if it is slower. None for the first.
        extra_drop: of the worst subset, against the rung above.
        runs: of the stages, those that are not as they came: (stage, pruning, scheme).
    """

    rung: RungReport
    worst: tuple[str, float]
    mean_drop: float
    saved: float | None
    saved_bytes: int | None
    extra_drop: float | None
    runs: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class TimeBar:
    """How one operating point's time is made up: (stage, scheme, milliseconds, share of the longest bar)."""

    name: str
    target: str
    tone: str
    parts: tuple[tuple[str, str, float, float], ...]

    @property
    def total(self) -> float:
        """The sum over the stages."""
        return sum(part[2] for part in self.parts)


def subset_order(report: Report) -> tuple[str, ...]:
    """Return the subsets of modalities, the largest first."""
    return tuple(sorted(report.reference.accuracy, key=lambda name: -name.count("+")))


def drops(report: Report, rung: RungReport) -> dict[str, float]:
    """Return the drops of a rung against the reference, by subset."""
    return {
        subset: report.reference.lost(subset, rung.accuracy[subset])
        for subset in subset_order(report)
        if subset in rung.accuracy
    }


def worst_drop(report: Report, rung: RungReport) -> tuple[str, float]:
    """Return the subset that lost most of what the budget allows there, and how much it lost."""
    lost, budget = drops(report, rung), report.budget
    if budget is None or not budget.limits:
        return worst(lost)
    subset, _ = worst({subset: drop / (budget.limit(subset) or 1.0) for subset, drop in lost.items()})
    return subset, lost.get(subset, 0.0)


def headline(bundle: BundleReport) -> RungReport | None:
    """Return the rung that was chosen for latency, else the one with the lowest p50, if there is any."""
    for rung in bundle.rungs:
        if rung.objective == "latency":
            return rung
    return min(bundle.rungs, key=lambda rung: rung.p50, default=None)


def tones(report: Report) -> dict[str, str]:
    """Return the class of each target's colour."""
    return {bundle.target: f"t{index % 3}" for index, bundle in enumerate(report.bundles)}


def rows(report: Report) -> list[Row]:
    """Return the lines of the main table: the reference, then each target's float stages and rungs."""
    full = next(iter(subset_order(report)), "")
    reference = report.reference
    # What follows the first comma says how it was chosen; the lines above and below the table have room for it.
    name = reference.runtime.partition(",")[0]
    result = [Row(name, "", "ref", reference.p50_ms, reference.size_bytes, reference.accuracy.get(full))]
    for bundle in report.bundles:
        target, tone = bundle.target, tones(report)[bundle.target]
        if not any(rung.objective == "float" for rung in bundle.rungs):
            result.append(Row("float", target, tone + " float", bundle.float_p50, bundle.float_size_bytes))
        for rung in bundle.rungs:
            lost = worst_drop(report, rung)
            shown = tone + (" float" if rung.objective == "float" else "")
            accuracy = rung.accuracy.get(full)
            row = Row(rung.name, target, shown, rung.p50, rung.size_bytes, accuracy, rung, lost if lost[0] else None)
            result.append(row)
    return result


def ladder(report: Report, bundle: BundleReport) -> list[Step]:
    """Return the rungs of a bundle in its order, each with its saving and its drop against the one above."""
    steps: list[Step] = []
    for rung in bundle.rungs:
        lost, above = drops(report, rung), steps[-1] if steps else None
        here = worst_drop(report, rung)
        steps.append(
            Step(
                rung=rung,
                worst=here,
                mean_drop=fmean(lost.values()) if lost else 0.0,
                saved=above.rung.p50 - rung.p50 if above else None,
                saved_bytes=above.rung.size_bytes - rung.size_bytes if above else None,
                extra_drop=here[1] - above.worst[1] if above else None,
                runs=tuple(
                    (stage, choice.pruning, choice.scheme)
                    for stage, choice in rung.stages.items()
                    if choice.pruning or choice.scheme != "float"
                ),
            )
        )
    return steps


def totals(report: Report) -> dict[str, tuple[StageCosts, StageCosts]]:
    """Return, by target, the costs of all modalities and shared stages together, before and after.

    Sizes are those of the bundle: a file that several modalities run is stored once.
    """
    found = {}
    bundles = {bundle.target: bundle for bundle in report.bundles}
    for target in dict.fromkeys(line.target for line in report.modalities):
        mine, bundle = [line for line in report.modalities if line.target == target], bundles[target]
        before, after = bundle.float_size_bytes, bundle.rungs[0].size_bytes
        found[target] = (_sum([line.before for line in mine], before), _sum([line.after for line in mine], after))
    return found


def _sum(costs: Sequence[StageCosts], size_bytes: int) -> StageCosts:
    return StageCosts(
        p50=sum(cost.p50 for cost in costs),
        size_bytes=size_bytes,
        mac=sum(cost.mac for cost in costs),
        bytes_moved=sum(cost.bytes_moved for cost in costs),
        activation_bytes=max(cost.activation_bytes for cost in costs),
    )


def cell(report: Report, rung: RungReport, subset: str) -> Cell | None:
    """Return the metric and the drop of a rung in a subset, or None if it was not judged there.

    Args:
        report: the whole report.
        rung: of a bundle in it.
        subset: of the modalities, as `image+audio`.
    """
    if subset not in rung.accuracy:
        return None
    allowed = report.budget.limit(subset) if report.budget else math.inf
    scale = allowed if 0 < allowed < math.inf else _DEFAULT_BUDGET
    drop = drops(report, rung)[subset]
    return Cell(
        accuracy=rung.accuracy[subset],
        drop=drop,
        ci95=rung.drop_ci95.get(subset),
        heat=round(max(-1.0, min(1.0, drop / scale)), 3),
        # Accuracies are multiples of 1/items: a drop of exactly the budget must not exceed it by rounding.
        over=drop > allowed + 1e-9,
    )


def sensitivities(report: Report) -> list[Sensitivity]:
    """Return the candidates of each target as a grid of stages by schemes, in order of appearance."""
    result = []
    for bundle in report.bundles:
        mine = [item for item in report.stages if item.target == bundle.target]
        schemes = tuple(dict.fromkeys(item.scheme for item in mine))
        cells = {
            form: {
                scheme: tuple(item for item in mine if (_form(item), item.scheme) == (form, scheme))
                for scheme in schemes
            }
            for form in dict.fromkeys(map(_form, mine))
        }
        if mine:
            result.append(Sensitivity(bundle.target, schemes, cells))
    return result


def _form(item: CandidateReport) -> tuple[str, str]:
    return item.stage, item.pruning


def stage_names(report: Report) -> tuple[str, ...]:
    """Return the names of the stages that were measured one by one, in the model's order if it is known."""
    measured = dict.fromkeys(item.stage for item in report.stages)
    order = report.model.stages if report.model else ()
    return tuple(name for name in order if name in measured) + tuple(name for name in measured if name not in order)


def time_bars(report: Report) -> list[TimeBar]:
    """Return, for the reference, each target in float and each of its rungs, the time of every stage measured alone."""
    bars = []
    eager = report.reference.stages_ms
    if eager:
        name = reference_name(report.reference.runtime)
        label = "torch eager" if name == "torch" else name
        bars.append((label, "", [(stage, "fp32", eager[stage]) for stage in stage_names(report)]))
    for bundle in report.bundles:
        mine = [item for item in report.stages if item.target == bundle.target]
        bars.append(("float", bundle.target, _parts(report, mine, None)))
        for rung in bundle.rungs:
            if rung.objective != "float":
                bars.append((rung.name, bundle.target, _parts(report, mine, rung.name)))
    longest = max((sum(part[2] for part in parts) for _, _, parts in bars), default=0.0)
    colour = tones(report)
    return [
        TimeBar(name, target, colour.get(target, "ref"), tuple((*part, part[2] / longest) for part in parts))
        for name, target, parts in bars
        if parts and longest > 0
    ]


def _parts(report: Report, candidates: Sequence[CandidateReport], rung: str | None) -> list[tuple[str, str, float]]:
    """Return (stage, scheme, milliseconds) of what a rung runs, or of the float stages for None."""
    parts = []
    for stage in stage_names(report):
        mine = [item for item in candidates if item.stage == stage]
        chosen = next((item for item in mine if rung in item.chosen_by), None) if rung else None
        if chosen is not None and chosen.p50 is not None:
            scheme = f"{chosen.pruning} {chosen.scheme}".lstrip()
            parts.append((stage, scheme, chosen.p50))
            continue
        floats = [item.p50 for item in mine if item.scheme == "float" and not item.pruning] + [
            item.float_p50 for item in mine
        ]
        known = [value for value in floats if value is not None]
        if known:
            parts.append((stage, "float", known[0]))
    return parts
