"""Benchmark a bundle on a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.device.session import DeviceSession
from edgefuse.device.tasks import AGAINST, BUNDLE, INPUTS, Bench, packed_inputs
from edgefuse.measure.benchmark import Benchmark, Settings
from edgefuse.progress import Progress
from edgefuse.runtime.pipeline import Inputs


def bench(
    session: DeviceSession,
    bundle: Path,
    settings: Settings,
    inputs: Inputs,
    origin: str,
    progress: Progress,
    against: str | None = None,
) -> Benchmark:
    """Measure a bundle on a device as `settings` would here; `against` is the path of another bundle.

    Args:
        session: with the device.
        bundle: the path of one.
        settings: of the benchmark.
        inputs: preprocessed, of the bundle's model.
        origin: where the inputs come from, in words.
        progress: is told what is measured.
        against: the path of another bundle, or None.

    Raises:
        DeviceError: if the device cannot do it.
    """
    files: dict[str, Path | bytes] = {INPUTS: packed_inputs([inputs])}
    files |= dict(_files(BUNDLE, bundle))
    if against is not None:
        files |= dict(_files(AGAINST, Path(against)))
    return session.run(Bench(settings=settings, origin=origin, against=against), Benchmark, files, progress)


def _files(name: str, bundle: Path) -> Iterator[tuple[str, Path]]:
    """Yield what a bundle is made of, a file or a folder, under the name that the device gives it."""
    if not bundle.is_dir():
        yield name, bundle
        return
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            yield f"{name}/{path.relative_to(bundle).as_posix()}", path
