"""Small video files, made with PyAV; a module that needs them is skipped where it is not installed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av", reason="not checked: video files: PyAV is not installed")

Pixels = npt.NDArray[np.uint8]
LOSSLESS = ("mov", "png", "rgb24")
"""Format, coding and pixels of files that give back what went in."""


def clip(
    frames: Sequence[Pixels],
    form: tuple[str, str, str] = LOSSLESS,
    rate: int = 10,
    times_ms: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
) -> bytes:
    """Return a video file.

    Args:
        frames: of it, uint8 [height, width, 3].
        form: format, coding and pixels, as FFmpeg calls them.
        rate: frames per second.
        times_ms: when each frame begins, instead of at the rate.
        options: of the format.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form[0], options=dict(options or {})) as video:
        stream = video.add_stream(form[1], rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], form[2]
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms[place], Fraction(1, 1000)
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return buffer.getvalue()


def grey(level: int, height: int = 16, width: int = 24) -> Pixels:
    """Return a frame of one grey level."""
    return np.full((height, width, 3), level, np.uint8)
