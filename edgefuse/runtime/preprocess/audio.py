"""Sound to mono PCM: decode, mix, resample, cut, pad."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import AudioPreprocess, Modality
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.media import ENCODED, Encoded, open_media
from edgefuse.runtime.preprocess.sizes import delivered, fill, with_length

Pcm = npt.NDArray[np.float32]

_EXPECTED = "a path, the bytes of a sound file, an array at the model's rate or a tuple (array, sample_rate_hz)"
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
_MAX_CHANNELS = 32
# A float file may overshoot 1 a little; far beyond it stand integers that were cast to float without scaling.
_MAX_PEAK = 32.0
# What lies behind the model's clip still reaches its last samples through the resampler's filter.
_MARGIN_S = 0.1


class AudioReader:
    """Turns sound into float32 PCM [1, samples].

    Channels are averaged; another rate is resampled with soxr (HQ). A longer clip is cut, a shorter one padded with
    zeros or, where the tensor is bounded, kept. A float32 or int16 array at the model's rate needs no library.
    """

    def __init__(self, modality: Modality, preprocess: AudioPreprocess) -> None:
        tensor = modality.tensors[0]
        self._name = modality.name
        self._key = f"{modality.name}.{tensor.name}"
        self._rate_hz = preprocess.sample_rate_hz
        self._samples = preprocess.samples
        self._dim = tensor.shape[1]
        self._length = modality.length

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the samples; see `Preprocessor`."""
        if isinstance(raw, np.ndarray):
            pcm, rate_hz = self._from_array(raw, self._rate_hz), self._rate_hz
        elif isinstance(raw, ENCODED):
            pcm, rate_hz = self._decoded(raw)
        elif isinstance(raw, tuple) and len(raw) == 2 and isinstance(raw[0], np.ndarray):
            rate_hz = self._checked_rate(raw[1])
            pcm = self._from_array(raw[0], rate_hz)
        else:
            raise InputError(f"'{self._name}' is not sound", got=type(raw).__name__, expected=_EXPECTED)
        self._check(pcm)
        if rate_hz != self._rate_hz:
            pcm = self._resampled(pcm, rate_hz)
        pcm = pcm[: self._samples]
        values = fill(pcm[None], delivered(self._dim, pcm.size))
        return with_length(self._name, self._key, values, pcm.size, self._length)

    def _needed(self, rate_hz: int) -> int:
        """The number of samples at a rate that decide the model's clip."""
        if rate_hz == self._rate_hz:
            return self._samples
        return math.ceil((self._samples / self._rate_hz + _MARGIN_S) * rate_hz)

    def _from_array(self, raw: npt.NDArray[np.generic], rate_hz: int) -> Pcm:
        """Return the beginning of an array as float32 mono."""
        if raw.dtype not in (np.float32, np.float64, np.int16):
            raise InputError(
                f"the sound '{self._name}' has the wrong type",
                got=raw.dtype,
                expected="float32 or float64 from -1 to 1, or int16",
                fix="scale the samples to -1..1 and convert them with .astype('float32')",
            )
        if raw.ndim == 2 and raw.shape[0] == 1:
            raw = raw[0]
        if raw.ndim not in (1, 2) or (raw.ndim == 2 and not 1 <= raw.shape[1] <= _MAX_CHANNELS):
            raise InputError(
                f"the sound '{self._name}' has the wrong shape",
                got=list(raw.shape),
                expected="[samples], [1, samples] or [samples, channels]",
                fix="transpose it if the channels come first",
            )
        raw = raw[: self._needed(rate_hz)]
        scaled = raw.astype(np.float32) / np.float32(32768) if raw.dtype == np.int16 else raw
        mono = scaled.mean(axis=1) if scaled.ndim == 2 else scaled
        return cast(Pcm, mono.astype(np.float32, copy=False))

    def _decoded(self, raw: Encoded) -> tuple[Pcm, int]:
        """Return the beginning of a file as float32 mono, and its rate."""
        try:
            import soundfile  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise MissingExtraError("reading sound files", extra="media", module="soundfile") from error
        media = open_media(raw, self._name)
        try:
            with soundfile.SoundFile(media) as file:
                rate_hz = self._checked_rate(file.samplerate)
                frames = file.read(self._needed(rate_hz), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"the sound '{self._name}' cannot be decoded",
                got=str(error).rstrip("."),
                expected="a whole WAV, FLAC, OGG or other file that libsndfile reads",
            ) from error
        return cast(Pcm, frames.mean(axis=1) if frames.shape[1] > 1 else frames[:, 0]), rate_hz

    def _checked_rate(self, rate_hz: object) -> int:
        is_number = isinstance(rate_hz, (int, float, np.integer, np.floating)) and not isinstance(rate_hz, bool)
        if not is_number or not _MIN_RATE_HZ <= float(cast(float, rate_hz)) <= _MAX_RATE_HZ:
            raise InputError(
                f"the sample rate of '{self._name}' makes no sense",
                got=rate_hz,
                expected=f"{_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz (the model's is {self._rate_hz} Hz)",
            )
        return round(float(cast(float, rate_hz)))

    def _check(self, pcm: Pcm) -> None:
        """Refuse what is empty, not finite or not scaled."""
        if pcm.size == 0:
            raise InputError(f"the sound '{self._name}' is empty", got="0 samples", expected="at least one")
        peak = max(float(np.maximum.reduce(pcm)), -float(np.minimum.reduce(pcm)))  # NaN and infinity come through
        if not math.isfinite(peak):
            raise InputError(
                f"the sound '{self._name}' holds values that are not finite",
                got=f"{np.count_nonzero(~np.isfinite(pcm))} of {pcm.size} samples NaN or infinite",
                expected="numbers from -1 to 1",
            )
        if peak > _MAX_PEAK:
            raise InputError(
                f"the sound '{self._name}' is not scaled",
                got=f"a peak of {peak:g}",
                expected="float samples from -1 to 1",
                fix="divide 16-bit samples by 32768, or pass them as int16",
            )

    def _resampled(self, pcm: Pcm, rate_hz: int) -> Pcm:
        try:
            import soxr
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"resampling from {rate_hz} to {self._rate_hz} Hz", extra="media", module="soxr"
            ) from error
        resampled = cast(Pcm, soxr.resample(pcm, rate_hz, self._rate_hz, quality="HQ"))
        if resampled.size == 0:
            raise InputError(
                f"the sound '{self._name}' is too short",
                got=f"{pcm.size} samples at {rate_hz} Hz",
                expected=f"at least one sample at {self._rate_hz} Hz",
            )
        return resampled
