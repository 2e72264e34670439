"""Clips to uint8 frames: taken at the model's rate, resized as pictures are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from edgefuse.bundle.spec import ImagePreprocess, Modality, VideoPreprocess
from edgefuse.errors import InputError, shown
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.files import ENCODED, origin
from edgefuse.runtime.preprocess.image import ImageReader
from edgefuse.runtime.preprocess.tensor import delivered, fill, plain, with_length
from edgefuse.runtime.preprocess.video_file import LATE_S, decoded

_A_VIDEO = (
    "a path, the bytes of a video file, a uint8 array [frames, height, width, channels] or a list of pictures at the "
    "model's rate, or a tuple (such an array or list, frames_per_second)"
)
_MAX_RATE = 960  # of cameras that slow time down; beyond a thousand, `LATE_S` would skip frames


class VideoReader:
    """Turns a clip into uint8 [1, frames, height, width, channels].

    A longer clip is cut, a shorter one padded with zeros or, where the tensor is bounded, kept. An array that has the
    model's size and channels needs no library.
    """

    def __init__(self, modality: Modality, preprocess: VideoPreprocess) -> None:
        tensor = modality.tensors[0]
        self._name = modality.name
        self._what = f"the video '{modality.name}'"
        self._key = f"{modality.name}.{tensor.name}"
        self._frames, self._rate = preprocess.frames, preprocess.frames_per_second
        self._size = preprocess.height, preprocess.width, preprocess.channels
        self._dim = tensor.shape[1]
        self._length = modality.length
        fields = {name: getattr(preprocess, name) for name in ImagePreprocess.__struct_fields__}
        self._picture = ImageReader(modality, ImagePreprocess(**fields))

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the frames; see `Preprocessor`."""
        if isinstance(raw, ENCODED):
            where = origin(raw, "video")
            taken: Array = np.concatenate(decoded(raw, self._name, where, self._frames, self._rate, self._resized))
        else:
            taken = self._given(raw)
        values = fill(taken[None], delivered(self._dim, len(taken)))
        return with_length(self._name, self._key, values, len(taken), self._length)

    def _given(self, raw: object) -> Array:
        """Return the frames, [frames, height, width, channels], of pictures in memory."""
        pictures, places = raw, list(range(self._frames))
        if isinstance(raw, tuple) and len(raw) == 2 and not isinstance(raw[1], (np.ndarray, *ENCODED)):
            pictures, rate = raw[0], self._checked_rate(raw[1])
            places = [int((place / self._rate + LATE_S) * rate) for place in places]
        if isinstance(pictures, np.ndarray):
            pictures = self._checked(plain(pictures, self._what))
        elif not isinstance(pictures, (list, tuple)):
            raise InputError(f"'{self._name}' is not a video", got=type(pictures).__name__, expected=_A_VIDEO)
        places = [place for place in places if place < len(pictures)]
        if not places:
            raise InputError(f"{self._what} is empty", got="0 frames", expected="at least one")
        if isinstance(pictures, np.ndarray) and pictures.shape[1:] == self._size:
            return pictures[: len(places)] if places == list(range(len(places))) else pictures[places]
        return np.concatenate([self._resized(cast("Sequence[Any]", pictures)[place]) for place in places])

    def _resized(self, picture: object) -> Array:
        """Return a picture in the model's channels and size, [1, height, width, channels]."""
        return self._picture(picture)[self._key]

    def _checked(self, raw: Array) -> Array:
        """Return an array as [frames, height, width, channels]."""
        if raw.dtype != np.uint8:
            raise InputError(
                f"{self._what} has the wrong type",
                got=raw.dtype,
                expected="uint8 from 0 to 255",
                fix="convert it first, for values from 0 to 1 with (video * 255).round().astype('uint8')",
            )
        frames = raw[0] if raw.ndim == 5 and raw.shape[0] == 1 else raw
        if frames.ndim != 4 or frames.shape[3] not in (1, 3, 4) or 0 in frames.shape[1:]:
            raise InputError(
                f"{self._what} has the wrong shape",
                got=list(raw.shape),
                expected="[frames, height, width, channels] or [1, frames, height, width, channels] "
                "with 1, 3 or 4 channels",
            )
        return frames

    def _checked_rate(self, rate: object) -> float:
        is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
        if not is_number or not 0 < cast(float, rate) <= _MAX_RATE or not math.isfinite(cast(float, rate)):
            raise InputError(
                f"the frame rate of '{self._name}' makes no sense",
                got=shown(rate, 80),
                expected=f"frames per second, above 0 and up to {_MAX_RATE} (the model's are {self._rate:g})",
            )
        return float(cast(float, rate))
