"""PCM as it comes over the wire: integers of one to four bytes, little-endian, channels interleaved."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from wyoming.event import Event

from edgefuse.errors import InputError
from edgefuse.serve.wyoming.events import fields

Sound: TypeAlias = tuple[npt.NDArray[Any], int]
"""Samples [samples, channels], int16 or float32 in [-1, 1], and their rate in Hz: what a modality of sound takes."""

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
MAX_WIDTH_BYTES, MAX_CHANNELS = 4, 2


class Format(msgspec.Struct, frozen=True):
    """How samples are told.

    Attributes:
        rate: in Hz.
        width: bytes per sample.
        channels: 1 or 2.
    """

    rate: int
    width: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Of one sample of all channels."""
        return self.width * self.channels

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.width} bytes per sample, {self.channels} channels"


def format_of(event: Event) -> Format:
    """Return the format that an event of sound tells.

    Raises:
        InputError: it tells none, or one that is not taken.
    """
    found = fields(event, Format)
    if not (
        MIN_RATE_HZ <= found.rate <= MAX_RATE_HZ
        and 1 <= found.width <= MAX_WIDTH_BYTES
        and 1 <= found.channels <= MAX_CHANNELS
    ):
        raise InputError(
            "sound of this format is not taken",
            got=found,
            expected=f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, 1 to {MAX_WIDTH_BYTES} bytes, 1 or 2 channels",
            fix="send 16000 Hz, 2 bytes, 1 channel",
        )
    return found


def samples_of(data: bytes, form: Format) -> Sound:
    """Return bytes as samples; one byte is unsigned, as in WAV files."""
    if form.width == 1:
        values: npt.NDArray[Any] = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    elif form.width == 2:
        values = np.frombuffer(data, "<i2").astype(np.int16)
    else:
        wide = np.zeros((len(data) // form.width, 4), np.uint8)
        wide[:, 4 - form.width :] = np.frombuffer(data, np.uint8).reshape(-1, form.width)
        values = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, form.channels), form.rate
