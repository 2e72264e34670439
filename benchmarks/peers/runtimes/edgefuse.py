"""edgefuse: one rung of a bundle, through the pipeline that a device runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import edgefuse
from benchmarks.peers.subject import PRESENT, Array, Feeds, Subject


def open_file(path: Path, subject: Subject) -> Callable[[Feeds], Array]:
    """Open `BUNDLE.edgefuse@RUNG` without a feature cache."""
    bundle, _, rung = str(path).rpartition("@")
    pipeline = edgefuse.load(bundle, rung=rung, threads=1, cache=False)
    keys = [(port.name, port.key) for port in subject.about.inputs if port.name != PRESENT]
    modalities = subject.about.modalities
    output = subject.about.outputs[0]

    def call(feeds: Feeds) -> Array:
        present = tuple(name for name, there in zip(modalities, feeds[PRESENT][0], strict=True) if there)
        values = {key: feeds[name] for name, key in keys}
        result: Array = pipeline.infer(edgefuse.Inputs(values=values, present=present))[output]
        return result

    return call
