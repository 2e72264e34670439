"""What importing and running on a device brings in, observed in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgefuse

MEDIA = ("PIL", "av", "soundfile", "soxr", "tokenizers")
HEAVY = ("torch", "onnx", "onnxscript", "litert_torch", "ai_edge_quantizer", *MEDIA)


def modules_after(code: str) -> set[str]:
    """Return the top-level modules and those of edgefuse that a fresh interpreter holds after running code."""
    program = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = json.loads(done.stdout.splitlines()[-1])
    return {name for name in names if "." not in name or name.startswith("edgefuse.")}


def test_importing_edgefuse_imports_nothing_else() -> None:
    modules = modules_after("import edgefuse")
    assert {name for name in modules if name.startswith("edgefuse.")} == set()
    assert not modules & {"numpy", "msgspec", *HEAVY}


def test_a_device_that_predicts_from_arrays_imports_only_its_runtime(tiny_bundle: Path) -> None:
    modules = modules_after(
        "import edgefuse, numpy\n"
        f"with edgefuse.load({str(tiny_bundle)!r}) as pipeline:\n"
        "    pipeline(image=numpy.zeros((8, 8), 'uint8'), text=numpy.array([3, 5]))"
    )
    assert not modules & set(HEAVY)
    assert {"numpy", "msgspec", "onnxruntime"} <= modules


def test_every_public_name_can_be_reached() -> None:
    assert set(edgefuse.__all__) <= set(dir(edgefuse))
    assert issubclass(edgefuse.InputError, edgefuse.EdgefuseError)
    for name in edgefuse.__all__:
        if name not in ("compile", "export"):  # which need the converters
            assert getattr(edgefuse, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgefuse' has no attribute 'lod'"):
        _ = edgefuse.lod
