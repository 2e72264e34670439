"""The steps of a ladder: the rungs of a bundle in order, what may be left out below them, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgefuse.bundle.layout import quoted
from edgefuse.bundle.manifest import Figure, Manifest, Rung
from edgefuse.bundle.spec import subset_name
from edgefuse.errors import InputError, some

WORTH = 0.05
"""A step is this much faster than the one above it, as a share: less is not worth a change."""


@dataclass(frozen=True)
class Price:
    """What a step costs where a subset of the modalities is given, in the unit of the first output's metric.

    Attributes:
        subset: what is given, as `image+audio`.
        before: the metric at the first step.
        now: the metric at this step, with what it leaves out left out.
        lost: the 95 % interval of what the rung loses against the reference; None where a modality is left out, since
            a bundle compares rungs and reference on the same inputs.
    """

    subset: str
    before: float
    now: float
    lost: tuple[float, float] | None

    def __str__(self) -> str:
        interval = f" (lost {self.lost[0]:.3g} to {self.lost[1]:.3g})" if self.lost else ""
        return f"{self.subset} {self.before:.4g} -> {self.now:.4g}{interval}"


@dataclass(frozen=True)
class Step:
    """An operating point of a ladder.

    Attributes:
        rung: its name in the bundle.
        without: modalities that are left out, wherever others are given.
        time: the median of a prediction in ms, or the cost where no time was measured; None if it is not known. It
            is that of the whole rung: what is saved by leaving something out is not in it.
        price: what it costs, by subset of the modalities, the full one first.
    """

    rung: str
    without: tuple[str, ...]
    time: float | None
    price: tuple[Price, ...]

    def __str__(self) -> str:
        return f"'{self.rung}'" + (f" without {' and '.join(self.without)}" if self.without else "")


@dataclass(frozen=True)
class Change:
    """A change that a ladder decided on.

    Attributes:
        rung: to be at from now on.
        without: modalities to leave out wherever others are given.
        cause: in words.
        price: what the new step costs, by subset of the modalities.
    """

    rung: str
    without: tuple[str, ...]
    cause: str
    price: tuple[Price, ...]

    def __str__(self) -> str:
        without = f" without {' and '.join(self.without)}" if self.without else ""
        price = some(map(str, self.price)) or "not measured"
        return f"to '{self.rung}'{without}, since {self.cause}; price: {price}"


def steps_of(
    manifest: Manifest,
    may_drop: Sequence[str] = (),
    figures: Mapping[str, Figure] | None = None,
    rung: str | None = None,
) -> tuple[Step, ...]:
    """Return the steps of a bundle's ladder, from one rung down.

    Below it stand the rungs that are ever faster, but for those that lose no less than a faster one; below the last of
    them, the same rung without one modality more each time.

    Args:
        manifest: of the bundle.
        may_drop: optional modalities, in the order in which they may be left out.
        figures: measured on this device, by rung (`edgefuse prepare`); the bundle's own if None.
        rung: the first one; the bundle's default if None.

    Raises:
        InputError: if a modality cannot be left out.
        BundleError: if there is no such rung.
    """
    first = manifest.rung(rung)
    times = {one.name: _time(one, figures or {}) for one in manifest.rungs}
    rungs = [first, *_below(manifest, first, times)]
    steps = [Step(one.name, (), times[one.name], tuple(_prices(manifest, first, one, ()))) for one in rungs]
    last = rungs[-1]
    for count in range(1, len(_checked(manifest, may_drop)) + 1):
        without = tuple(may_drop[:count])
        steps.append(Step(last.name, without, None, tuple(_prices(manifest, first, last, without))))
    return tuple(steps)


def _time(rung: Rung, figures: Mapping[str, Figure]) -> float | None:
    if rung.name in figures:
        return figures[rung.name].p50_ms
    return rung.figures[0].p50_ms if rung.figures else rung.cost


def _below(manifest: Manifest, first: Rung, times: Mapping[str, float | None]) -> list[Rung]:
    """Return the rungs worth stepping down to, the slowest first."""
    timed = sorted(((time, rung) for rung in manifest.rungs if (time := times[rung.name])), key=lambda one: one[0])
    kept: list[tuple[float, Rung]] = []
    for time, rung in timed:  # the fastest first: a slower one must lose less
        if not kept or (_loss(rung) < _loss(kept[-1][1]) and kept[-1][0] <= (1 - WORTH) * time):
            kept.append((time, rung))
    limit = times[first.name]
    return [rung for time, rung in reversed(kept) if limit is not None and time <= (1 - WORTH) * limit]


def _loss(rung: Rung) -> float:
    """Return what a rung loses, over all subsets: the middles of the intervals, positive whatever the metric's sign."""
    return sum((low + high) / 2 for low, high in rung.drop_ci95.values())


def _prices(manifest: Manifest, first: Rung, rung: Rung, without: Sequence[str]) -> Iterator[Price]:
    for names in manifest.model.subsets():
        given, left = subset_name(names), subset_name(tuple(name for name in names if name not in without) or names)
        if given in first.accuracy and left in rung.accuracy:
            yield Price(given, first.accuracy[given], rung.accuracy[left], _interval(rung, given, left))


def _interval(rung: Rung, given: str, left: str) -> tuple[float, float] | None:
    return rung.drop_ci95.get(given) if given == left else None


def _checked(manifest: Manifest, may_drop: Sequence[str]) -> Sequence[str]:
    optional = [modality.name for modality in manifest.model.modalities if modality.optional]
    for number, name in enumerate(may_drop):
        if name not in optional or name in may_drop[:number]:
            raise InputError(
                "a ladder cannot leave out this modality",
                got=quoted(str(name)),
                expected=f"each once, of {', '.join(optional) or 'none: all are required'}",
            )
    if len(may_drop) == len(manifest.model.modalities):
        raise InputError("a ladder cannot leave out every modality", got=", ".join(may_drop))
    return may_drop
