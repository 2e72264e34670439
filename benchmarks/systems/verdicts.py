"""What every system must show: little lost, much smaller, and better than its best modality alone.

One that is composed of several models: little lost in each part of its answer, and no request lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmarks.systems.record import Composed, System, Target, Verdict, whole
from edgefuse.measure.metrics import is_share

POINT = 0.01
"""What may be lost of a share of the items."""

SHARE = 0.02
"""What may be lost of a metric of what is generated, or of one with a unit of its own: a share of the reference's."""

SMALLER = 3.0
"""How many times smaller the smallest rung is than the float files, at the least."""

STEP = 0.10
"""What a step of a decoder may take beyond the bare runtime's, as a share of it."""

GENERATED = ("token_accuracy", "perplexity", "bleu", "character_error_rate", "word_error_rate")
"""Metrics of what a model says."""


def verdicts(system: System, explained: Collection[str]) -> tuple[Verdict, ...]:
    """Return what a system must show, as far as there are figures.

    Args:
        system: with its figures.
        explained: the systems of which the page says why one modality does as well.
    """
    failed = (Verdict(what=f"{name} compiles", figure=why, ok=False) for name, why in system.failed.items())
    of_targets = (one for name, target in system.targets.items() for one in _of_target(system, name, target))
    of_answers = _of_answers(system.composed) if system.composed else ()
    return (*failed, *of_targets, *_of_modalities(system, explained), *of_answers)


def _of_target(system: System, name: str, target: Target) -> Iterator[Verdict]:
    if target.drop and system.reference and system.metric:
        lost = {subset: target.drop[subset] for subset in system.bound}
        yield _drop(name, lost, system.reference, system.metric)
    ratio = target.smallest_size_ratio
    yield Verdict(what=f"{name}: a rung of a third of the size", figure=f"{ratio:.2f} ×", ok=ratio >= SMALLER)
    if target.step_overhead is not None:
        over = f"{100 * target.step_overhead:.1f} %"
        what = f"{name}: a step takes at most {100 * STEP:g} % beyond the runtime's own"
        yield Verdict(what=what, figure=over, ok=target.step_overhead <= STEP)


def _drop(name: str, lost: dict[str, float], reference: dict[str, float], metric: str) -> Verdict:
    if metric in GENERATED or not is_share(metric):
        lost = {subset: drop / (abs(reference[subset]) or 1.0) for subset, drop in lost.items()}
        limit, most, unit = SHARE, f"{100 * SHARE:g} %", "%"
    else:
        limit, most, unit = POINT, "a point", "points"
    worst = max(lost, key=lambda subset: lost[subset])
    ok = lost[worst] <= limit + 1e-9  # a difference of shares is not exact in binary
    return Verdict(what=f"{name}: at most {most} lost", figure=f"{100 * lost[worst]:.2f} {unit}, {worst}", ok=ok)


def _of_modalities(system: System, explained: Collection[str]) -> Iterator[Verdict]:
    """Compare all modalities with the best of them alone, where the model does without the others."""
    found = system.reference or {}
    every = whole(system)
    alone = {name: found[name] for name in system.modalities if name in found and name != every}
    if not every or not alone:
        return
    sign = -1 if system.lower_is_better else 1
    best = max(alone, key=lambda name: sign * alone[name])
    better = sign * found[every] > sign * alone[best]
    told = "" if better or system.name not in explained else "; the page says why"
    figure = f"{found[every]:.4g} against {alone[best]:.4g} by {best}{told}"
    yield Verdict(what="better than its best modality alone", figure=figure, ok=better or bool(told))


def _of_answers(found: Composed) -> Iterator[Verdict]:
    for part, drop in found.drop.items():
        what, ok = f"{found.target}: at most a point of the {part} lost", drop <= POINT + 1e-9
        yield Verdict(what=what, figure=f"{100 * drop:.2f} points", ok=ok)
    lost = found.float_files.lost + found.compiled.lost
    yield Verdict(what="no request lost", figure=f"{lost} of {2 * found.items}", ok=not lost)
