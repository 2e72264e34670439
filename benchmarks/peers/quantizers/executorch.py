"""ExecuTorch for CPUs: PT2E quantization with XNNPACKQuantizer, lowered to XNNPACK (docs.pytorch.org/executorch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from benchmarks.peers.subject import Subject


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the exported program with a setting of `catalogue.py` and lower it."""
    module = torch.export.load(subject.program).module()
    if setting != "float":
        module = _quantized(setting, module, subject)
    example = tuple(torch.from_numpy(array) for array in next(subject.calibration()).values())
    program = torch.export.export(module, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = folder / "model.pte"
    path.write_bytes(lowered.buffer)
    return [path]


def _quantized(setting: str, module: torch.nn.Module, subject: Subject) -> Any:
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=setting == "dynamic")
    prepared = prepare_pt2e(module, XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for feeds in subject.calibration():
            prepared(*(torch.from_numpy(array) for array in feeds.values()))
    return convert_pt2e(prepared)
