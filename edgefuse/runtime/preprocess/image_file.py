"""Pictures decoded by Pillow, within bounds of memory and time that their headers tell before anything is decoded.

Pillow is imported when a picture first needs it; docs/decisions/068-bounded-media.md says where the bounds come from.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, cast

from edgefuse.errors import InputError, needing
from edgefuse.runtime.preprocess.files import Encoded, cause, read
from edgefuse.runtime.preprocess.tiff_directory import longest_list

if TYPE_CHECKING:
    from PIL import Image

A_WHOLE_PICTURE = "a whole PNG, JPEG, GIF, BMP, PPM, TIFF, WebP, JPEG 2000 or AVIF file"
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 1 << 26
"""Of a picture that is decoded whole, in a second or three. JPEG is faster, JPEG 2000 slower."""
_MAX_PIXELS = {"JPEG": 1 << 27, "MPO": 1 << 27, "JPEG2000": 1 << 24}
_MAX_SHRUNK = {"JPEG": 178_956_970, "MPO": 178_956_970, "JPEG2000": 1 << 26}
"""Of a picture that is decoded at a half, a quarter or an eighth of its size, because the whole would be too much.

Pillow opens no larger one."""
MAX_MEMORY_BYTES = 768 << 20
"""What decoding and converting a picture may take at once, as estimated from its header."""

# Formats that cameras, scanners and browsers write, those that Pillow knows without importing all its plugins first.
# Not the others: EPS starts Ghostscript, and nobody would notice if a parser of game textures were wrong.
_COMMON = ("PNG", "JPEG", "GIF", "BMP", "PPM")
_OTHERS = ("TIFF", "WEBP", "JPEG2000", "AVIF")
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # per pixel; all others: 4
_DECODER_BYTES = {"WEBP": 12, "AVIF": 12, "TIFF": 8}  # per pixel, besides the picture; measured, TIFF in one strip
# Decoders in Python: samples that take about two seconds, and as many single reads as that may need.
_SLOW_SAMPLES = {"ppm": 1 << 20, "ppm_plain": 1 << 20, "bmp_rle": 1 << 22}
_SLOW_PARTS = 1 << 20
_MAX_COMMENTS = 1_000  # each of a plain PPM copies a megabyte
_MAX_PARTS = 1 << 18  # chunks, markers and tags are read one by one, in Python
_MAX_LISTED = 1 << 18  # numbers of a TIFF's tag: a strip for each of four times as many rows as a picture may have
_MAX_EXIF_BYTES = 4 << 20
_MAX_SCANNED_PIXELS = 5 << 28  # of a progressive JPEG, whose scans each touch the whole picture
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_NOT_EXIF = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, struct.error, Warning)


def pillow() -> ModuleType:
    """Return the module `PIL.Image`, imported when a picture first needs it."""
    with needing("reading or resizing pictures", extra="media"):
        from PIL import Image
    # What Pillow warns of (a corrupt EXIF block, a large picture) is accepted or refused here, and nobody's business.
    # Once, not around each call: that is not safe with threads, and makes Python forget which warnings it has shown.
    quiet = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if quiet not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    return Image


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes pictures for one modality.

    Attributes:
        what: the pictures are called in messages ("the picture 'camera'").
        name: of the modality.
        width: in pixels, that pictures are resized to.
        grey: whether they become grey.
    """

    what: str
    name: str
    width: int
    grey: bool

    def decoded(self, raw: Encoded, where: str) -> Image.Image:
        """Return the picture in a file or in bytes, upright, and smaller than it is only where it must be."""
        data = read(raw, self.name, MAX_FILE_BYTES)
        if (listed := longest_list(data)) > _MAX_LISTED:
            raise InputError(
                f"{self.what} has too many parts",
                got=f"a tag that lists {listed} numbers in {where}",
                expected=f"at most {_MAX_LISTED}",
                fix="save it as a PNG",
            )
        media = _Parts(data, f"{self.what} has too many parts", where)
        try:
            image = self._opened(media, where)
        except pillow().DecompressionBombError as error:
            raise InputError(
                f"{self.what} is too large",
                got=f"{cause(error)} in {where}",
                expected=f"at most {_MAX_SHRUNK['JPEG'] // 10**6} million pixels",
                fix="make it smaller first",
            ) from error
        if image.mode == "I" and image.format == "TIFF":
            raise InputError(
                f"{self.what} holds 32-bit integers",
                got=f"mode I in {where}",
                expected="8 or 16 bits",
                fix="scale it to 0..255 and convert it to mode L",
            )
        self._check_parts(image, data, where)
        self._check_size(image, where, len(data))
        if any(tile[0] in _SLOW_SAMPLES for tile in getattr(image, "tile", ())):
            media.left = _SLOW_PARTS
        image.load()
        return self.upright(image, where)

    def upright(self, image: Image.Image, where: str) -> Image.Image:
        """Return a picture, which may not be decoded yet, as its EXIF block says that it is to be seen."""
        if getattr(image, "tile", None):  # not decoded yet
            self._check_size(image, where)
        image.load()
        turn = self._turn(image, where)
        self.check_memory(image, where, turned=turn is not None)
        return image if turn is None else image.transpose(pillow().Transpose[turn])

    def check_memory(self, image: Image.Image, where: str, *, turned: bool = False) -> None:
        """Refuse a decoded picture whose conversion takes too much.

        Args:
            image: decoded.
            where: it comes from, for the message.
            turned: whether EXIF says that it is to be turned.
        """
        if self._needed_bytes(image, image.size, turned) > MAX_MEMORY_BYTES:
            raise self._too_large(image, where)

    def _opened(self, media: io.BytesIO, where: str) -> Image.Image:
        module = pillow()
        try:
            return cast("Image.Image", module.open(media, formats=_COMMON))
        except module.UnidentifiedImageError:
            module.init()
        try:  # an old Pillow has no AVIF
            others = [name for name in _OTHERS if name in module.OPEN]
            return cast("Image.Image", module.open(media, formats=others))
        except module.UnidentifiedImageError as error:
            raise InputError(
                f"{self.what} cannot be decoded", got=f"no such picture in {where}", expected=A_WHOLE_PICTURE
            ) from error

    def _check_parts(self, image: Image.Image, data: bytes, where: str) -> None:
        """Refuse a picture that is small enough and takes for ever."""
        codecs = {tile[0] for tile in getattr(image, "tile", ())}
        most = min((_SLOW_SAMPLES[codec] for codec in codecs if codec in _SLOW_SAMPLES), default=None)
        samples = image.width * image.height * len(image.getbands())
        if most and samples > most:
            raise InputError(
                f"{self.what} is too large for the way it is stored",
                got=f"{image.format} of {image.width} x {image.height} pixels in {where}",
                expected=f"at most {most} samples",
                fix="save it as a PNG",
            )
        comments = data.count(b"#") if "ppm_plain" in codecs else 0
        scans = _scans(data) if _is_progressive(image) else 0
        if comments > _MAX_COMMENTS or scans * image.width * image.height > _MAX_SCANNED_PIXELS:
            got = f"{comments} comments" if comments else f"{scans} scans of {image.width} x {image.height} pixels"
            raise InputError(f"{self.what} has too many parts", got=f"{got} in {where}", expected=A_WHOLE_PICTURE)

    def _check_size(self, image: Image.Image, where: str, file_bytes: int = 0) -> None:
        """Refuse a picture that is too large to be decoded, or have it decoded at a part of its size."""
        turned = image.format in ("JPEG", "MPO") and self._turn(image, where) is not None
        width, height = image.size
        for power in range(4 if file_bytes and image.format in _MAX_SHRUNK else 1):  # not of an image that is not ours
            size = (-(-width >> power), -(-height >> power))
            if _few_enough(image, power) and (
                2 * file_bytes + self._needed_bytes(image, size, turned) <= MAX_MEMORY_BYTES
            ):
                _shrink(image, power)
                return
        raise self._too_large(image, where)

    def _needed_bytes(self, image: Image.Image, size: tuple[int, int], turned: bool) -> int:
        """Estimate what decoding a picture to this size, and converting and resizing it, take at once."""
        pixels = size[0] * size[1]
        held = _MODE_BYTES.get(image.mode, 4)
        mode = "L" if self.grey or image.mode[:1] in ("1", "L", "I") else "RGB"
        converted = 0 if image.mode == mode else _MODE_BYTES.get(mode, 4)
        first_pass = self.width * size[1] * _MODE_BYTES.get(mode, 4)  # of resizing: to the width, in all rows
        weights = 48 * (size[0] + size[1])
        decoder = _DECODER_BYTES.get(str(image.format), 0) * pixels
        if image.format == "JPEG2000":
            decoder = 6 * len(image.getbands()) * pixels
        elif _is_progressive(image):  # all its coefficients, at whatever size it is decoded
            decoder = 2 * len(image.getbands()) * image.width * image.height
        return held * pixels + max(decoder, (held * turned + converted) * pixels + first_pass + weights)

    def _turn(self, image: Image.Image, where: str) -> str | None:
        """Return what EXIF says is to be done to the picture; nothing where there is none, or none that can be read."""
        sizes = [len(image.info.get(key) or "") for key in ("exif", "Raw profile type exif")]
        if max(sizes) > _MAX_EXIF_BYTES:
            raise InputError(
                f"{self.what} has too many parts",
                got=f"{max(sizes)} bytes of EXIF in {where}",
                expected=f"at most {_MAX_EXIF_BYTES}",
            )
        try:
            orientation = image.getexif().get(_ORIENTATION)
            return next((turn for value, turn in _TURNS.items() if value == orientation), None)
        except _NOT_EXIF:
            return None

    def _too_large(self, image: Image.Image, where: str) -> InputError:
        most = _MAX_SHRUNK.get(str(image.format), MAX_PIXELS)
        return InputError(
            f"{self.what} is too large",
            got=f"{image.width} x {image.height} pixels (mode {image.mode}) in {where}",
            expected=f"at most {most // 10**6} million pixels, and {MAX_MEMORY_BYTES >> 20} MiB to decode them",
            fix="make it smaller first",
        )


