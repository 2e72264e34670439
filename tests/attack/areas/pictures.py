"""Pictures that are damaged, lie in their headers or are small on disk and huge in memory."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgefuse.bundle.spec import ImagePreprocess, image
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor
from tests.attack import encoded
from tests.attack.attempt import Area, Attempt
from tests.attack.picture_bombs import bombs, png_chunk

_FITS, _FILTERS = ("stretch", "contain", "cover"), ("nearest", "bilinear", "bicubic")
_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group3", "group4", "lzma", "zstd", "tiff_ccitt")
_TAG_VALUES = (
    1,
    2,
    3,
    4,
    5,
    8,
    16,
    32,
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
    322,
    324,
    338,
    32773,
    34925,
    50000,
)
_SIDES = (1, 8, 31, 64)
_LARGEST_COMPARED = 2_000_000  # pixels: beyond, Pillow's own way would take the time and memory that ours saves


@dataclass(frozen=True)
class Model:
    """What a picture is to become."""

    height: int
    width: int
    channels: Any
    fit: Any
    resample: Any

    def preprocessor(self) -> Preprocessor:
        modality = image("camera", height=self.height, width=self.width, channels=self.channels)
        preprocess = ImagePreprocess(**vars(self))
        return Preprocessor(msgspec.structs.replace(modality, preprocess=preprocess), lambda name: b"")


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield known holes and bombs, each once, among edits of small pictures of every format."""
    Image.init()
    for what, data, is_bomb in encoded.edited_or_bomb(rng, seeds(), bombs(), edited, 0.1):
        yield attempt(rng, folder, what, data, ("bytes", "path") if is_bomb else ("bytes", "path", "object"))


def attempt(rng: random.Random, folder: Path, what: str, data: bytes, ways: tuple[str, ...]) -> Attempt:
    """Hand a picture over in one of the ways that there are."""
    side = rng.choice(_SIDES)
    model = Model(side, rng.choice(_SIDES), rng.choice((1, 3)), *map(rng.choice, (_FITS, _FILTERS)))
    way = rng.choice(ways)
    return Attempt(f"{what}, as {way}, for {model}", lambda: check(folder, data, model, way))


def check(folder: Path, data: bytes, model: Model, way: str) -> None:
    """Read a picture; what is taken must be what Pillow makes of the whole, what is refused must say of what."""
    raw: object = data
    if way == "path":
        raw = folder / f"{os.getpid()}.picture"
        raw.write_bytes(data)
    elif way == "object":
        raw = lazily_opened(data)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        try:
            pixels = model.preprocessor()(raw)["camera.pixels"]
        except InputError as error:
            named = {"path": f"{os.getpid()}.picture", "bytes": f"{len(data)} bytes", "object": "given as"}[way]
            encoded.check_refusal(str(error), named if data else "0 bytes")
            raise
        finally:
            if leaked:
                raise AssertionError(f"a warning came through: {leaked[0].message}")
    assert pixels.shape == (1, model.height, model.width, model.channels), pixels.shape
    assert pixels.dtype == np.uint8, pixels.dtype
    if size_of(data) <= _LARGEST_COMPARED:
        assert np.array_equal(pixels[0], by_pillow(data, model)), "other pixels than Pillow's"


def lazily_opened(data: bytes) -> Image.Image:
    """Open a picture as an application would; not ours to refuse if that fails already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Image.open(io.BytesIO(data))
        except Exception as error:
            raise InputError("the application could not open its picture") from error


def size_of(data: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(data))
    return opened.width * opened.height


def by_pillow(data: bytes, model: Model) -> npt.NDArray[np.uint8]:
    """Return what Pillow's own functions make of the whole picture, one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(data))
        opened.load()
        try:
            upright = ImageOps.exif_transpose(opened)
        except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):  # EXIF that is none
            upright = opened
        if upright.mode.startswith("I"):
            high = np.clip(np.asarray(upright).astype(np.int64), 0, 0xFFFF) >> 8
            upright = Image.fromarray(high.astype(np.uint8))
        if upright.mode == "LAB":
            upright = upright.convert("RGB")
        flat = upright.convert("L" if model.channels == 1 else "RGB")
        resample = Image.Resampling[model.resample.upper()]
        size = (model.width, model.height)
        if flat.size != size and model.fit == "stretch":
            flat = flat.resize(size, resample)
        elif flat.size != size:
            flat = (ImageOps.pad if model.fit == "contain" else ImageOps.fit)(flat, size, resample)
        return np.asarray(flat, np.uint8).reshape(model.height, model.width, model.channels)


