"""No request is lost in 1,000 swaps and changes of rungs under load; nothing leaks, nothing broken is ever taken.

Four threads predict without a pause through an `edgefuse.Live`, and hold every answer against what the bundles answer
alone, at each of their rungs. Meanwhile the bundle of `digits` for ONNX and the one for TFLite take each other's place,
and between two swaps the rung changes. Every tenth change, something is tried that must be refused: a bundle cut
short, one with a damaged byte, one that is not the pinned one, one of another model.

Growth of resident memory is from after a warm-up of a fifth as many changes; beside it, by how much memory grows when
the bare runtimes open and free files of these bundles a quarter as often. More than that and 2 MB is a leak.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import msgspec

import edgefuse
from benchmarks.soak.line import Line, Setting
from benchmarks.swaps import MAX_GROWTH_BYTES, Array, Callers, bare, first, openings, repeated
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.measure.rungs import golden_inputs

RECIPES = ("digits/recipe.toml",)
CHANGES = 1_000
_REFUSED_EVERY = 10


class Changes:
    """One change after the other, and now and then one that must be refused.

    Attributes:
        swaps: of bundles, that were made.
        rungs: changes of rungs, that were made.
        refused: that were tried and refused.
        taken: of those that must be refused, that were not.
    """

    def __init__(
        self, live: edgefuse.Live, paths: tuple[Path, ...], wrong: tuple[tuple[Path, str | None], ...]
    ) -> None:
        self.swaps = self.rungs = self.refused = self.taken = 0
        self._live = live
        self._turns = self._all(paths)
        self._wrong = cycle(wrong)

    def __call__(self) -> None:
        """Make the next one."""
        next(self._turns)()
        if (self.swaps + self.rungs) % _REFUSED_EVERY == 1:  # also where there is time for a few alone
            self._refuse(*next(self._wrong))

    def _all(self, paths: tuple[Path, ...]) -> Iterator[Callable[[], None]]:
        for path in cycle(reversed(paths)):
            yield partial(self._swap, path)
            names = [rung.name for rung in self._live.pipeline.manifest.rungs]
            for name in islice(cycle(reversed(names)), 1 + self.swaps % 2):  # it ends at different ones
                yield partial(self._at, name)

    def _swap(self, path: Path) -> None:
        self._live.swap(path)
        self.swaps += 1

    def _at(self, name: str) -> None:
        self._live.at(name)
        self.rungs += 1

    def _refuse(self, path: Path, digest: str | None) -> None:
        before = self._live.path, self._live.digest
        with suppress(edgefuse.BundleError):
            self._live.swap(path, digest)
        kept = (self._live.path, self._live.digest) == before
        self.refused += kept
        self.taken += not kept


def run(setting: Setting) -> Line:
    """Change bundles and rungs under load."""
    logging.disable(logging.WARNING)  # in this process of its own: refusals are counted
    paths = tuple(setting.bundle(*RECIPES, target) for target in ("onnx", "tflite"))
    with tempfile.TemporaryDirectory() as folder, edgefuse.Live(paths[0]) as live:
        with open_bundle(paths[0]) as bundle:
            inputs = golden_inputs(bundle)
        changes = Changes(live, paths, tuple(_wrong(Path(folder), paths[0])))
        callers = Callers(live, inputs, list(_right(paths, inputs)))
        own = _bare_growth_bytes(paths, setting)
        found = repeated(changes, CHANGES, callers, setting.repeated)
    figures = {
        "swaps": changes.swaps,
        "rung_changes": changes.rungs,
        "refused": changes.refused,
        "wrongly_taken": changes.taken,
        "answered": found.answered,
        "lost": found.lost,
        "growth_bytes": found.growth_bytes,
        "runtimes_growth_bytes": own,
        "descriptors": found.descriptors,
        "threads": found.threads,
        "seconds": round(found.seconds, 1),
    }
    whole = found.answered and changes.refused and not (found.lost or changes.taken)
    tight = found.growth_bytes <= MAX_GROWTH_BYTES + own and found.descriptors <= 0 and found.threads <= 0
    return Line(line="swaps", figures=figures, ok=bool(whole and tight))


def _right(paths: tuple[Path, ...], inputs: edgefuse.Inputs) -> Iterator[Array]:
    """Yield what each bundle answers alone, at each of its rungs."""
    for path in paths:
        with edgefuse.load(path) as pipeline:
            for rung in pipeline.manifest.rungs:
                with pipeline.at(rung.name) as alone:
                    yield first(alone.infer(inputs))


def _bare_growth_bytes(paths: tuple[Path, ...], setting: Setting) -> int:
    """Return by how much memory grows when the runtimes open and free the files of these bundles, without ours."""
    with ExitStack() as stack:
        bundles = [stack.enter_context(open_bundle(path)) for path in paths]
        files = [openings(bundle, bundle.manifest.rung().name) for bundle in bundles]
        return max(0, bare(files, CHANGES // 4 if setting.minutes is None else 10).growth_bytes)


def _wrong(folder: Path, right: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield bundles that must be refused, each with the digest that is asked for."""
    data = right.read_bytes()
    (folder / "short.edgefuse").write_bytes(data[: len(data) // 2])
    yield folder / "short.edgefuse", None
    (folder / "damaged.edgefuse").write_bytes(_damaged(data))
    yield folder / "damaged.edgefuse", None
    yield right, "0" * 64
    with open_bundle(right) as bundle:
        output = bundle.manifest.model.outputs[0]
        other = msgspec.structs.replace(output, labels=tuple(f"not {label}" for label in output.labels))  # type: ignore[union-attr] # classes
        model = msgspec.structs.replace(bundle.manifest.model, outputs=(other, *bundle.manifest.model.outputs[1:]))
        contents = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
        manifest = msgspec.structs.replace(bundle.manifest, model=model)
    write_bundle(folder / "other.edgefuse", manifest, contents)
    yield folder / "other.edgefuse", None


def _damaged(data: bytes) -> bytes:
    """Flip a bit in the middle of an archive: of the bytes of a file, as those are most of it."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
