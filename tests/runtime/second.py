"""Bundles that come after the tiny one: one that answers otherwise, and ones that must never be taken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.spec import ModelSpec
from edgefuse.bundle.writer import write_bundle
from tests import tiny


def second(path: Path) -> Path:
    """Write a bundle whose fusion has another bias, as after another training; its golden vectors are the old ones."""
    (stage,) = (one for one in tiny.stages() if one.role == "fusion")
    weights = tiny._weights("fusion")
    weights["bias"] = weights["bias"] + weights["bias"].dtype.type(1.5) * (weights["bias"] > 0)
    data = tiny._onnx_file(stage, tiny.GRAPHS["fusion"], weights)
    candidates = tuple(
        msgspec.structs.replace(one, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if one.id == "fusion.float"
        else one
        for one in tiny.manifest().candidates
    )
    manifest = msgspec.structs.replace(tiny.manifest(), candidates=candidates)
    write_bundle(path, manifest, {**tiny.contents(), "stages/fusion.float.onnx": data})
    return path


def _archive(path: Path, **changed: Any) -> Path:
    """Write the tiny bundle with another model spec."""
    model: ModelSpec = msgspec.structs.replace(tiny.spec(), **changed)
    manifest: Manifest = msgspec.structs.replace(tiny.manifest(), model=model)
    write_bundle(path, manifest, tiny.contents())
    return path


def _other_labels(path: Path) -> Path:
    (output,) = tiny.spec().outputs
    return _archive(path, outputs=(msgspec.structs.replace(output, labels=("stop", "go", "no")),))


def _required(path: Path) -> Path:
    first, *rest = tiny.spec().modalities
    return _archive(path, modalities=(msgspec.structs.replace(first, optional=False), *rest))


def _truncated(path: Path) -> Path:
    second(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _damaged(path: Path) -> Path:
    """Flip a bit in a file that the default rung does not use."""
    second(path)
    data = bytearray(path.read_bytes())
    where = data.index(tiny.files()["image_encoder.dynamic_wi8_af32"])
    data[where + 100] ^= 1
    path.write_bytes(data)
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


WRONG: MappingProxyType[str, tuple[Callable[[Path], Path], str]] = MappingProxyType(
    {
        "labels": (_other_labels, r"'labels' of the output 'logits' is not as in the bundle that runs: got .*'no'"),
        "required": (_required, r"'optional' of the modality 'image' is not as in the bundle that runs: got False"),
        "truncated": (_truncated, "is refused"),
        "damaged": (_damaged, r"'stages/image_encoder\.dynamic_wi8_af32\.onnx' is damaged"),
        "empty": (_empty, "is refused"),
        "missing": (lambda path: path, "No such file or directory"),
    }
)
"""How to write a bundle that must not be taken, and what its refusal says."""