class _Parts(io.BytesIO):
    """A file in memory that gives out a limited number of parts, since Pillow's loops over them are in Python."""

    def __init__(self, data: bytes, what: str, where: str) -> None:
        super().__init__(data)
        self.left = _MAX_PARTS
        self._what, self._where = what, where

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise InputError(self._what, got=f"more than we read in {self._where}", expected=A_WHOLE_PICTURE)
        return super().read(size)


def _is_progressive(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO") and bool(image.info.get("progressive"))


def _few_enough(image: Image.Image, power: int) -> bool:
    """Whether a picture has no more pixels than we decode, at `1 / 2**power` of its size."""
    pixels, kind = image.width * image.height, str(image.format)
    if len(image.getbands()) > 1 and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())[:1]):
        pixels *= 2  # twice the bytes
    return pixels <= _MAX_SHRUNK.get(kind, MAX_PIXELS) and pixels >> 2 * power <= _MAX_PIXELS.get(kind, MAX_PIXELS)


def _shrink(image: Image.Image, power: int) -> None:
    """Have a picture that is not decoded yet decoded at `1 / 2**power` of its size."""
    if power and image.format == "JPEG2000":
        image.reduce = power  # type: ignore[method-assign, assignment] # that is how Pillow's plugin spells it
    elif power:
        image.draft(None, (image.width >> power, image.height >> power))


def _scans(data: bytes) -> int:
    """Count the scans of the first picture in a JPEG file; more than there can be where its segments never end."""
    position, scans = 2, 0
    for _ in range(_MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None or data[found.end() - 1] == _END_OF_IMAGE:
            return scans
        scans += data[found.end() - 1] == _START_OF_SCAN
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return _MAX_SCANNED_PIXELS
