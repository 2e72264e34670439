"""Which files of a bundle a runtime opens, in which format, and what each format refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.onnx import refuse_unsafe_onnx
from edgefuse.bundle.tflite import refuse_unsafe_tflite

# By the end of a name: which targets and backends open such files, and the check.
_FORMATS: Mapping[str, tuple[frozenset[str], Callable[[str, bytes], None]]] = MappingProxyType(
    {
        ".onnx": (frozenset({"onnx", "tensorrt"}), refuse_unsafe_onnx),
        ".tflite": (frozenset({"tflite"}), refuse_unsafe_tflite),
    }
)


def checks(manifest: Manifest) -> Mapping[str, tuple[Callable[[str, bytes], None], ...]]:
    """Return what to check the bytes of each file with: by what opens it, and by the end of its name."""
    opened = {candidate.file for candidate in manifest.candidates}
    found: dict[str, tuple[Callable[[str, bytes], None], ...]] = {}
    for suffix, (runtimes, check) in _FORMATS.items():
        named = {entry.path for entry in manifest.files if entry.path.lower().endswith(suffix)}
        files = named | opened if {manifest.target, manifest.backend} & runtimes else named
        for path in files:
            found[path] = (*found.get(path, ()), check)
    return MappingProxyType(found)
