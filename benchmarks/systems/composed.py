"""A system of several models, asked as its clients do: with the float files of a target, and with compiled bundles.

Both are the same files but for precision, in the same runtime behind the same service, and answer the same items; so
what was lost is a paired difference. Whoever asks runs in a process of its own (`Composition.asked_by`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import compiling
from benchmarks.systems.catalogue import Composition
from benchmarks.systems.record import Answers, Composed
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import BundleReport
from edgefuse.errors import MeasureError
from edgefuse.measure.statistics import paired_drop
from edgefuse.runtime import pressure
from edgefuse.typed_json import decode

_MOST_S = 600.0
"""That one asking may take, from the start of the service to its end."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What whoever asks a system writes.

    Attributes:
        right: by part of the answer, whether it was right for each item; where there was no answer, it was not.
        lost: requests without an answer.
        times_ms: from each request to its answer.
        seconds: all of them together.
        clients: that asked at a time.
        replicas: of each model.
    """

    right: dict[str, list[bool]]
    lost: int
    times_ms: list[float]
    seconds: float
    clients: int
    replicas: int


def asked(composition: Composition, bundles: Sequence[Path], out: Path, root: Path) -> Asked:
    """Ask a system with these bundles, in a process of its own, and return what came of it.

    Args:
        composition: the system.
        bundles: one for each of its models, in their order.
        out: a file that the process writes; its log lies beside it.
        root: the folder from which the module of the composition is found.

    Raises:
        MeasureError: it cannot be asked.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    words = [*(str(bundle.resolve()) for bundle in bundles), "--out", str(out.resolve())]
    failed = f"'{composition.name}' cannot be asked"
    compiling.run(composition.asked_by, words, out.with_suffix(".log"), failed, root=root, most_s=_MOST_S)
    return decode(out.read_bytes(), Asked)


def measured(
    composition: Composition,
    floats: Sequence[Path],
    reports: Sequence[Path],
    folder: Path,
    root: Path,
) -> Composed:
    """Ask a system with float files and with what compiles made, and return its figures.

    Args:
        composition: the system.
        floats: a bundle of float files for each of its models, in their order.
        reports: of the compiles of its models, which lie beside the bundles.
        folder: for what is written meanwhile.
        root: the folder from which the module of the composition is found.

    Raises:
        MeasureError: a model has no bundle for the target, or the system cannot be asked.
    """
    made = [_of_target(composition, path) for path in reports]
    compiled = [path.parent / bundle.path for path, bundle in zip(reports, made, strict=True)]
    quiet = pressure.quiet()
    before = asked(composition, floats, folder / "float.json", root)
    after = asked(composition, compiled, folder / "compiled.json", root)
    quiet &= pressure.quiet()
    size, float_size = (sum(one) for one in zip(*(_sizes(bundle) for bundle in made), strict=True))
    drops = {
        part: paired_drop(np.array(right, np.float64), np.array(after.right[part], np.float64))
        for part, right in before.right.items()
    }
    return Composed(
        models=composition.models,
        target=composition.target,
        items=len(after.times_ms),
        clients=after.clients,
        replicas=after.replicas,
        float_files=_answers(before),
        compiled=_answers(after),
        drop={part: one.drop for part, one in drops.items()},
        drop_ci95={part: (one.low, one.high) for part, one in drops.items()},
        size_bytes=size,
        size_ratio=float_size / size,
        busy=not quiet,
    )


def _of_target(composition: Composition, path: Path) -> BundleReport:
    report = parse(decode(path.read_bytes(), dict[str, Any]))
    for bundle in report.bundles:
        if bundle.target == composition.target:
            return bundle
    why = report.failed.get(composition.target, "no bundle")
    raise MeasureError(f"'{composition.name}' lacks a bundle of '{path.parent.name}'", got=why)


def _sizes(bundle: BundleReport) -> tuple[int, int]:
    """Return the bytes of the stage files: of the default rung, and in float."""
    return bundle.rungs[0].size_bytes, bundle.float_size_bytes


def _answers(found: Asked) -> Answers:
    answered = len(found.times_ms) - found.lost
    p50, p90 = np.quantile(found.times_ms, (0.5, 0.9))
    return Answers(
        right={part: float(np.mean(right)) for part, right in found.right.items()},
        lost=found.lost,
        per_second=answered / found.seconds,
        p50_ms=float(p50),
        p90_ms=float(p90),
    )