@cache
def seeds() -> dict[str, bytes]:
    """Small pictures by format, mode and option."""
    rows, columns = np.mgrid[:40, :52]
    colours = np.stack([columns * 4, rows * 5, rows * columns % 256], -1).astype(np.uint8)
    by_mode = {
        "RGB": Image.fromarray(colours),
        "L": Image.fromarray(colours[..., 2]),
        "RGBA": Image.fromarray(np.dstack([colours, colours[..., :1]])),
        "I;16": Image.fromarray(colours[..., 2].astype(np.uint16) * 257),
        "F": Image.fromarray(colours[..., 0].astype(np.float32)),
    }
    by_mode |= {"P": by_mode["RGB"].quantize(64), "1": by_mode["L"].convert("1"), "LAB": Image.new("LAB", (52, 40))}
    by_mode |= {"CMYK": by_mode["RGB"].convert("CMYK"), "LA": by_mode["RGBA"].convert("LA")}
    turned = {"exif": exif()}
    options: dict[str, list[dict[str, Any]]] = {
        "PNG": [{}, turned],
        "JPEG": [{}, {"progressive": True}, turned],
        "GIF": [{}],
        "BMP": [{}],
        "PPM": [{}],
        "TIFF": [{}, *({"compression": name} for name in _COMPRESSIONS), turned],
        "WEBP": [{}, {"lossless": True}, turned],
        "JPEG2000": [{}, {"tile_size": (16, 16)}, {"irreversible": True}],
        "AVIF": [{"speed": 10}, {"speed": 10} | turned],
    }
    made = {
        f"{name} {mode} {number}": data
        for name, choices in options.items()
        for mode, picture in by_mode.items()
        for number, choice in enumerate(choices)
        if (data := saved(picture, name, **choice))
    }
    frames = [by_mode["RGB"].rotate(angle) for angle in (90, 180)]
    for name in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        made[f"{name} animated"] = saved(by_mode["RGB"], name, save_all=True, append_images=frames)
    return {name: data for name, data in made.items() if data}


def saved(picture: Image.Image, name: str, **options: Any) -> bytes:
    """Return the bytes of a picture file; none where Pillow cannot write it so."""
    buffer = io.BytesIO()
    try:
        with encoded.silence():
            picture.save(buffer, name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SystemError, TypeError):
        return b""
    return buffer.getvalue()


def exif(orientation: int = 6) -> Image.Exif:
    block = Image.Exif()
    block[0x0112], block[0x010F], block[0x0132] = orientation, "maker", "2026:01:01 00:00:00"
    return block


def edited(rng: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    """Return what was done to a picture, and the result."""
    kind = name.split()[0]
    structured = {"PNG": _png_edit, "JPEG": _jpeg_edit, "TIFF": _tiff_edit, "BMP": _bmp_edit}.get(kind)
    choice = rng.random()
    if choice < 0.3 and structured:
        return structured(rng, data)
    if choice < 0.45 and b"II*\0" in data + b"MM\0*":
        return _exif_edit(rng, data)
    return encoded.mutated(rng, data)


def _png_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Edit the header, or put a chunk in, with check sums that are right."""
    if rng.random() < 0.5:
        header = bytearray(data[16:29])
        offset, size, value = rng.choice([(0, 4, encoded.number(rng)), (4, 4, encoded.number(rng))])
        if rng.random() < 0.5:
            offset, size, value = rng.randrange(8, 13), 1, rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
        header[offset : offset + size] = (value % 256**size).to_bytes(size, "big")
        return f"IHDR {offset} = {value}", data[:8] + png_chunk(b"IHDR", bytes(header)) + data[33:]
    name = rng.choice(
        (b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"pHYs", b"gAMA")
    )
    body = rng.choice(
        (b"", rng.randbytes(rng.randrange(1, 200)), exif().tobytes()[:-3], b"Raw profile type exif\0\0zz")
    )
    return f"{name!r} of {body[:20]!r}", data[:33] + png_chunk(name, body) + data[33:]


def _jpeg_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Edit a segment, or put one in."""
    starts = [at for at in range(2, min(len(data), 3000)) if data[at] == 0xFF and data[at + 1] in range(0xC0, 0xFF)]
    at = rng.choice(starts)
    if rng.random() < 0.5:
        value, size = encoded.number(rng), rng.choice((1, 2))
        offset = at + rng.randrange(1, 12)
        new = (value % 256**size).to_bytes(size, "big")
        return f"{new!r} at {offset}", data[:offset] + new + data[offset + size :]
    body = rng.choice((b"Exif\0\0", b"Exif\0\0II*\0", b"ICC_PROFILE\0\x01\xff", b"MPF\0II*\0", b"Photoshop 3.0\0", b""))
    body += rng.randbytes(rng.randrange(40))
    code = rng.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xDA))
    segment = bytes((0xFF, code)) + struct.pack(">H", rng.choice((len(body) + 2, 0, 1, 0xFFFF))) + body
    return f"segment {code:x} of {body[:20]!r}", data[:2] + segment + data[2:]


def _tiff_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Edit entries of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    changed, what = bytearray(data), []
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    for _ in range(rng.choice((1, 1, 2, 4))):
        entry = at + 2 + 12 * rng.randrange(count)
        offset, form = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
        value = rng.choice((encoded.number(rng), *_TAG_VALUES)) % (1 << (16 if form == "H" else 32))
        struct.pack_into(order + form, changed, entry + offset, value)
        what.append(f"entry {(entry - at) // 12} + {offset} = {value}")
    return ", ".join(what), bytes(changed)


def _bmp_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    changed = bytearray(data)
    offset, form = rng.choice(((10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (46, "I")))
    values = (encoded.number(rng), -1, -40, 1, 2, 3, 4, 8, 16, 32, 12, 40, 64, 108, 124, 20_000)
    value = rng.choice(values)
    struct.pack_into("<" + form.upper(), changed, offset, value % (1 << (16 if form == "H" else 32)))
    return f"header {offset} = {value}", bytes(changed)


def _exif_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Edit what follows the mark of an EXIF block."""
    at = max(data.find(b"II*\0"), data.find(b"MM\0*"), 0)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 5))):
        offset = at + rng.randrange(40)
        if offset < len(changed):
            changed[offset] = rng.choice((0, 1, 2, 3, 5, 6, 8, 12, 18, 0x7F, 0x80, 0xFF))
    return f"EXIF at {at}", bytes(changed)


AREA = Area("pictures", attempts, tries=1_500, short=40, max_rss_bytes=1 << 30)
