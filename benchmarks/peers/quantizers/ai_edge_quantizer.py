"""ai-edge-quantizer, Google's quantizer for LiteRT: its named recipes."""

from __future__ import annotations

from pathlib import Path

from ai_edge_quantizer import quantizer, recipe

from benchmarks.peers.subject import Subject


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the TFLite file with the recipe of that name."""
    if setting == "float":
        return [subject.tflite]
    tool = quantizer.Quantizer(str(subject.tflite), getattr(recipe, setting)())
    ranges = tool.calibrate({"serving_default": list(subject.calibration())}) if tool.need_calibration else None
    path = folder / "model.tflite"
    path.unlink(missing_ok=True)
    tool.quantize(ranges).export_model(str(path))
    return [path]
