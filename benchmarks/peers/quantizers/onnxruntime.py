"""ONNX Runtime's own quantizer (onnxruntime.ai/docs/performance/model-optimizations/quantization.html)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.peers.subject import Feeds, Subject


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration feeds, one after another."""

    def __init__(self, subject: Subject) -> None:
        self._feeds = subject.calibration()

    def get_next(self) -> Feeds | None:
        """Return the next feeds, or None after the last."""
        return next(self._feeds, None)


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the ONNX file with a setting of `catalogue.py`."""
    if setting == "float":
        return [subject.onnx]
    path = folder / "model.onnx"
    _SETTINGS[setting](subject, path)
    return [path]


def _static(subject: Subject, path: Path) -> None:
    quantize_static(subject.onnx, path, Reader(subject))


def _dynamic(subject: Subject, path: Path) -> None:
    quantize_dynamic(subject.onnx, path)


def _dynamic_matmul(subject: Subject, path: Path) -> None:
    quantize_dynamic(subject.onnx, path, op_types_to_quantize=["MatMul"])


def _static_best(
    subject: Subject,
    path: Path,
    activations: QuantType = QuantType.QInt8,
    operators: tuple[str, ...] = (),
) -> None:
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(subject.onnx, prepared, skip_symbolic_shape=True)
    nodes = [node.name for node in onnx.load(prepared).graph.node if "frontend" in node.name]
    quantize_static(
        prepared,
        path,
        Reader(subject),
        per_channel=True,
        activation_type=activations,
        nodes_to_exclude=nodes,
        op_types_to_quantize=list(operators) or None,
    )


def _static_best_u8(subject: Subject, path: Path) -> None:
    _static_best(subject, path, QuantType.QUInt8)


def _static_products(subject: Subject, path: Path) -> None:
    _static_best(subject, path, QuantType.QUInt8, ("Conv", "MatMul", "Gemm"))


_SETTINGS: dict[str, Callable[[Subject, Path], None]] = {
    "static": _static,
    "dynamic": _dynamic,
    "dynamic-matmul": _dynamic_matmul,
    "static-best": _static_best,
    "static-best-u8": _static_best_u8,
    "static-products": _static_products,
}
