"""What the predecessor of LiteRT computes wrongly is refused; that package itself is met in tests/arm64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.manifest import Manifest
from edgefuse.errors import BackendError
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.tflite import backend as tflite


class Product:
    """An interpreter of one fully connected layer."""

    def __init__(self, dtype: type[Any], channels: int) -> None:
        self._tensors = [(dtype, 0), (np.int8, channels), (np.float32, 0)]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "dtype": dtype, "quantization_parameters": {"scales": np.ones(count, np.float32)}}
            for index, (dtype, count) in enumerate(self._tensors)
        ]

    def _get_ops_details(self) -> list[dict[str, Any]]:
        return [
            {"op_name": "RESHAPE", "inputs": [0]},
            {"op_name": "FULLY_CONNECTED", "inputs": [0, 1, -1]},
        ]


@pytest.mark.parametrize(
    ("dtype", "channels", "wrong"), [(np.float32, 8, True), (np.float32, 1, False), (np.int8, 8, False)]
)
def test_only_floats_times_weights_with_a_scale_per_channel_are_wrong(
    dtype: type[Any], channels: int, wrong: bool
) -> None:
    assert tflite._has_products_by_channel(Product(dtype, channels)) is wrong


@pytest.mark.parametrize("wrong", [False, True])
def test_the_predecessor_refuses_what_it_would_compute_wrong(
    monkeypatch: pytest.MonkeyPatch, tflite_manifest: Manifest, tflite_files: dict[str, bytes], wrong: bool
) -> None:
    monkeypatch.setattr(tflite, "_PREDECESSOR", True)
    if wrong:
        monkeypatch.setattr(tflite, "_has_products_by_channel", lambda interpreter: True)
    candidate = next(c for c in tflite_manifest.candidates if c.stage == "image_encoder")
    data, backend = tflite_files["image_encoder"], tflite.TfliteBackend()
    if not wrong:
        backend.open(data, candidate.inputs, candidate.outputs, SessionOptions())
        return
    with pytest.raises(
        BackendError, match=r"tflite-runtime computes this stage file wrong.* schemes that end in '.tens"
    ):
        backend.open(data, candidate.inputs, candidate.outputs, SessionOptions())
