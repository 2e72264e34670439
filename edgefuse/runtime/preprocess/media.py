"""Pictures to uint8 pixels, sound to mono PCM: decode, convert, resize or resample.

Each media library is imported when an input first needs it.
"""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, Modality
from edgefuse.errors import InputError, needing
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.tensor import delivered, fill, with_length

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

_A_PICTURE = "a path, the bytes of a picture, a PIL image or a uint8 array [height, width(, channels)]"


class ImageReader:
    """Turns a picture into uint8 [1, height, width, channels].

    Alpha is dropped, 16-bit pictures keep their high byte, EXIF orientation is applied, of an animation the first
    frame is taken. An array that has the model's size and channels is passed on as it is, without Pillow.
    """

    def __init__(self, modality: Modality, preprocess: ImagePreprocess) -> None:
        self._name = modality.name
        self._key = f"{modality.name}.{modality.tensors[0].name}"
        self._preprocess = preprocess
        self._shape = (1, preprocess.height, preprocess.width, preprocess.channels)

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the pixels; see `Preprocessor`."""
        if isinstance(raw, np.ndarray):
            if raw.shape == self._shape and raw.dtype == np.uint8:
                return {self._key: raw}
            return {self._key: self._from_array(raw)}
        if isinstance(raw, ENCODED):
            return {self._key: self._resized(self._decoded(raw))}
        if _is_pillow_image(raw):
            return {self._key: self._resized(_upright(cast("Image.Image", raw)))}
        raise InputError(f"'{self._name}' is not a picture", got=type(raw).__name__, expected=_A_PICTURE)

    def _from_array(self, raw: npt.NDArray[np.generic]) -> Pixels:
        if raw.dtype != np.uint8:
            raise InputError(
                f"the picture '{self._name}' has the wrong type",
                got=raw.dtype,
                expected="uint8 from 0 to 255",
                fix="convert it first, for values from 0 to 1 with (picture * 255).round().astype('uint8')",
            )
        pixels = cast(Pixels, raw[0] if raw.ndim == 4 and raw.shape[0] == 1 else raw)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
            raise InputError(
                f"the picture '{self._name}' has the wrong shape",
                got=list(raw.shape),
                expected="[height, width], [height, width, channels] or [1, height, width, channels] "
                "with 1, 3 or 4 channels",
            )
        if pixels.shape == self._shape[1:]:
            return pixels[None]
        image = _pillow().fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
        return self._resized(image)

    def _decoded(self, raw: Encoded) -> Image.Image:
        module = _pillow()
        media = open_media(raw, self._name)
        try:
            image = module.open(media)
            image.load()
        # Pillow's decoders answer damage with any of these; OSError covers truncated and unidentified files.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, module.DecompressionBombError) as error:
            raise InputError(
                f"the picture '{self._name}' cannot be decoded",
                got=str(error).rstrip("."),
                expected="a whole PNG, JPEG or other file that Pillow reads",
            ) from error
        return _upright(image)

    def _resized(self, image: Image.Image) -> Pixels:
        """Return the picture in the model's channels and size, [1, height, width, channels]."""
        from PIL import Image, ImageOps

        preprocess = self._preprocess
        image = self._converted(image)
        size = (preprocess.width, preprocess.height)
        if image.size != size:
            resample = Image.Resampling[preprocess.resample.upper()]
            if preprocess.fit == "contain":
                image = ImageOps.pad(image, size, resample)
            elif preprocess.fit == "cover":
                image = ImageOps.fit(image, size, resample)
            else:
                image = image.resize(size, resample)
        return np.asarray(image, np.uint8).reshape(self._shape)

    def _converted(self, image: Image.Image) -> Image.Image:
        """Return the picture in 8 bits with the model's channels."""
        if image.mode == "F":
            raise InputError(
                f"the picture '{self._name}' holds floating-point numbers",
                got="mode F",
                expected="8 or 16 bits",
                fix="scale it to 0..255 and convert it to mode L",
            )
        if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255 instead of scaling it
            high_byte = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF) >> 8
            image = _pillow().fromarray(high_byte.astype(np.uint8))
        return image.convert("L" if self._preprocess.channels == 1 else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _pillow() -> ModuleType:
    """Return the module `PIL.Image`, imported when a picture first needs it."""
    with needing("reading or resizing pictures", extra="media"):
        from PIL import Image
    return Image


def _is_pillow_image(raw: object) -> bool:
    """Tell without importing Pillow: nobody can hold one of its images before it is imported."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(raw, module.Image)


Pcm = npt.NDArray[np.float32]

_A_SOUND = "a path, the bytes of a sound file, an array at the model's rate or a tuple (array, sample_rate_hz)"
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
            raise InputError(f"'{self._name}' is not sound", got=type(raw).__name__, expected=_A_SOUND)
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
        with needing("reading sound files", extra="media"):
            import soundfile  # type: ignore[import-untyped]
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
        with needing(f"resampling from {rate_hz} to {self._rate_hz} Hz", extra="media"):
            import soxr
        resampled = cast(Pcm, soxr.resample(pcm, rate_hz, self._rate_hz, quality="HQ"))
        if resampled.size == 0:
            raise InputError(
                f"the sound '{self._name}' is too short",
                got=f"{pcm.size} samples at {rate_hz} Hz",
                expected=f"at least one sample at {self._rate_hz} Hz",
            )
        return resampled


Encoded = str | os.PathLike[str] | bytes | bytearray | memoryview
ENCODED = (str, os.PathLike, bytes, bytearray, memoryview)
"""The types that `open_media` takes, for `isinstance`."""


def open_media(raw: Encoded, name: str) -> io.BytesIO:
    """Return the content of a file, given its path or bytes; `InputError` if there is none. `name` is for messages."""
    if isinstance(raw, (str, os.PathLike)):
        try:
            data = Path(raw).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            raise InputError(
                f"the file for '{name}' cannot be read",
                got=f"{str(raw)!r} ({error.strerror if isinstance(error, OSError) else error})",
                expected="the path of a readable file",
            ) from error
    else:
        data = bytes(raw)
    if not data:
        raise InputError(f"the file for '{name}' is empty", got="0 bytes", expected="an encoded file")
    return io.BytesIO(data)
