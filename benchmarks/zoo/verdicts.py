"""What the zoo must show, each with its figure: how many compile, are split, lose nothing by it, and gain how much."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.zoo.record import Row, Target

COMPILE = {"onnx": 0.90, "tflite": 0.85}
"""The share of models, at the least, by target."""

SHARE = 0.8
"""Of the multiply-accumulates that see one modality: with so much, a model is split."""

COST, CALL_MS = 0.03, 0.010
"""What splitting may cost: a share of the time, and so much for each stage more, which is a call of a session more.

The first feature that is reused pays it back.
"""

GAIN = 1.5
"""Of the default rung over float files, the median at the least."""


@dataclass(frozen=True)
class Verdict:
    """One thing that the zoo must show.

    Attributes:
        what: it is.
        figure: what was found, in words.
        ok: whether that is enough.
    """

    what: str
    figure: str
    ok: bool

    def __str__(self) -> str:
        return f"{'ok    ' if self.ok else 'not ok'}  {self.what}: {self.figure}"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Return all verdicts that these rows allow: what was not timed has none."""
    targets = list(dict.fromkeys(target for row in rows for target in row.targets))
    compiled = [_compile(rows, target) for target in targets]
    timed = [verdict for target in targets for verdict in (*_slower(rows, target), *_gain(rows, target))]
    return [*compiled, *_failing(rows), _split(rows), *timed]


def _compile(rows: Sequence[Row], target: str) -> Verdict:
    done = sum(row.targets[target].compiled for row in rows if target in row.targets)
    least, share = COMPILE.get(target, 0.0), done / len(rows)
    return Verdict(f"{target}: at least {least:.0%} compile", f"{done} of {len(rows)}, {share:.1%}", share >= least)


def _failing(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Say of what fails whether `edgefuse check` foresees it."""
    failed = {f"{row.model} ({target})": one for row in rows for target, one in row.targets.items() if one.error}
    silent = [name for name, one in failed.items() if not one.check]
    if failed:
        told = f"{len(failed) - len(silent)} of {len(failed)}{_but(silent)}"
        yield Verdict("`edgefuse check` foresees what fails", told, not silent)


def _split(rows: Sequence[Row]) -> Verdict:
    wanted = [row for row in rows if (row.single_modality_share or 0.0) >= SHARE]
    whole = [row.model for row in wanted if len(row.stages) < 2]
    return Verdict(
        f"split where {SHARE:.0%} or more see one modality",
        f"{len(wanted) - len(whole)} of {len(wanted)}{_but(whole)}",
        not whole,
    )


def _slower(rows: Sequence[Row], target: str) -> Iterator[Verdict]:
    """Say what was shown to lose more by splitting than that may cost, and how many are slower at all."""
    told = {row.model: (row, row.targets[target]) for row in rows if target in row.targets}
    known = {name: one.speedup_single_stage for name, (_, one) in told.items() if one.speedup_single_stage is not None}
    if not known:
        return
    lost = [f"{name} {known[name]:.2f}{_longer(told[name][1])}" for name in known if _loses(*told[name])]
    slower = sum(told[name][1].slower_than(1.0) for name in known)
    figure = (
        f"{len(known) - len(lost)} of {len(known)}, median {statistics.median(known.values()):.2f} x, {slower} slower"
    )
    allowed = f"{COST:.0%} and {1000 * CALL_MS:.0f} us a stage"
    yield Verdict(f"{target}: not slower than as one stage but for {allowed}", figure + _but(lost), not lost)


def _loses(row: Row, one: Target) -> bool:
    """Tell whether splitting was shown to cost more than it may."""
    alone = one.single_stage_p50_ms or 0.0
    return one.slower_than(alone / (alone * (1 + COST) + CALL_MS * (len(row.stages) - 1)) if alone else 1.0)


def _longer(one: Target) -> str:
    """Return how much longer the stages take: of what takes a tenth of a millisecond, a call more is much."""
    if one.p50_ms is None or one.single_stage_p50_ms is None:
        return ""
    return f" ({1000 * (one.p50_ms - one.single_stage_p50_ms):+.0f} us)"


def _gain(rows: Sequence[Row], target: str) -> Iterator[Verdict]:
    gains = [row.targets[target].speedup_over_float for row in rows if target in row.targets]
    known = [gain for gain in gains if gain is not None]
    if known:
        median = statistics.median(known)
        yield Verdict(f"{target}: median at least {GAIN} x float", f"{median:.2f} x of {len(known)}", median >= GAIN)


def _but(names: Sequence[str]) -> str:
    return f"; not {', '.join(names)}" if names else ""
