"""Sound to mono PCM: decode, mix, resample."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import AudioPreprocess, Modality, RepeatedAudioPreprocess
from edgefuse.errors import InputError, needing, shown
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.audio_file import MAX_CHANNELS, MAX_FRAMES, Pcm, decoded, mixed
from edgefuse.runtime.preprocess.files import ENCODED, origin
from edgefuse.runtime.preprocess.tensor import delivered, fill, plain, with_length

_A_SOUND = "a path, the bytes of a sound file, an array at the model's rate or a tuple (array, sample_rate_hz)"
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
# A float file may overshoot 1 a little; far beyond it stand integers that were cast to float without scaling.
_MAX_PEAK = 32.0
# What lies behind the model's clip still reaches its last samples through the resampler's filter.
_MARGIN_S = 0.1
_MAX_RATIO = 1_000  # a steeper filter than that is longer than most clips


class AudioReader:
    """Turns sound into float32 PCM [1, samples].

    Channels are averaged; another rate is resampled with soxr (HQ). A longer clip is cut, a shorter one padded with
    zeros or, where the tensor is bounded, kept. A float32 or int16 array at the model's rate needs no library.
    """

    def __init__(self, modality: Modality, preprocess: AudioPreprocess) -> None:
        tensor = modality.tensors[0]
        self._name = modality.name
        self._what = f"the sound '{modality.name}'"
        self._key = f"{modality.name}.{tensor.name}"
        self._rate_hz = preprocess.sample_rate_hz
        self._samples = preprocess.samples
        self._repeats = isinstance(preprocess, RepeatedAudioPreprocess)
        self._dim = tensor.shape[1]
        self._length = modality.length

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the samples; see `Preprocessor`."""
        where = ""
        if isinstance(raw, np.ndarray):
            pcm, rate_hz = self._from_array(raw, self._rate_hz), self._rate_hz
        elif isinstance(raw, ENCODED):
            where = origin(raw, "sound")
            pcm, rate_hz = decoded(raw, self._name, where, lambda rate_hz: self._needed(rate_hz, where))
        elif isinstance(raw, tuple) and len(raw) == 2 and isinstance(raw[0], np.ndarray):
            rate_hz = self._checked_rate(raw[1])
            pcm = self._from_array(raw[0], rate_hz)
        else:
            raise InputError(f"'{self._name}' is not sound", got=type(raw).__name__, expected=_A_SOUND)
        self._check(pcm, where)
        if rate_hz != self._rate_hz:
            pcm = self._resampled(pcm, rate_hz, where)
        pcm = pcm[: self._samples]
        if self._repeats:
            pcm = np.tile(pcm, self._samples // pcm.size)
        values = fill(pcm[None], delivered(self._dim, pcm.size))
        return with_length(self._name, self._key, values, pcm.size, self._length)

    def _needed(self, rate_hz: int, where: str = "") -> int:
        """The number of samples at a rate that decide the model's clip."""
        rate_hz = self._checked_rate(rate_hz, where)
        if rate_hz == self._rate_hz:
            return self._samples
        return math.ceil((self._samples / self._rate_hz + _MARGIN_S) * rate_hz)

    def chunk(self, raw: object) -> Pcm:
        """Return a part of a stream as float32 mono at the rate it has, as long as it is.

        Raises:
            InputError: if it is no array of samples, empty, not finite or not scaled.
        """
        if not isinstance(raw, np.ndarray):
            raise InputError(
                f"a chunk of '{self._name}' is not sound", got=type(raw).__name__, expected="an array of samples"
            )
        pcm = _mono(self._checked_array(raw))
        self._check(pcm, "")
        return pcm

    def _from_array(self, raw: npt.NDArray[np.generic], rate_hz: int) -> Pcm:
        """Return the beginning of an array as float32 mono."""
        raw = self._checked_array(raw)
        return _mono(raw[: self._samples if rate_hz == self._rate_hz else self._needed(rate_hz)])

    def _checked_array(self, raw: npt.NDArray[np.generic]) -> Array:
        """Return an array as [samples] or [samples, channels]."""
        raw = plain(raw, self._what)
        if raw.dtype not in (np.float32, np.float64, np.int16):
            raise InputError(
                f"{self._what} has the wrong type",
                got=raw.dtype,
                expected="float32 or float64 from -1 to 1, or int16",
                fix="scale the samples to -1..1 and convert them with .astype('float32')",
            )
        if raw.ndim == 2 and raw.shape[0] == 1:
            raw = raw[0]
        if raw.ndim not in (1, 2) or (raw.ndim == 2 and not 1 <= raw.shape[1] <= MAX_CHANNELS):
            raise InputError(
                f"{self._what} has the wrong shape",
                got=list(raw.shape),
                expected="[samples], [1, samples] or [samples, channels]",
                fix="transpose it if the channels come first",
            )
        return raw

    def _checked_rate(self, rate_hz: object, where: str = "") -> int:
        is_number = isinstance(rate_hz, (int, float, np.integer, np.floating)) and not isinstance(rate_hz, bool)
        if not is_number or not MIN_RATE_HZ <= cast(float, rate_hz) <= MAX_RATE_HZ:
            raise InputError(
                f"the sample rate of '{self._name}' makes no sense",
                got=_found(shown(rate_hz, 80), where),
                expected=f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz (the model's is {self._rate_hz} Hz)",
            )
        return round(cast(float, rate_hz))

    def _check(self, pcm: Pcm, where: str) -> None:
        """Refuse what is empty, not finite or not scaled."""
        if pcm.size == 0:
            got = _found("0 samples", where)
            raise InputError(f"{self._what} is empty", got=got, expected="at least one")
        if np.vdot(pcm, pcm) <= _MAX_PEAK**2:  # then no sample is beyond, nor NaN, and one pass has told so
            return
        peak = max(float(np.maximum.reduce(pcm)), -float(np.minimum.reduce(pcm)))  # NaN and infinity come through
        if not math.isfinite(peak):
            raise InputError(
                f"{self._what} holds values that are not finite",
                got=_found(f"{np.count_nonzero(~np.isfinite(pcm))} of {pcm.size} samples NaN or infinite", where),
                expected="numbers from -1 to 1",
            )
        if peak > _MAX_PEAK:
            raise InputError(
                f"{self._what} is not scaled",
                got=_found(f"a peak of {peak:g}", where),
                expected="float samples from -1 to 1",
                fix="divide 16-bit samples by 32768, or pass them as int16",
            )

    def _resampled(self, pcm: Pcm, rate_hz: int, where: str) -> Pcm:
        samples = pcm.size * self._rate_hz // rate_hz
        if samples > MAX_FRAMES or rate_hz > _MAX_RATIO * self._rate_hz:
            raise InputError(
                f"{self._what} cannot be resampled",
                got=_found(f"{pcm.size} samples at {rate_hz} Hz", where),
                expected=f"a rate nearer to the model's, which is {self._rate_hz} Hz",
            )
        with needing(f"resampling from {rate_hz} to {self._rate_hz} Hz", extra="media"):
            import soxr
        resampled = cast(Pcm, soxr.resample(pcm, rate_hz, self._rate_hz, quality="HQ"))
        if resampled.size == 0:
            raise InputError(
                f"{self._what} is too short",
                got=_found(f"{pcm.size} samples at {rate_hz} Hz", where),
                expected=f"at least one sample at {self._rate_hz} Hz",
            )
        return resampled


def _mono(raw: Array) -> Pcm:
    """Return checked samples as float32 mono."""
    scaled = raw.astype(np.float32) / np.float32(32768) if raw.dtype == np.int16 else raw
    mono = mixed(scaled) if scaled.ndim == 2 else scaled
    if mono.dtype == np.float32:
        return cast(Pcm, mono)
    with np.errstate(over="ignore"):  # what becomes infinite is refused afterwards
        return cast(Pcm, mono.astype(np.float32))


def _found(what: str, where: str) -> str:
    return f"{what} in {where}" if where else what
