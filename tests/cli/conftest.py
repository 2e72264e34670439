from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import pytest

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle

Completed: TypeAlias = "subprocess.CompletedProcess[str]"
Cli: TypeAlias = Callable[..., Completed]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `edgefuse` as a process in an empty folder; keywords are variables of its environment."""

    def run(*arguments: str | Path, **environment: str) -> Completed:
        command = [sys.executable, "-m", "edgefuse", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def unfused_bundle(
    tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes], tiny_files: Mapping[str, bytes]
) -> Path:
    """The tiny bundle with an int8 image encoder that ONNX Runtime runs in float: the activations of its convolution
    are not quantized."""
    import onnx.numpy_helper
    import onnx.parser

    (weight, bias) = onnx.load_model_from_string(tiny_files["image_encoder.float"]).graph.initializer
    kernel = onnx.numpy_helper.to_array(weight).T.reshape(8, 1, 8, 8)
    scale = np.float32(np.abs(kernel).max() / 127)
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        image_encoder (float[1, 1, 8, 8] normalised) => (float[1, 8] feature) {
            dequantized = DequantizeLinear(kernel, scale)
            convolved = Conv(normalised, dequantized, bias)
            flat = Flatten(convolved)
            feature = Tanh(flat)
        }""")
    integers = np.round(kernel / scale).astype(np.int8)
    constants = {"kernel": integers, "scale": np.asarray(scale), "bias": onnx.numpy_helper.to_array(bias)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    data = model.SerializeToString()
    changed = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    candidates = tuple(
        msgspec.structs.replace(candidate, **changed) if candidate.id == QUANTIZED else candidate
        for candidate in tiny_manifest.candidates
    )
    path = tmp_path / "unfused"
    manifest = msgspec.structs.replace(tiny_manifest, candidates=candidates)
    write_bundle(path, manifest, {**tiny_contents, f"stages/{QUANTIZED}.onnx": data})
    return path


QUANTIZED = "image_encoder.dynamic_wi8_af32"
