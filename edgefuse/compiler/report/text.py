"""The report in words: the method, the limits of its figures, and its main table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgefuse.bundle.spec import ClassOutput, LabelsOutput, TokensOutput
from edgefuse.compiler.evaluation.correction import is_corrected
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.report.format import amount, reference_name, verdict
from edgefuse.compiler.report.schema import BundleReport, Report, RungReport
from edgefuse.compiler.report.steps import ladders
from edgefuse.compiler.report.tables import worst_drop
from edgefuse.compiler.report.timings import busy
from edgefuse.compiler.rungs.final import RungTiming
from edgefuse.compiler.rungs.mixing import is_alternative
from edgefuse.compiler.timing import is_emulated, roofline_of
from edgefuse.compiler.timing.proxy import ARM_CORE
from edgefuse.compiler.timing.timer import FLOAT_RUNG
from edgefuse.measure.latency import BURST, SETTLE
from edgefuse.measure.metrics import is_share
from edgefuse.runtime.backends.backend import StandIn

_WORTH_SAYING = 0.01
"""An error of values, as a share of their size: rounding to float16 stays below."""


def method(made: Compiled) -> tuple[str, ...]:
    """Return how everything was measured, in sentences."""
    items = {name: len(split) for name, split in made.subject.splits.items()}
    return (
        *(_timed(made) if made.timings.unit == "ms" else _counted(made)),
        "Preprocessing outside the graph (decoding, resizing, tokenising) is not in these figures; frontends are.",
        f"Accuracy: {items['test']} test items that the search never saw, every admissible subset of modalities, from "
        "the exported files in the target's own runtime at batch 1. A drop is reference minus rung, paired by item."
        f"{_by_group(made)}",
        *_budget(made),
        f"Search: {items['validation']} validation items; a combination holds the budget if its drop"
        f"{with_caution(made.subject.recipe.search.caution)} does. Calibration: {items['calibration']} items.",
        *_expected(made),
        "Sizes of rungs are those of their stage files, frontends apart.",
        "MAC and bytes moved are counted from the exported files, batch 1, open dimensions at their largest: weights "
        "read once, activations written and read once, by element type. Together they stand in for energy: moving a "
        "byte costs more than multiplying it (Horowitz, ISSCC 2014). Activation memory is an estimate: the largest "
        "sum of activations alive at once in the file's order, nothing computed in place.",
    )


def _by_group(made: Compiled) -> str:
    """Say what counts as one draw where items belong together."""
    items = made.subject.splits["test"].groups
    count = len(np.unique(items))
    return f" Items of one group count as one draw in its interval: there are {count} groups." * (count < len(items))


def _expected(made: Compiled) -> Iterator[str]:
    """Say what a drop of the search is where it is one of accuracy, or of recall among pairs."""
    metrics = [made.subject.metrics[name] for name in made.subject.judged]
    corrected = [one for one in metrics if is_corrected(one, len(made.subject.splits["validation"]))]
    if corrected:
        of_classes = any(one.tells_right_from_wrong for one in corrected)
        more = made.subject.splits.get(UNLABELLED, ()) if of_classes else ()
        what = "accuracy" if of_classes else "recall"
        also = f", also on {len(more)} unlabelled items" if len(more) else ""
        yield (
            f"A drop of {what} in the search is what the reference's own posterior, its "
            f"temperature fitted on the validation items, expects to be lost by the answers that differ{also}, or the "
            "nearest value to it within one standard error of the labelled difference."
        )


def with_caution(caution: float) -> str:
    """Return what the search adds to a drop, after "its drop"."""
    if caution == 0:
        return ""
    return " plus one standard error" if caution == 1 else f" plus {caution:g} standard errors"


def _budget(made: Compiled) -> Iterator[str]:
    """Say what a budget that is a share comes to."""
    subject, budget = made.subject, made.subject.budget
    for output, share in (budget.shares or {subject.judged[0]: budget.share}).items():
        if share is not None:
            metric = subject.metrics[output].name
            limits = [f"{key} {amount(budget.limit('test', key), metric)}" for key in subject.bound_keys_of(output)]
            yield (
                f"Budget: {100 * share:g} % of what the reference reaches on the same items; on the test items that "
                f"is {', '.join(limits)}."
            )


def _timed(made: Compiled) -> tuple[str, ...]:
    threads = made.subject.recipe.compile.threads
    figure = next(iter(next(iter(made.timings.rungs.values())).values())).figure
    runs = figure.runs if figure else 0
    reference = "" if made.subject.recipe.device.uri else "of the reference, "
    return (
        f"Latency: {runs} timed calls over real test items, {threads} thread(s), batch 1, feature cache off; every "
        f"round times {BURST} calls {reference}of the float stages and of every rung of every target, in random order, "
        f"right after {SETTLE} untimed calls of its own (a single stream: caches as the last query left them). "
        "p50 is the median; a speed-up is the median of the rounds' ratios with its bootstrap 95 % interval (in blocks "
        "where rounds that follow each other are alike).",
        "Pressure: between the rounds of every timing the system's counters were read: how long these threads, and any "
        "task, waited for a processor, how many tasks wanted one, what the host of a virtual machine kept from it. "
        "Where they, or a drift from the first rounds to the last, show a busy machine, intervals reach to what the "
        "fastest calls, every third of the run and the processor's own clock say, and are marked busy.",
    )


def _counted(made: Compiled) -> tuple[str, ...]:
    roofline = next(map(roofline_of, _stand_ins(made)), ARM_CORE)
    return (
        "Cost: no device was measured. For every operation of a file, the larger of what its multiply-accumulates and "
        f"the bytes that it moves would take alone on {roofline.name}, added up (a roofline); the unit is what a "
        "million float32 multiply-accumulates take. Costs rank files and rungs and predict no time: 'edgefuse prepare' "
        "measures a bundle on its device.",
    )


def _stand_ins(made: Compiled) -> dict[str, StandIn]:
    """Return what ran files in place of a device's runtime, by target."""
    backends = (
        (target, backend) for target, result in made.results.items() for backend in result.data.toolchains.backends
    )
    return {target: backend for target, backend in backends if is_emulated(backend)}


