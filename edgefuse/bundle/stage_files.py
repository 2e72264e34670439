"""Which files of a bundle a runtime opens, in which format, and what each format refuses.

The end of a file's name says its format, and `Backend.suffix` which runtime opens it: no runtime gets a file that was
checked as another format.
"""

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


_FORMATS: Mapping[str, Callable[[str, bytes], None]] = MappingProxyType(
    {".onnx": _check_onnx, ".tflite": _check_tflite}
)


def checks(manifest: Manifest) -> Mapping[str, Callable[[str, bytes], None]]:
    """Return what to check the bytes of each file with, by the end of its name, whatever its case."""
    paths = (entry.path for entry in manifest.files)
    found = {path: _FORMATS.get(f".{path.lower().rpartition('.')[2]}") for path in paths}
    return MappingProxyType({path: check for path, check in found.items() if check})
