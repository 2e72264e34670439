"""Pictures to uint8 pixels: decode, convert, resize."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import CroppedImagePreprocess, ImagePreprocess, Modality
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.files import ENCODED, decoding, origin
from edgefuse.runtime.preprocess.image_file import A_WHOLE_PICTURE, MAX_PIXELS, Decoder, pillow
from edgefuse.runtime.preprocess.tensor import plain

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

_A_PICTURE = "a path, the bytes of a picture, a PIL image or a uint8 array [height, width(, channels)]"
_GREY = ("1", "L", "LA")
_STRIP_PIXELS = 1 << 20


class ImageReader:
    """Turns a picture into uint8 [1, height, width, channels].

    Alpha is dropped, 16-bit pictures keep their high byte, EXIF orientation is applied, of an animation the first
    frame is taken. An array that has the model's size and channels is passed on as it is, without Pillow.
    """

    def __init__(self, modality: Modality, preprocess: ImagePreprocess) -> None:
        self._name = modality.name
        self._what = f"the picture '{modality.name}'"
        self._key = f"{modality.name}.{modality.tensors[0].name}"
        self._preprocess = preprocess
        self._shape = (1, preprocess.height, preprocess.width, preprocess.channels)
        self._decoder = Decoder(self._what, self._name, preprocess.width, grey=preprocess.channels == 1)

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the pixels; see `Preprocessor`."""
        if type(raw) is np.ndarray and raw.shape == self._shape and raw.dtype == np.uint8:
            return {self._key: raw}
        if not isinstance(raw, (np.ndarray, *ENCODED)) and not _is_pillow_image(raw):
            raise InputError(f"'{self._name}' is not a picture", got=type(raw).__name__, expected=_A_PICTURE)
        if isinstance(raw, np.ndarray):
            pixels = self._checked(plain(raw, self._what))
            if pixels.shape == self._shape[1:]:
                return {self._key: pixels[None]}
        module, where = pillow(), origin(raw, "picture")
        with decoding(self._what, where, A_WHOLE_PICTURE):
            if isinstance(raw, np.ndarray):
                image = module.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
                self._decoder.check_memory(image, where)
            elif isinstance(raw, ENCODED):
                image = self._decoder.decoded(raw, where)
            else:
                image = self._decoder.upright(cast("Image.Image", raw), where)
            return {self._key: self._resized(image, where)}

    def _checked(self, raw: npt.NDArray[np.generic]) -> Pixels:
        """Return an array as [height, width, channels]."""
        if raw.dtype != np.uint8:
            raise InputError(
                f"{self._what} has the wrong type",
                got=raw.dtype,
                expected="uint8 from 0 to 255",
                fix="convert it first, for values from 0 to 1 with (picture * 255).round().astype('uint8')",
            )
        pixels = cast(Pixels, raw[0] if raw.ndim == 4 and raw.shape[0] == 1 else raw)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
            raise InputError(
                f"{self._what} has the wrong shape",
                got=list(raw.shape),
                expected="[height, width], [height, width, channels] or [1, height, width, channels] "
                "with 1, 3 or 4 channels",
            )
        return pixels

    def _resized(self, image: Image.Image, where: str) -> Pixels:
        """Return the picture in the model's channels and size, [1, height, width, channels]."""
        from PIL import Image, ImageOps

        preprocess = self._preprocess
        image = self._converted(image, where)
        size = (preprocess.width, preprocess.height)
        resample = Image.Resampling[preprocess.resample.upper()]
        if isinstance(preprocess, CroppedImagePreprocess):
            width, height = (preprocess.shortest_edge * side // min(image.size) for side in image.size)
            if width * height > MAX_PIXELS:
                raise InputError(f"{self._what} is too elongated", got=f"{image.size} in {where}")
            left, top = (width - size[0]) // 2, (height - size[1]) // 2
            image = image.resize((width, height), resample).crop((left, top, left + size[0], top + size[1]))
        elif image.size != size:
            if preprocess.fit == "contain":
                image = ImageOps.pad(image, size, resample)
            elif preprocess.fit == "cover":
                image = ImageOps.fit(image, size, resample)
            else:
                image = image.resize(size, resample)
        if preprocess.channels == 3 and image.mode == "L":
            image = image.convert("RGB")
        return np.asarray(image, np.uint8).reshape(self._shape)

    def _converted(self, image: Image.Image, where: str) -> Image.Image:
        """Return the picture in 8 bits, in colours if it has some and the model takes them."""
        if image.mode == "F":
            raise InputError(
                f"{self._what} holds floating-point numbers",
                got=f"mode F in {where}",
                expected="8 or 16 bits",
                fix="scale it to 0..255 and convert it to mode L",
            )
        if image.mode.startswith("I"):  # Pillow would clip it at 255 instead of scaling it
            return _high_byte(image)
        # What is grey is resized as one channel and becomes three only then: the same numbers in a quarter of the room.
        mode = "L" if self._preprocess.channels == 1 or image.mode in _GREY else "RGB"
        try:
            if image.mode == "LAB":  # there is no way from it but to RGB
                image = image.convert("RGB")
            return image if image.mode == mode else image.convert(mode)
        except ValueError as error:
            raise InputError(
                f"{self._what} has colours that cannot be converted",
                got=f"mode {image.mode} in {where}",
                expected="grey, RGB, CMYK, YCbCr, HSV or a palette",
                fix="save it as an RGB picture",
            ) from error


def _high_byte(image: Image.Image) -> Image.Image:
    """Return the high byte of 16-bit grey, strip by strip: as a whole, the numbers in between take gigabytes."""
    width, height = image.size
    grey = np.empty((height, width), np.uint8)
    rows = max(1, _STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        grey[top : top + rows] = np.clip(strip, 0, 0xFFFF) >> 8
    return cast("Image.Image", pillow().fromarray(grey))


def _is_pillow_image(raw: object) -> bool:
    """Tell without importing Pillow: nobody can hold one of its images before it is imported."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(raw, module.Image)