def notes(made: Compiled, bundles: Sequence[BundleReport]) -> tuple[str, ...]:
    """Return the limits of these figures, how the model was taken apart, and the limits that were missed."""
    machine, timed = next(iter(made.results.values())).machine, made.timings.unit == "ms"
    found = [f"Not run on target hardware: measured on this machine, {machine.cpu}."]
    if not timed:
        device = f"{made.subject.recipe.compile.device} ({machine.architecture})"
        found = [f"Not run on target hardware: costs for {device} are counted; 'edgefuse prepare' measures there."]
    if stand_ins := _stand_ins(made):
        found = [
            f"{target}: not run on hardware. There is no {one.device} here: the graphs were checked, and accuracy "
            f"judged, in {one.stand_in}; costs are counted for {roofline_of(target).name}. 'edgefuse prepare' builds "
            "what the device needs and measures there."
            for target, one in stand_ins.items()
        ]
    if made.subject.recipe.device.uri:
        found = [
            f"Latency and memory were measured on the device, {machine.cpu}; accuracy was judged on the machine that "
            "compiled. The reference did not run on the device, so nothing is compared with its speed."
        ]
    found += [f"Stages: {note}." for note in made.subject.found.notes]
    found += [
        f"'{guess.key}' binds nothing: the reference is right there in {100 * guess.reached:.1f} % of the validation "
        f"items, one answer for all would be in {100 * guess.of_one_answer:.1f} %, and what a guess loses is chance. "
        "[search] subsets says otherwise."
        for guess in made.subject.guesses
        if not made.subject.recipe.search.subsets
    ]
    found += [f"{target}: no bundle. {reason}" for target, reason in made.failed.items()]
    for target in made.rungs:
        refused = made.timings.refused.get(target, {})
        found += [
            f"{target}, {rung}: what was chosen cannot be timed, and is left out: {why}"
            for rung, why in refused.items()
        ]
    for target, rungs in made.rungs.items():
        for rung in rungs:
            timing = made.timings.rungs[target][rung.name].speedup_over_float
            if timing.ci95[0] <= 1 and rung.candidates != made.results[target].floats:
                gain = f"not {'faster' if timed else 'cheaper'} than float ({timing.ratio:.2f} times)"
                found.append(f"{target}, {rung.name}: {gain}; smaller only.")
    found += [sentence for target in made.rungs if (sentence := slower_than_torch(made, target))]
    found += [sentence for target in made.rungs if (sentence := _price(made, target))]
    found += ladders(made)
    found += [sentence for bundle in bundles for rung in bundle.rungs for sentence in _others(made, bundle, rung)]
    found += [sentence for bundle in bundles for rung in bundle.rungs for sentence in _said(bundle, rung)]
    for bundle in bundles:
        missed = [constraint for constraint in bundle.constraints if constraint.excess > 0]
        found += [f"{bundle.target}, {constraint.rung}: {verdict(constraint)}." for constraint in missed]
    return tuple(found)


def _said(bundle: BundleReport, rung: RungReport) -> Iterator[str]:
    """Say how a rung's own sentences, token by token, compare with the reference's."""
    said = rung.said
    if said is not None:
        scores = "" if said.bleu is None else f"; BLEU {said.bleu:.3f}, the reference's {said.reference_bleu:.3f}"
        yield (
            f"{bundle.target}, {rung.name}: token by token, {said.tokens_equal:.1%} of the reference's tokens and "
            f"{said.sentences_equal:.1%} of its {said.items} sentences{scores}."
        )


