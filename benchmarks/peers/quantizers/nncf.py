"""NNCF, Intel's quantizer, on an OpenVINO model (docs.openvino.ai, "Post-training quantization")."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

from benchmarks.peers.subject import Feeds, Subject

_VALIDATION_ITEMS = 200


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Quantize the ONNX file as an OpenVINO model with a setting of `catalogue.py`."""
    model = openvino.Core().read_model(subject.onnx)
    data = nncf.Dataset(list(subject.calibration()))
    # What computes spectra is fixed signal processing; NNCF has no rule for it and lets the user name it.
    scope = nncf.IgnoredScope(patterns=[".*frontend.*"], validate=False)
    if setting == "default":
        model = nncf.quantize(model, data)
    elif setting == "transformer":
        model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER)
    elif setting == "default-scoped":
        model = nncf.quantize(model, data, ignored_scope=scope)
    elif setting == "accuracy-control":
        model = _controlled(model, data, scope, subject)
    path = folder / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def _controlled(model: Any, data: nncf.Dataset, scope: nncf.IgnoredScope, subject: Subject) -> Any:
    """Quantize until the mean accuracy over the subsets of the calibration items is within the budget."""
    split, subsets = subject.split("calibration"), subject.about.subsets
    pairs = [(i, s) for i in range(min(len(split), _VALIDATION_ITEMS)) for s in subsets if split.has(i, s)]
    validation = nncf.Dataset([(split.feeds(i, s), int(split.targets[i])) for i, s in pairs], lambda item: item)

    def accuracy(compiled: Any, items: Iterable[tuple[Feeds, int]]) -> float:
        right = [int(np.argmax(compiled(feeds)[0])) == target for feeds, target in items]
        return float(np.mean(right))

    return nncf.quantize_with_accuracy_control(
        model, data, validation, accuracy, max_drop=subject.about.max_drop, ignored_scope=scope
    )
