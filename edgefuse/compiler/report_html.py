"""Show a report as one self-contained HTML page: no scripts, no network, light and dark, on paper too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from edgefuse.compiler.report_charts import Scatter, scatter, worst
from edgefuse.compiler.report_schema import BundleReport, CandidateReport, Interval, Report, RungReport, parse

_TARGETS = {"onnx": "ONNX", "tflite": "TFLite", "tensorrt": "TensorRT"}
# Metrics that are shares of the items, and so are read in per cent.
_SHARES = frozenset({"accuracy", "macro_f1"})
# Without a budget, a drop of one point gives a cell the full colour.
_DEFAULT_BUDGET = 0.01


@dataclass(frozen=True)
class Row:
    """A line of the main table: the reference, a target's float stages, or a rung with the subset that lost most."""

    name: str
    target: str
    tone: str
    p50_ms: float
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
    """What every scheme did to every stage of one target: `cells[stage][scheme]`."""

    target: str
    schemes: tuple[str, ...]
    cells: Mapping[str, Mapping[str, tuple[CandidateReport, ...]]]


@dataclass(frozen=True)
class TimeBar:
    """How one operating point's time is made up: (stage, scheme, milliseconds, share of the longest bar)."""

    name: str
    target: str
    tone: str
    parts: tuple[tuple[str, str, float, float], ...]

    @property
    def total_ms(self) -> float:
        """The sum over the stages."""
        return sum(part[2] for part in self.parts)


def render(report: Mapping[str, Any]) -> str:
    """Return the content of a `report.json` as an HTML page; sections whose keys are missing are left out.

    Raises:
        EdgefuseError: if it is not such a report.
    """
    typed = parse(report)
    subsets = subset_order(typed)
    rungs = [(bundle, rung) for bundle in typed.bundles for rung in bundle.rungs]
    return _template().render(
        report=typed,
        title=typed.model.name if typed.model else "model",
        targets=[target_name(bundle.target) for bundle in typed.bundles],
        subsets=subsets,
        rows=rows(typed),
        rungs=rungs,
        matrix={subset: [_cell(typed, rung, subset) for _, rung in rungs] for subset in subsets},
        sensitivities=sensitivities(typed),
        times=time_bars(typed),
        stage_names=stage_names(typed),
        scatters=[(bundle.target, plot) for bundle in typed.bundles if (plot := _scatter(typed, bundle))],
        tones=tones(typed),
        share=typed.reference.metric in _SHARES,
        fastest=fastest,
        smallest=lambda bundle: min(bundle.rungs, key=lambda rung: rung.size_bytes),
        worst_drop=lambda rung: worst(drops(typed, rung)),
    )


def subset_order(report: Report) -> tuple[str, ...]:
    """Return the subsets of modalities, the largest first."""
    return tuple(sorted(report.reference.accuracy, key=lambda name: -name.count("+")))


def drops(report: Report, rung: RungReport) -> dict[str, float]:
    """Return what a rung lost against the reference, by subset."""
    return {
        subset: report.reference.accuracy[subset] - rung.accuracy[subset]
        for subset in subset_order(report)
        if subset in rung.accuracy
    }


def fastest(bundle: BundleReport) -> RungReport | None:
    """Return the rung that was chosen for latency, else the one with the lowest p50, if there is any."""
    for rung in bundle.rungs:
        if rung.objective == "latency":
            return rung
    return min(bundle.rungs, key=lambda rung: rung.p50_ms, default=None)


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
            result.append(Row("float", target, tone + " float", bundle.float_p50_ms, bundle.float_size_bytes))
        for rung in bundle.rungs:
            lost = worst(drops(report, rung))
            shown = tone + (" float" if rung.objective == "float" else "")
            accuracy = rung.accuracy.get(full)
            row = Row(rung.name, target, shown, rung.p50_ms, rung.size_bytes, accuracy, rung, lost if lost[0] else None)
            result.append(row)
    return result


