"""Olive, Microsoft's optimizer: its ONNX quantization passes with their defaults."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olive.data.registry import Registry
from olive.workflows import run

from benchmarks.peers.subject import Feeds, Subject

_PASSES = {"static": "OnnxStaticQuantization", "dynamic": "OnnxDynamicQuantization"}


class _Items:
    """The calibration feeds as a sequence of (feeds, label)."""

    def __init__(self, subject: Subject) -> None:
        self._feeds = list(subject.calibration())

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, index: int) -> tuple[Feeds, int]:
        return self._feeds[index], 0

    def __iter__(self) -> Iterator[tuple[Feeds, int]]:
        return iter((feeds, 0) for feeds in self._feeds)


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Run one pass over the ONNX file."""

    def items(**_: Any) -> _Items:
        return _Items(subject)

    def loader(dataset: _Items, **_: Any) -> _Items:
        return dataset

    Registry.register_dataset("edgefuse_items")(items)
    Registry.register_dataloader("edgefuse_loader")(loader)
    done = folder / "done"
    shutil.rmtree(done, ignore_errors=True)
    step: dict[str, Any] = {"type": _PASSES[setting]}
    if setting == "static":
        step["data_config"] = "items"
    data = {
        "name": "items",
        "type": "DataContainer",
        "load_dataset_config": {"type": "edgefuse_items"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "edgefuse_loader"},
    }
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(subject.onnx)},
            "data_configs": [data],
            "passes": {"quantize": step},
            "systems": {
                "local": {
                    "type": "LocalSystem",
                    "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
                }
            },
            "target": "local",
            "output_dir": str(done),
            "cache_dir": str(folder / "cache"),
        }
    )
    path = folder / "model.onnx"
    path.write_bytes(next(done.rglob("*.onnx")).read_bytes())
    return [path]
