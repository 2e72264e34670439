"""Intel Neural Compressor 3: PT2E static quantization for torch's x86 inductor, its documented path for CPUs."""

from __future__ import annotations

from pathlib import Path

import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

from benchmarks.peers.subject import Subject


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the exported program."""
    module = torch.export.unflatten(torch.export.load(subject.program))
    example = tuple(torch.from_numpy(array) for array in next(subject.calibration()).values())
    prepared = prepare(export(module, example_inputs=example), get_default_static_config())
    for feeds in subject.calibration():
        prepared(*(torch.from_numpy(array) for array in feeds.values()))
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(convert(prepared), example), path)
    return [path]
