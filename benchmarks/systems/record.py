"""What is told of a system: how its model describes itself, and figures of `report.json` as they stand there.

Of a system that is composed of several models: how it describes itself, and what it answered (`composed`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.systems.catalogue import Composition
from edgefuse.commands.models import ReferenceModel
from edgefuse.compiler.report.part import Gain
from edgefuse.compiler.report.schema import BundleReport, Reference, Report
from edgefuse.typed_json import decode


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything in `systems.json`."""


class Data(Part, frozen=True, kw_only=True):
    """What a system was trained and judged on: in a sentence, and its modalities by how they came about."""

    source: str
    real: tuple[str, ...]
    synthetic: tuple[str, ...]


class Verdict(Part, frozen=True, kw_only=True):
    """Something that a system must show, what was found, in words, and whether that is enough."""

    what: str
    figure: str
    ok: bool


class Target(Part, frozen=True, kw_only=True):
    """What a compile for one target came to, on the default rung.

    Attributes:
        rung: its name.
        metric: after compression, by subset; null where the model makes no claim.
        drop: what was lost of it in each subset, positive if worse, and
        drop_ci95: its 95 % interval, both in the metric's unit.
        speedup_over_float: over float files in the same runtime.
        speedup_over_torch: over the better of eager mode and `torch.compile`.
        size_ratio: stage files in float over those of the rung.
        smallest_size_ratio: the same of the smallest rung.
        tokens_equal: of a model that generates: the share of its tokens that are the reference's, else null.
        step_overhead: of a model that generates: what a step takes beyond the runtime's own, as a share, else null.
    """

    rung: str
    metric: dict[str, float] | None
    drop: dict[str, float] | None
    drop_ci95: dict[str, tuple[float, float]] | None
    speedup_over_float: Gain
    speedup_over_torch: Gain | None
    size_ratio: float
    smallest_size_ratio: float
    tokens_equal: float | None
    step_overhead: float | None = None


class Answers(Part, frozen=True, kw_only=True):
    """What a composed system answered.

    Attributes:
        right: the share of the items of which this part of the answer was right, word for word.
        lost: requests without an answer.
        per_second: answers.
        p50_ms: from a request to its answer, and
        p90_ms: what nine tenths of them stayed below.
    """

    right: dict[str, float]
    lost: int
    per_second: float
    p50_ms: float
    p90_ms: float


class Composed(Part, frozen=True, kw_only=True):
    """What a system of several models came to, asked as its clients do.

    Attributes:
        models: that it is composed of.
        target: of their bundles.
        items: that were asked.
        clients: that asked at a time.
        replicas: of each model.
        float_files: its answers with the float files of the target, which a compile holds to torch.
        compiled: its answers with the bundles, on their default rungs.
        drop: what was lost of the share that is right, by part of the answer, and
        drop_ci95: its 95 % interval.
        size_bytes: of the stage files of the bundles, frontends apart.
        size_ratio: over the float files.
        busy: the machine was busy before or after: throughput and times cannot be trusted.
    """

    models: tuple[str, ...]
    target: str
    items: int
    clients: int
    replicas: int
    float_files: Answers
    compiled: Answers
    drop: dict[str, float]
    drop_ci95: dict[str, tuple[float, float]]
    size_bytes: int
    size_ratio: float
    busy: bool


class System(Part, frozen=True, kw_only=True):
    """One system.

    Attributes:
        name: of the model.
        modalities: that it takes.
        data: that it was judged on.
        metric: its name; null where the model makes no claim, as its weights are random.
        reference: its value for the full-precision model by subset, on the test split; null likewise.
        lower_is_better: whether it is an error.
        items: of that split.
        bound: the subsets in which the budget limits what may be lost.
        targets: by name.
        failed: why there are no figures: of all targets, under the name of the system, or of one.
        composed: of a system of several models, its figures, all of them; null for one model.
        verdicts: what it must show.
    """

    name: str
    modalities: tuple[str, ...]
    data: Data
    metric: str | None = None
    reference: dict[str, float] | None = None
    lower_is_better: bool = False
    items: int | None = None
    bound: tuple[str, ...] = ()
    targets: dict[str, Target] = {}
    failed: dict[str, str] = {}
    composed: Composed | None = None
    verdicts: tuple[Verdict, ...] = ()


def whole(system: System) -> str:
    """Return the subset of all modalities, as figures have it; empty if there are none of it."""
    return next((one for one in system.reference or () if {*one.split("+")} == {*system.modalities}), "")


def described(one: ReferenceModel | Composition) -> System:
    """Return a system of which nothing is known but how it describes itself."""
    synthetic = one.data.synthetic
    real = tuple(name for name in one.modalities if name not in synthetic)
    data = Data(source=one.data.source, real=real, synthetic=synthetic)
    return System(name=one.name, modalities=one.modalities, data=data)


def measured(model: ReferenceModel, report: Report) -> System:
    """Return a system with the figures of a report.

    Args:
        model: as it describes itself.
        report: of its compile.
    """
    reference, claimed = report.reference, model.metric is not None
    targets = {bundle.target: _target(bundle, reference, claimed) for bundle in report.bundles}
    system = msgspec.structs.replace(described(model), targets=targets, failed=report.failed)
    if not claimed:
        return system
    return msgspec.structs.replace(
        system,
        metric=reference.metric,
        reference=reference.accuracy,
        lower_is_better=reference.lower_is_better,
        items=reference.items,
        bound=report.budget.subsets if report.budget and report.budget.subsets else tuple(reference.accuracy),
    )


def _target(bundle: BundleReport, reference: Reference, claimed: bool) -> Target:
    rung = bundle.rungs[0]
    return Target(
        rung=rung.name,
        metric=rung.accuracy if claimed else None,
        drop={subset: reference.lost(subset, after) for subset, after in rung.accuracy.items()} if claimed else None,
        drop_ci95=rung.drop_ci95 if claimed else None,
        speedup_over_float=rung.speedup_over_float,
        speedup_over_torch=rung.speedup,
        size_ratio=rung.size_ratio,
        smallest_size_ratio=max(one.size_ratio for one in bundle.rungs),
        tokens_equal=rung.said.tokens_equal if rung.said else None,
    )


def read(path: Path) -> tuple[System, ...]:
    """Return the systems of a file that was written before; none if there is no such file."""
    return tuple(decode(path.read_bytes(), list[System])) if path.exists() else ()


def write(path: Path, systems: tuple[System, ...]) -> None:
    """Write all systems, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(systems), indent=1) + b"\n")
