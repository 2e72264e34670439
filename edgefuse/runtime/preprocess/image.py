"""Pictures to uint8 pixels: decode, turn upright, convert, resize."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ImagePreprocess, Modality
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.media import ENCODED, Encoded, open_media

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

_EXPECTED = "a path, the bytes of a picture, a PIL image or a uint8 array [height, width(, channels)]"


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
        raise InputError(f"'{self._name}' is not a picture", got=type(raw).__name__, expected=_EXPECTED)

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
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading or resizing pictures", extra="media", module="PIL") from error
    return Image


def _is_pillow_image(raw: object) -> bool:
    """Tell without importing Pillow: nobody can hold one of its images before it is imported."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(raw, module.Image)
