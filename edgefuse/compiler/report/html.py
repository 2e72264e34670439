"""Show a report as one self-contained HTML page: no scripts, no network, light and dark, on paper too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2

from edgefuse.compiler.report import format as formats
from edgefuse.compiler.report import tables
from edgefuse.compiler.report.charts import Scatter, scatter
from edgefuse.compiler.report.curves import curves
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.judged import OutputReference
from edgefuse.compiler.report.schema import BundleReport, Report
from edgefuse.compiler.report.timings import busy
from edgefuse.measure.metrics import is_share


def render(report: Mapping[str, Any]) -> str:
    """Return the content of a `report.json` as an HTML page; sections whose keys are missing are left out.

    Raises:
        EdgefuseError: if it is not such a report.
    """
    typed = parse(report)
    subsets = tables.subset_order(typed)
    rungs = [(bundle, rung) for bundle in typed.bundles for rung in bundle.rungs]
    share = is_share(typed.reference.metric)
    return _template().render(
        report=typed,
        title=typed.model.name if typed.model else "model",
        targets=[typed.titles.get(bundle.target, bundle.target) for bundle in typed.bundles],
        subsets=subsets,
        rows=tables.rows(typed),
        rungs=rungs,
        matrix={subset: [tables.cell(typed, rung, subset) for _, rung in rungs] for subset in subsets},
        ladders=[(b, tables.ladder(typed, b)) for b in typed.bundles if len(b.rungs) > 1],
        missed=[(b, c) for b in typed.bundles for c in b.constraints if c.excess > 0],
        totals=tables.totals(typed),
        sensitivities=tables.sensitivities(typed),
        times=tables.time_bars(typed),
        stage_names=tables.stage_names(typed),
        scatters=[(bundle.target, plot) for bundle in typed.bundles if (plot := _scatter(typed, bundle))],
        curves=curves(typed.recoveries),
        tones=tables.tones(typed),
        named=lambda target: typed.titles.get(target, target),
        share=share,
        relative=bool(typed.budget and typed.budget.search_limits),
        busy=busy(typed.timings),
        counted=typed.unit == "cost",
        took=lambda value: formats.took(value, typed.unit),
        latency="cost" if typed.unit == "cost" else "p50, ms",
        points="points" if share else typed.reference.metric,
        headline=tables.headline,
        smallest=lambda bundle: min(bundle.rungs, key=lambda rung: rung.size_bytes),
        worst_drop=lambda rung: tables.worst_drop(typed, rung),
        allowed=_allowed(typed),
        limits_of=_limits,
    )


def _scatter(report: Report, bundle: BundleReport) -> Scatter | None:
    judged = [item for item in report.search.judged if item.target == bundle.target] if report.search else []
    if not judged:
        return None
    return scatter(judged, bundle.rungs, report.budget)


def _allowed(report: Report) -> str:
    """Spell what may be lost in each subset."""
    if report.budget is None:
        return ""
    if report.budget.share is not None:
        return f"{100 * report.budget.share:g} % of the reference's {report.reference.metric}"
    return formats.amount(report.budget.max_drop, report.reference.metric)


def _limits(output: OutputReference) -> str:
    """Spell what may be lost of an output after the first."""
    if output.share is not None:
        return f"{100 * output.share:g} % of the reference's"
    return formats.amount(min(output.limits.values()), output.metric)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgefuse.compiler.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=formats.milliseconds,
        bytes=formats.size,
        mac=formats.multiplications,
        db=formats.decibels,
        signed=formats.signed,
        number=formats.number,
        breakable=formats.breakable,
        tolerance=formats.tolerance,
        verdict=formats.verdict,
    )
    return environment.get_template("page.html")