def _cell(report: Report, rung: RungReport, subset: str) -> Cell | None:
    if subset not in rung.accuracy:
        return None
    budget = report.budget.max_drop if report.budget and report.budget.max_drop > 0 else _DEFAULT_BUDGET
    drop = drops(report, rung)[subset]
    return Cell(
        accuracy=rung.accuracy[subset],
        drop=drop,
        ci95=rung.drop_ci95.get(subset),
        heat=round(max(-1.0, min(1.0, drop / budget)), 3),
        # Accuracies are multiples of 1/items: a drop of exactly the budget must not exceed it by rounding.
        over=report.budget is not None and drop > budget + 1e-9,
    )


def sensitivities(report: Report) -> list[Sensitivity]:
    """Return the candidates of each target as a grid of stages by schemes, in order of appearance."""
    result = []
    for bundle in report.bundles:
        mine = [item for item in report.stages if item.target == bundle.target]
        schemes = tuple(dict.fromkeys(item.scheme for item in mine))
        cells = {
            stage: {
                scheme: tuple(item for item in mine if (item.stage, item.scheme) == (stage, scheme))
                for scheme in schemes
            }
            for stage in dict.fromkeys(item.stage for item in mine)
        }
        if mine:
            result.append(Sensitivity(bundle.target, schemes, cells))
    return result


def stage_names(report: Report) -> tuple[str, ...]:
    """Return the names of the stages that were measured one by one, in the model's order if it is known."""
    measured = dict.fromkeys(item.stage for item in report.stages)
    order = report.model.stages if report.model else ()
    return tuple(name for name in order if name in measured) + tuple(name for name in measured if name not in order)


def time_bars(report: Report) -> list[TimeBar]:
    """Return, for torch, each target in float and each of its rungs, the time of every stage measured alone."""
    bars = []
    eager = report.reference.stages_ms
    if eager:
        bars.append(("torch eager", "", [(stage, "fp32", eager[stage]) for stage in stage_names(report)]))
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
        if chosen is not None and chosen.p50_ms is not None:
            parts.append((stage, chosen.scheme, chosen.p50_ms))
            continue
        floats = [item.p50_ms for item in mine if item.scheme == "float"] + [item.float_p50_ms for item in mine]
        known = [value for value in floats if value is not None]
        if known:
            parts.append((stage, "float", known[0]))
    return parts


def _scatter(report: Report, bundle: BundleReport) -> Scatter | None:
    judged = [item for item in report.search.judged if item.target == bundle.target] if report.search else []
    if not judged:
        return None
    return scatter(judged, bundle.rungs, report.budget.max_drop if report.budget else None)


def target_name(target: str) -> str:
    """Return how a target is spelled by those who made it."""
    return _TARGETS.get(target, target)


def milliseconds(value: float) -> str:
    """Return milliseconds with three significant digits and at least two decimals: `0.684`, `12.31`."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def size(value: float) -> str:
    """Return bytes in decimal units: `822 kB`, `7.92 MB`."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB" if value >= 1e3 else f"{value:.0f} B"


def decibels(value: float) -> str:
    """Return a signal-to-noise ratio; without any noise it is `exact`."""
    return "exact" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign, and never a negative zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", "−")


def breakable(name: str) -> Markup:
    """Escape an identifier and let it wrap after its separators."""
    text = str(escape(name))
    for separator in "_.+":
        text = text.replace(separator, separator + "<wbr>")
    return Markup(text)


def tolerance(value: Mapping[str, float | None]) -> str:
    """Return a tolerance as a short sentence."""
    if (snr := value.get("min_snr_db")) is not None:
        return f"≥ {snr:g} dB"
    return f"≤ {value.get('absolute') or 0:.0e} + {value.get('relative') or 0:.0e}·max|y|"


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        target=target_name,
        ms=milliseconds,
        bytes=size,
        db=decibels,
        signed=signed,
        breakable=breakable,
        tolerance=tolerance,
    )
    return environment.from_string(files("edgefuse.compiler").joinpath("report.html").read_text(encoding="utf-8"))
