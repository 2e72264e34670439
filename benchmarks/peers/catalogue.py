"""Every system of the comparison but edgefuse's own: which tool, with which setting, runs where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A peer at one setting.

    Attributes:
        name: as it stands in the table.
        quantizer: the module in `quantizers/` that makes its file.
        setting: what that module is told.
        runtime: the module in `runtimes/` that opens the file; systems of one runtime are comparable directly.
        environment: the requirements file that it is made with (`requirements/<name>.txt`), `project` for our own.
        packages: whose versions the row shows.
        runs_in: the environment that the file runs in, if not where it was made.
        note: what the setting is, in the words of the tool's documentation.
    """

    name: str
    quantizer: str
    setting: str
    runtime: str
    environment: str
    packages: tuple[str, ...]
    runs_in: str = ""
    note: str = ""


_ORT = ("onnxruntime",)
_NNCF = ("nncf", "openvino")
_AEQ = ("ai-edge-quantizer", "ai-edge-litert")
_EXECUTORCH = ("executorch", "torchao")

REFERENCE = System(
    "torch eager", "program", "float", "torch", "project", ("torch",), note="the reference: eval, inference mode"
)

SYSTEMS: tuple[System, ...] = (
    System(
        "onnxruntime float", "onnxruntime", "float", "onnxruntime", "onnxruntime", _ORT, note="the file as exported"
    ),
    System(
        "onnxruntime static",
        "onnxruntime",
        "static",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="quantize_static defaults",
    ),
    System(
        "onnxruntime dynamic",
        "onnxruntime",
        "dynamic",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="quantize_dynamic defaults",
    ),
    System(
        "onnxruntime dynamic MatMul",
        "onnxruntime",
        "dynamic-matmul",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="op_types_to_quantize=['MatMul'], as its examples for transformers",
    ),
    System(
        "onnxruntime static best",
        "onnxruntime",
        "static-best",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="quant_pre_process, QDQ, per channel, signal processing excluded",
    ),
    System(
        "onnxruntime static best u8",
        "onnxruntime",
        "static-best-u8",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="the same with unsigned activations",
    ),
    System(
        "onnxruntime static products u8",
        "onnxruntime",
        "static-products",
        "onnxruntime",
        "onnxruntime",
        _ORT,
        note="the same, op_types_to_quantize=['Conv', 'MatMul', 'Gemm']",
    ),
    System("openvino float", "nncf", "float", "openvino", "openvino", _NNCF, note="read_model, f32"),
    System("nncf default", "nncf", "default", "openvino", "openvino", _NNCF, note="nncf.quantize defaults"),
    System(
        "nncf transformer",
        "nncf",
        "transformer",
        "openvino",
        "openvino",
        _NNCF,
        note="model_type=TRANSFORMER, as its docs advise for attention",
    ),
    System(
        "nncf default, frontends float",
        "nncf",
        "default-scoped",
        "openvino",
        "openvino",
        _NNCF,
        note="defaults, ignored_scope: signal processing",
    ),
    System(
        "nncf accuracy control",
        "nncf",
        "accuracy-control",
        "openvino",
        "openvino",
        _NNCF,
        note="quantize_with_accuracy_control, max_drop as the budget, ignored_scope: signal processing",
    ),
    System("litert float", "ai_edge_quantizer", "float", "litert", "litert", _AEQ, note="the file as converted"),
    System(
        "ai-edge-quantizer dynamic",
        "ai_edge_quantizer",
        "dynamic_wi8_afp32",
        "litert",
        "litert",
        _AEQ,
        note="its advice for CPUs",
    ),
    System(
        "ai-edge-quantizer static",
        "ai_edge_quantizer",
        "static_wi8_ai8",
        "litert",
        "litert",
        _AEQ,
        note="its int8 recipe",
    ),
    System("executorch float", "executorch", "float", "executorch", "executorch", _EXECUTORCH, note="XNNPACK"),
    System(
        "executorch static",
        "executorch",
        "static",
        "executorch",
        "executorch",
        _EXECUTORCH,
        note="PT2E, XNNPACKQuantizer, symmetric, per channel",
    ),
    System(
        "executorch dynamic",
        "executorch",
        "dynamic",
        "executorch",
        "executorch",
        _EXECUTORCH,
        note="PT2E, XNNPACKQuantizer, is_dynamic=True, for linear layers",
    ),
    System(
        "olive static",
        "olive",
        "static",
        "onnxruntime",
        "olive",
        ("olive-ai", "onnxruntime"),
        "onnxruntime",
        note="OnnxStaticQuantization defaults",
    ),
    System(
        "olive dynamic",
        "olive",
        "dynamic",
        "onnxruntime",
        "olive",
        ("olive-ai", "onnxruntime"),
        "onnxruntime",
        note="OnnxDynamicQuantization defaults",
    ),
    System(
        "modelopt int8",
        "modelopt",
        "int8",
        "onnxruntime",
        "modelopt",
        ("nvidia-modelopt", "onnxruntime"),
        "onnxruntime",
        note="quantize_mode='int8' defaults (entropy); meant for TensorRT",
    ),
    System(
        "modelopt int8, frontends float",
        "modelopt",
        "int8-scoped",
        "onnxruntime",
        "modelopt",
        ("nvidia-modelopt", "onnxruntime"),
        "onnxruntime",
        note="the same, nodes_to_exclude: signal processing",
    ),
    System(
        "neural-compressor static",
        "neural_compressor",
        "static",
        "inductor",
        "neural_compressor",
        ("neural-compressor-pt", "torch"),
        note="get_default_static_config, torch.compile; it has no files for a device",
    ),
)


def names() -> tuple[str, ...]:
    """Return the names of all systems but edgefuse's own."""
    return (REFERENCE.name, *(system.name for system in SYSTEMS))
