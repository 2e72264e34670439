"""The tiny model of `tests/tiny.py` without what keeps its features small: large inputs overflow inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.spec import EmbeddingOutput, Output, ValuesOutput
from tests import tiny

OUTPUTS: Mapping[str, tuple[Output, ...]] = {
    "classes": tiny.spec().outputs,
    "values": (ValuesOutput(name="logits", labels=tiny.LABELS),),
    "embedding": (EmbeddingOutput(name="logits", size=len(tiny.LABELS)),),
}
"""Kinds of outputs that three numbers may be."""


def bundle(kind: str = "classes") -> tuple[Manifest, dict[str, bytes]]:
    """Return a manifest and the files of a bundle (whose golden vectors are not right)."""
    stage = next(stage for stage in tiny.stages() if stage.name == "motion_encoder")
    body = tiny.GRAPHS[stage.name].replace("Tanh", "Identity")
    data = tiny._onnx_file(stage, body, tiny._weights(stage.name))
    changed = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    old = next(candidate for candidate in tiny.candidates() if candidate.stage == stage.name)
    new = msgspec.structs.replace(old, **changed)
    manifest = msgspec.structs.replace(
        tiny.manifest(),
        model=msgspec.structs.replace(tiny.spec(), outputs=OUTPUTS[kind]),
        candidates=tuple(new if candidate is old else candidate for candidate in tiny.candidates()),
    )
    return manifest, {**tiny.contents(), new.file: data}
