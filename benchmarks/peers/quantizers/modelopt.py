"""ModelOpt, NVIDIA's quantizer: int8 QDQ in an ONNX file, with its defaults. It is made for TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize

from benchmarks.peers.subject import Subject


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the ONNX file."""
    feeds = list(subject.calibration())
    path = folder / "model.onnx"
    quantize(
        str(subject.onnx),
        quantize_mode="int8",
        nodes_to_exclude=[".*frontend.*"] if setting == "int8-scoped" else None,
        calibration_data={name: np.concatenate([item[name] for item in feeds]) for name in feeds[0]},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(path),
    )
    return [path]
