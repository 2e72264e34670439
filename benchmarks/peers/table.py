"""The rows of `peers.json`, and the same rows as a table to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.catalogue import REFERENCE
from benchmarks.peers.contender import Contender
from benchmarks.peers.subject import Array, Subject
from edgefuse.bundle.spec import ClassOutput
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.metrics.named import metric_of
from edgefuse.measure.latency import Latencies
from edgefuse.measure.statistics import Drop

Row = dict[str, Any]
Answers = Mapping[str, Array]

_ROUNDING = 1e-9


def failure(subject: Subject, name: str, version: str, reason: str) -> Row:
    """Return the row of a system that could not be measured."""
    return {
        "model": subject.about.model,
        "system": name,
        "version": version,
        "accuracy": {},
        "p50_ms": None,
        "size_bytes": None,
        "edgefuse_speedup": None,
        "error": reason,
    }


def row(
    subject: Subject, contender: Contender, answers: Answers, reference: Answers, latencies: Latencies, against: str
) -> Row:
    """Return the row of a system that was measured.

    Args:
        subject: what it was measured on.
        contender: the system.
        answers: its answers to the test split by subset.
        reference: those of torch in full precision.
        latencies: of one interleaved run.
        against: the row of edgefuse's that `edgefuse_speedup` compares with (how many times faster that one is); empty
            if there is none.
    """
    metric, judged = _metric(subject), _targets(subject, answers)
    worst, drop = worst_drop(subject, answers, reference)
    found: Row = {
        "model": subject.about.model,
        "system": contender.name,
        "version": contender.version,
        "accuracy": {name: metric.aggregate(answers[name], judged[name]) for name in answers},
        "p50_ms": latencies.p50_ms(contender.name),
        "size_bytes": contender.size_bytes,
        "edgefuse_speedup": None,
        "error": None,
        "runtime": contender.runtime,
        "setting": contender.note,
        "items": max(len(array) for array in answers.values()),
        "runs": latencies.rounds * latencies.burst,
        "worst_subset": worst,
        "worst_drop": drop.drop,
        "worst_drop_ci95": [drop.low, drop.high],
        "within_budget": holds_budget(subject, drop),
        "busy": list(latencies.pressure.seen),  # why these times cannot be trusted; nothing on a quiet machine
    }
    if against:
        ratio = latencies.ratio(contender.name, against)
        found["edgefuse_speedup"] = {"ratio": ratio.value, "ci95": [ratio.low, ratio.high], "against": against}
    return found


def worst_drop(subject: Subject, answers: Answers, reference: Answers) -> tuple[str, Drop]:
    """Return the subset that lost most, and what it lost."""
    metric, judged = _metric(subject), _targets(subject, answers)
    drops = {
        name: metric.drop(metric.rows(reference[name], judged[name]), metric.rows(answers[name], judged[name]))
        for name in answers
    }
    worst = max(drops, key=lambda name: drops[name].drop)
    return worst, drops[worst]


def holds_budget(subject: Subject, drop: Drop) -> bool:
    """Tell whether no more was lost than the recipe allows."""
    return drop.drop <= subject.about.max_drop + _ROUNDING


def _metric(subject: Subject) -> Metric:
    """Return what judges a subject's answers, which are classes."""
    return metric_of(ClassOutput(labels=()), subject.about.metric)


def _targets(subject: Subject, answers: Answers) -> dict[str, Array]:
    split = subject.split("test")
    return {name: split.targets[split.items(name.split("+"))[: len(array)]] for name, array in answers.items()}


def opponent(contender: Contender, ours: Sequence[Contender], latencies: Latencies) -> str:
    """Return which of edgefuse's rows a system is compared with: of its runtime if there is one, pruned if possible.

    A system whose runtime edgefuse has no bundle for meets the fastest of edgefuse's, pruned if possible.
    """
    timed = [own for own in ours if own.name in latencies.nanoseconds]
    same = [own for own in timed if own.runtime == contender.runtime] or timed
    best = [own for own in same if own.kind == "pruned"] or same
    return min((own.name for own in best), key=latencies.p50_ms, default="")


def order(rows: Sequence[Row]) -> list[Row]:
    """Return rows from the fastest to the slowest, failures last."""
    return sorted(rows, key=lambda row: (row["p50_ms"] is None, row["p50_ms"] or 0.0, row["system"]))


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    if not rows:
        return ""
    model = rows[0]["model"]
    lines = [
        f"| {model} | runtime | p50, ms | edgefuse faster by | size, MB | all present | worst drop, points | budget |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in order(rows))]) + "\n"


def _line(row: Row) -> str:
    if row["error"]:
        reason = row["error"].replace("|", "/").replace("\n", " ")
        return f"| {row['system']} | | | | | | | failed: {reason} |"
    gain, name = row["edgefuse_speedup"], row["system"]
    faster = f"{gain['ratio']:.2f} ({gain['ci95'][0]:.2f}–{gain['ci95'][1]:.2f})" if gain else ""
    if gain and gain["against"] == name:
        faster = "1"
    shown = f"**{name}**" if name.startswith("edgefuse") else name + " (the reference)" * (name == REFERENCE.name)
    full = next(iter(row["accuracy"].values()))
    cells = [
        shown,
        row["runtime"],
        f"{row['p50_ms']:.2f}" + " (busy)" * bool(row["busy"]),
        faster,
        f"{row['size_bytes'] / 1e6:.2f}",
        f"{100 * full:.1f}",
        f"{100 * row['worst_drop']:.1f} ({row['worst_subset']})",
        "within" if row["within_budget"] else "missed",
    ]
    return "| " + " | ".join(cells) + " |"
