"""A reference model as one ONNX file with a fixed batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_reference.models import INPUTS, Network, Subject
from benchmarks.gpu_reference.variants import FAILURES

OUTPUTS = ("logits", "embedding")


class _CastFirst(nn.Module):
    """A network whose bytes become numbers before anything else: TensorRT takes them no other way."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, pixels: Tensor, samples: Tensor, ids: Tensor, length: Tensor, present: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs; for the arguments see `Network`."""
        outputs: tuple[Tensor, ...] = self.network(pixels.to(torch.float32), samples, ids, length, present)
        return outputs


def export(subject: Subject, batch: int, path: Path) -> None:
    """Write a model at a batch, with torch's exporter or, where that lacks its packages, with the one before it.

    Args:
        subject: to write.
        batch: of the file, fixed.
        path: of the file.

    Raises:
        RuntimeError: or another of `FAILURES`, if neither works here.
    """
    module, inputs = _CastFirst(subject.network.to("cpu")).eval(), subject.batch(batch)
    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": list(OUTPUTS[: len(module(*inputs))])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, inputs, path, dynamo=True, external_data=False, verbose=False, **names)
        except FAILURES:
            torch.onnx.export(module, inputs, path, dynamo=False, opset_version=17, **names)