def _others(made: Compiled, bundle: BundleReport, rung: RungReport) -> Iterator[str]:
    """Say what the outputs after the first lose, and where those that no metric judges are not torch's."""
    name = reference_name(made.timings.reference)
    for limit in (one for one in bundle.constraints if one.rung == rung.name and one.what.startswith("drop of ")):
        if limit.excess <= 0:  # what is missed is said anyway
            yield f"{bundle.target}, {rung.name}: {verdict(limit)}."
    for output in made.subject.spec.outputs[1:]:
        off = rung.other_outputs.get(output.name, 0.0)
        where = f"{bundle.target}, {rung.name}: the output '{output.name}', which the metric does not judge,"
        decided = {
            ClassOutput: "is another class than",
            LabelsOutput: "has other labels than",
            TokensOutput: "has other tokens than",
        }
        if type(output) in decided and off > 0:
            yield f"{where} {decided[type(output)]} {name}'s for {off:.1%} of the test items."
        elif off >= _WORTH_SAYING:
            yield f"{where} is {off:.1%} off {name}'s values on the test items."


def slower_than_torch(made: Compiled, target: str) -> str:
    """Say that float files are slower than torch, and which stages are; empty where they are not, or none was timed."""
    timing = made.timings.rungs[target].get(FLOAT_RUNG)
    if made.timings.unit != "ms" or timing is None or timing.speedup is None or timing.speedup.ci95[1] >= 1:
        return ""
    theirs = made.timings.reference_stages_ms
    stages = [
        f"{one.stage} {one.p50:.2f} ms against {theirs[one.stage]:.2f}"
        for one in made.results[target].figures
        if one.is_float and one.p50 > theirs.get(one.stage, math.inf)
    ]
    where = f": {', '.join(stages)}" if stages else ""
    name = reference_name(made.timings.reference)
    return f"{target}: the float files are slower than {name} ({timing.speedup.ratio:.2f} times as fast){where}."


def _price(made: Compiled, target: str) -> str:
    """Say what it costs that the stages of a joined target may run in several runtimes; empty for a plain one."""
    result, rung, times = made.results[target], made.default(target), made.timings.rungs[target]
    if not result.parts:
        return ""
    others = {name: time for name, time in times.items() if is_alternative(name)}
    best = min(others, key=lambda name: others[name].p50, default="")
    where = ", ".join(f"{stage} in {result.built[one].target}" for stage, one in rung.candidates.items())
    mixes = f"mixes them ({where})" if result.mixes(rung.candidates) else "runs in one, since mixing is not 3 % faster"
    needs = ", ".join(f"{name} {version}" for name, version in result.machine.runtimes.items())
    return f"{target}: its runtimes ({needs}) must all be installed for all rungs; the rung '{rung.name}' {mixes}." + (
        f" {_cost(times[rung.name])}, against {_cost(others[best])} of {best}, the best in one runtime." if best else ""
    )


def _cost(time: RungTiming) -> str:
    """Spell what a rung takes: time, peak memory and start of a process."""
    figure = time.figure
    if figure is None:
        return f"cost {time.p50:.2f}"
    memory = f", {figure.peak_rss_bytes / 1e6:.0f} MB of peak memory" if figure.peak_rss_bytes else ""
    start = f", {time.cold_start_ms:.0f} ms to the first answer" if time.cold_start_ms else ""
    return f"{figure.p50_ms:.2f} ms{memory}{start}"


_COLUMNS = "{:{width}} {:9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10}"


def summary(report: Report) -> str:
    """Return the main table as text."""
    reference = report.reference
    width = max(8, max((len(bundle.target) for bundle in report.bundles), default=0))
    unit = "p50 ms" if report.unit == "ms" else "cost"
    name = reference_name(reference.runtime).removeprefix("the ")
    header = ("target", "rung", unit, f"x {name}", "x float", "size kB", "smaller", "worst drop")
    lines = [
        _COLUMNS.format(*header, width=width),
        _line(width, name, "fp32", reference.p50_ms, reference.size_bytes),
    ]
    for bundle in report.bundles:
        lines.append(_line(width, bundle.target, "float", bundle.float_p50, bundle.float_size_bytes))
        for rung in bundle.rungs:
            lost = worst_drop(report, rung)[1]
            spelled = f"{100 * lost:.2f} pt" if is_share(reference.metric) else amount(lost, reference.metric)
            both = (rung.speedup, rung.speedup_over_float)
            gains = [f"{gain.ratio:.2f}{'*' * gain.marked}" if gain else "-" for gain in both]
            rest = (*gains, f"{rung.size_ratio:.2f}", spelled)
            lines.append(_line(width, bundle.target, rung.name, rung.p50, rung.size_bytes, *rest))
    seen = [f"BUSY, not to be trusted (*): {one}" for one in busy(report.timings)]
    return "\n".join([*lines, "", *seen, *(f"note: {note}" for note in report.notes)])


def _line(
    width: int,
    target: str,
    rung: str,
    p50: float | None,
    size_bytes: int,
    over: str = "",
    own: str = "",
    smaller: str = "",
    lost: str = "",
) -> str:
    took = "-" if p50 is None else f"{p50:.2f}"
    return _COLUMNS.format(
        target, rung, took, over, own, f"{size_bytes / 1e3:.0f}", smaller, lost, width=width
    ).rstrip()
