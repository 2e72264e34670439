"""Image processors: resizing and cropping as typed preprocessing, the arithmetic on pixels as a frontend.

What counts is the form of a processor that computes with Pillow: it is deterministic, and a device can do the same.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import CroppedImagePreprocess, ImagePreprocess, Modality, TensorSpec
from edgefuse.models.pretrained.folder import Folder, processor_of
from edgefuse.models.pretrained.inputs import Array, Input

NAME = "image"
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its resampling filters."""
_PROBES = ((90, 120), (131, 64))
"""Sizes in pixels."""


class Normalized(nn.Module):
    """Turn pixels, uint8 [B, H, W, 3], into float32 [B, 3, H, W], each channel scaled and shifted."""

    def __init__(self, scale: Array, shift: Array) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale and shift grey levels from 0 to 255."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift


def picture(folder: Folder, edge: int, *, optional: bool = False) -> Input:
    """Return the modality `image` as the folder's processor prepares it.

    Args:
        folder: that holds the processor.
        edge: of the pictures that the model takes, in pixels.
        optional: whether a picture may be absent.

    Raises:
        ModelError: if there is no processor, or one that does more than can be said in numbers.
    """
    processor = processor_of(folder, "AutoImageProcessor", backend="pil")
    preprocess = _preprocess(folder, processor)
    size = (preprocess.height, preprocess.width)
    if size != (edge, edge):
        raise folder.refused(
            "takes pictures of another size than its processor makes",
            got=f"{size[0]} x {size[1]} pixels",
            expected=f"{edge} x {edge} pixels",
            fix="correct the size in preprocessor_config.json",
        )
    random = np.random.default_rng(0)
    pixels = TensorSpec(name="pixels", dtype="uint8", shape=(1, *size, 3))
    return Input(
        modality=Modality(name=NAME, tensors=(pixels,), preprocess=preprocess, optional=optional),
        processed=lambda raw: processor(raw, return_tensors="np", input_data_format="channels_last")["pixel_values"],
        probes=[random.integers(0, 256, (*shape, 3), np.uint8) for shape in _PROBES],
        frontend=_normalized(processor),
    )


def _preprocess(folder: Folder, processor: Any) -> ImagePreprocess:
    """Return resizing and cropping as a processor does them."""
    resample = _FILTERS.get(int(getattr(processor, "resample", None) or 0)) if processor.do_resize else None
    if resample is None:
        raise folder.refused(
            "has a processor that resizes in a way which is not taken",
            got=f"resample {processor.resample!r}" if processor.do_resize else "no resizing",
            expected=", ".join(_FILTERS.values()),
        )
    size, crop = _lengths(processor.size), _lengths(getattr(processor, "crop_size", None))
    cropped = bool(getattr(processor, "do_center_crop", False))
    made = crop if cropped else size
    base = ImagePreprocess(height=made.get("height", 0), width=made.get("width", 0), resample=resample)  # type: ignore[arg-type] # of the filters
    if set(size) == {"height", "width"} and (not cropped or size == crop):
        return base
    if set(size) == {"shortest_edge"} and cropped and set(crop) == {"height", "width"}:
        fields = msgspec.structs.asdict(base)
        return CroppedImagePreprocess(**fields, shortest_edge=size["shortest_edge"])
    raise folder.refused(
        "has a processor that makes pictures of no fixed size",
        got=f"size {size}" + (f", crop_size {crop}" if cropped else ""),
        expected="a size of height and width, or a shortest_edge and a crop_size",
    )


def _lengths(size: Any) -> dict[str, int]:
    """Return the lengths that are set of a size as the library keeps it."""
    names = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    found = {name: size.get(name) if hasattr(size, "get") else getattr(size, name, None) for name in names}
    return {name: int(value) for name, value in found.items() if value}


def _normalized(processor: Any) -> Normalized:
    """Return rescaling and normalising as one scale and one shift."""
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, deviation = np.zeros(3), np.ones(3)
    if processor.do_normalize:
        mean, deviation = mean + np.asarray(processor.image_mean), deviation * np.asarray(processor.image_std)
    return Normalized(factor / deviation, -mean / deviation)
