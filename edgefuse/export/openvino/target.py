"""The target `openvino`: ONNX files in the forms that OpenVINO runs fast, and right, on the CPU (decision 089)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import onnx_ir as ir

from edgefuse.export.cost_graph import CostGraph
from edgefuse.export.onnx import costs
from edgefuse.export.onnx.forms import apply_common_forms
from edgefuse.export.onnx.target import TOOLS, finished, translated
from edgefuse.export.target import Lowered
from edgefuse.export.torch.forms import first_that_agrees
from edgefuse.stages.stage import ONNX, TORCH, TorchStage


class OpenvinoTarget:
    """Lower stages to ONNX at batch 1, checked in OpenVINO; bounded and bucketed dimensions stay dynamic."""

    name = "openvino"
    title = "OpenVINO"
    backend = "openvino"
    suffix = ".onnx"
    accelerator = "cpu"
    pads = False
    reads: tuple[str, ...] = (TORCH, ONNX)

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32 and compare the file, as OpenVINO runs it, with torch.

        Raises:
            ExportError: if torch cannot trace the stage, an operator has no translation, or the file's answers differ
                from torch's.
        """
        return first_that_agrees(lambda forms: finished(translated(stage, prepare, forms), stage, self.backend))

    def operations(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
        """Return the operations of a file; see `Target.operations`."""
        return costs.read(data, shapes)

    def versions(self) -> dict[str, str]:
        """Return the versions of torch, of the exporter's libraries and of the runtime that checks."""
        return {tool: version(tool) for tool in (*TOOLS, "openvino") if tool != "onnxruntime"}


def prepare(model: ir.Model) -> None:
    """Bring a graph into forms that OpenVINO runs fast, in place.

    The rewrites of means and sums for ONNX Runtime alone gain nothing here and cost a kernel; a layer norm is fed by a
    plain sum, with which it is fused.
    """
    apply_common_forms(model)
