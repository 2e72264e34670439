"""Which files of a bundle a runtime opens, in which format, and what each format refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgefuse.bundle.manifest import Manifest


# A device imports the check of the format that it opens.
def _check_onnx(name: str, data: bytes) -> None:
    from edgefuse.bundle.onnx import refuse_unsafe_onnx

    refuse_unsafe_onnx(name, data)


def _check_tflite(name: str, data: bytes) -> None:
    from edgefuse.bundle.tflite import refuse_unsafe_tflite

    refuse_unsafe_tflite(name, data)


# By the end of a name: which targets and backends open such files, and the check.
_FORMATS: Mapping[str, tuple[frozenset[str], Callable[[str, bytes], None]]] = MappingProxyType(
    {
        ".onnx": (frozenset({"onnx", "tensorrt"}), _check_onnx),
        ".tflite": (frozenset({"tflite"}), _check_tflite),
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
