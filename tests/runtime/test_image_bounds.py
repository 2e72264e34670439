"""Pictures that are damaged, lie or are too large: refused before they cost anything, or decoded all the same."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from edgefuse.bundle.spec import ImagePreprocess, image
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor, image_file
from edgefuse.runtime.preprocess.tiff_directory import longest_list
from tests.attack import picture_bombs

Encode = Callable[..., bytes]
Pixels = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)
COLOUR: Pixels = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
A_PICTURE = "a whole PNG, JPEG, GIF, BMP, PPM, TIFF, WebP, JPEG 2000 or AVIF file"


def prepare(raw: object, channels: Any = 3, **options: Any) -> Pixels:
    modality = image("camera", height=8, width=6, channels=channels)
    preprocess = ImagePreprocess(height=8, width=6, channels=channels, **options)
    tensors = Preprocessor(msgspec.structs.replace(modality, preprocess=preprocess), lambda name: b"")(raw)
    return tensors["camera.pixels"].astype(np.uint8, copy=False)


def shrunk(picture: Image.Image, mode: str = "RGB") -> Pixels:
    return np.asarray(picture.convert(mode).resize((6, 8), Image.Resampling.BILINEAR), np.uint8)


@pytest.mark.parametrize("block", [b"no TIFF", b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + bytes(30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_whose_exif_is_none_is_taken_as_it_lies(encode_png: Encode, kind: str, block: bytes) -> None:
    data = encode_png(COLOUR, kind, exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(prepare(data)[0], shrunk(Image.open(io.BytesIO(encode_png(COLOUR, kind)))))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_is_pillows(encode_png: Encode, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_png(COLOUR, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(prepare(data)[0], shrunk(upright))
    np.testing.assert_array_equal(prepare(Image.open(io.BytesIO(data)))[0], shrunk(upright))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_lab_is_converted(channels: int, mode: str) -> None:
    lab = Image.open(io.BytesIO(picture_bombs.tiff_lab()))
    expected = shrunk(lab.convert("RGB"), mode).reshape(8, 6, channels)
    np.testing.assert_array_equal(prepare(picture_bombs.tiff_lab(), channels)[0], expected)


def test_colours_that_cannot_be_converted_are_one_sentence() -> None:
    with pytest.raises(InputError) as caught:
        prepare(Image.new("La", (9, 9)))
    assert str(caught.value) == (
        "the picture 'camera' has colours that cannot be converted: got mode La in the picture given as Image, "
        "expected grey, RGB, CMYK, YCbCr, HSV or a palette. Fix: save it as an RGB picture."
    )


def test_a_message_names_the_file_or_the_bytes(encode_png: Encode, tmp_path: Path) -> None:
    data = encode_png(COLOUR)[:-200]
    path = tmp_path / "seven.png"
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"'camera' cannot be decoded: got .* in '.*seven\.png', expected " + A_PICTURE
    ):
        prepare(path)
    with pytest.raises(InputError, match=rf"got .* in the picture given as {len(data)} bytes, expected"):
        prepare(data)
    with (
        Image.open(io.BytesIO(data)) as opened,
        pytest.raises(InputError, match=r"got .* in the picture given as PngImageFile, expected"),
    ):
        prepare(opened)
    path.write_bytes(b"none at all")
    with pytest.raises(InputError, match=r"cannot be decoded: got no such picture in '.*seven\.png'"):
        prepare(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "PCX"])
def test_a_lazily_opened_picture_that_is_cut_is_one_error(encode_png: Encode, kind: str) -> None:
    data = encode_png(COLOUR, kind)
    lazy = Image.open(io.BytesIO(data[: int(len(data) * 0.8)]))
    with pytest.raises(InputError, match=r"'camera' cannot be decoded: got .* given as"):
        prepare(lazy)


def test_a_closed_picture_is_one_error(encode_png: Encode) -> None:
    opened = Image.open(io.BytesIO(encode_png(COLOUR)))
    opened.close()
    with pytest.raises(InputError, match="'camera' cannot be decoded"):
        prepare(opened)


def test_damaged_avif_is_one_error(encode_png: Encode) -> None:
    data = encode_png(COLOUR, "AVIF")
    at = data.index(b"mdat")
    for damaged in (data[:200], data[:at] + b"\xff" * (len(data) - at), data.replace(b"pitm", b"pitn")):
        with pytest.raises(InputError, match="'camera' cannot be decoded"):
            prepare(damaged)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "SGI", "PDF"])
def test_formats_that_no_camera_writes_are_not_opened(encode_png: Encode, kind: str) -> None:
    with pytest.raises(InputError, match=f"'camera' cannot be decoded: got no such picture .* expected {A_PICTURE}"):
        prepare(encode_png(COLOUR, kind))


def test_pillow_warns_nobody(encode_png: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "x" * 60
    cut = exif.tobytes()[:-40]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)  # of 3,072: Pillow warns, and does not refuse
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        prepare(encode_png(COLOUR, "JPEG", exif=cut))
        prepare(encode_png(COLOUR))
        before = list(warnings.filters)
        prepare(encode_png(COLOUR))
        assert warnings.filters == before  # one filter, however often
    assert not seen


def cut_off(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that ends after a few bytes of its pixels: whoever decodes it finds that out."""
    return picture_bombs.png(width, height, depth, colour, rows=1)


@pytest.mark.parametrize(
    ("width", "height", "depth", "colour"),
    [
        (13_300, 13_300, 16, 0),
        (9_000, 9_000, 8, 2),
        (8_000, 8_000, 16, 6),
        (1, 60_000_000, 8, 0),
        (60_000_000, 1, 8, 0),
    ],
)
def test_a_picture_is_too_large_before_it_is_decoded(width: int, height: int, depth: int, colour: int) -> None:
    with pytest.raises(InputError) as caught:
        prepare(cut_off(width, height, depth, colour))
    assert f"the picture 'camera' is too large: got {width} x {height} pixels" in str(caught.value)
    assert "expected at most 67 million pixels, and 768 MiB to decode them. Fix: make it smaller" in str(caught.value)
    with pytest.raises(InputError, match="is too large"):
        prepare(Image.open(io.BytesIO(cut_off(width, height, depth, colour))))


def test_pillows_own_limit_holds_too(monkeypatch: pytest.MonkeyPatch, encode_png: Encode) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(InputError, match=r"is too large: got Image size \(3072 pixels\) exceeds limit"):
        prepare(encode_png(COLOUR))


def test_sixteen_bits_take_three_bytes_a_pixel(encode_png: Encode) -> None:
    deep = RNG.integers(0, 1 << 16, (900, 1_500), dtype=np.uint16)
    expected = shrunk(Image.fromarray((deep >> 8).astype(np.uint8)), "L")
    np.testing.assert_array_equal(prepare(encode_png(deep), 1)[0, :, :, 0], expected)
    signed = Image.fromarray(deep.astype(np.int32) - 9_000)
    clipped = np.clip(np.asarray(signed).astype(np.int64), 0, 0xFFFF) >> 8
    np.testing.assert_array_equal(
        prepare(signed, 1)[0, :, :, 0], shrunk(Image.fromarray(clipped.astype(np.uint8)), "L")
    )


@pytest.mark.parametrize(("resample", "fit"), [("nearest", "stretch"), ("bilinear", "contain"), ("bicubic", "cover")])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_grey_resized_as_one_channel_is_grey_resized_as_three(mode: str, resample: str, fit: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    flat, filter_ = picture.convert("RGB"), Image.Resampling[resample.upper()]
    by_fit = {"stretch": Image.Image.resize, "contain": ImageOps.pad, "cover": ImageOps.fit}
    expected = by_fit[fit](flat, (6, 8), filter_)  # type: ignore[operator]
    np.testing.assert_array_equal(prepare(picture, resample=resample, fit=fit)[0], np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_only_what_is_too_large_is_decoded_at_a_part_of_its_size(
    encode_png: Encode, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = np.asarray(Image.fromarray(COLOUR).resize((640, 480), Image.Resampling.BICUBIC))
    data = encode_png(smooth, kind)
    whole = prepare(data)
    np.testing.assert_array_equal(whole[0], shrunk(Image.open(io.BytesIO(data))))
    monkeypatch.setitem(image_file._MAX_PIXELS, kind, 320 * 240)
    half = Image.open(io.BytesIO(data))
    if kind == "JPEG":
        half.draft("RGB", (320, 240))
    else:
        half.reduce = 1  # type: ignore[method-assign, assignment]
    np.testing.assert_array_equal(prepare(data)[0], shrunk(half))
    assert half.size == (320, 240)
    assert np.abs(prepare(data).astype(int) - whole).max() < 12
    with pytest.raises(InputError, match="too large"):
        prepare(Image.open(io.BytesIO(data)))  # the application's own is not touched
    monkeypatch.setitem(image_file._MAX_SHRUNK, kind, 640 * 480 - 1)
    with pytest.raises(InputError, match="is too large: got 640 x 480 pixels"):
        prepare(data)


def test_memory_is_estimated_for_what_is_done(encode_png: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = 48 * 64
    rest = 48 * (48 + 64) + 6 * 48 * 4  # weights and the first pass of resizing
    plain, alpha = encode_png(COLOUR), encode_png(Image.fromarray(COLOUR).convert("RGBA"))
    monkeypatch.setattr(image_file, "MAX_MEMORY_BYTES", 2 * len(alpha) + 4 * pixels + rest)
    prepare(plain)
    with pytest.raises(InputError, match="too large"):
        prepare(alpha)
    monkeypatch.setattr(image_file, "MAX_MEMORY_BYTES", 4 * pixels - 1)
    with pytest.raises(InputError, match=r"is too large: got 64 x 48 pixels .* in the picture given as ndarray"):
        prepare(COLOUR)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: picture_bombs.png(8, 8, 8, 0, picture_bombs.png_chunk(b"tEXt", b"a\0") * 90_000),
            "got more than we read",
        ),
        (lambda: picture_bombs.tiff_of_tag(282, 5, 300_000), "got a tag that lists 300000 numbers in the picture"),
        (lambda: picture_bombs.tiff_of_tag(273, 4, 300_000), "got a tag that lists 300000 numbers in the picture"),
        (lambda: picture_bombs.jpeg_segments(b"\xff\xe0\0\x02" * 150_000), "got more than we read"),
        (lambda: picture_bombs.gif(b"!\xfe\0" * 150_000), "got more than we read"),
        (lambda: b"P6 #" + b"x" * 300_000, "got more than we read"),
        (lambda: b"P2 9 9 255\n" + b"#x\n" * 1_001, "got 1001 comments"),
        (lambda: picture_bombs.jpeg_scans(100), "got 110 scans of 4000 x 4000 pixels"),
        (lambda: exif_png(5 << 20), "got [0-9]+ bytes of EXIF in .*, expected at most 4194304"),
    ],
)
def test_parts_without_end_are_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(InputError, match=f"the picture 'camera' has too many parts: {message}"):
        prepare(make())


def exif_png(size: int) -> bytes:
    return picture_bombs.png(8, 8, 8, 0, picture_bombs.png_chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(size)))


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (b"P3 1000 1000 255\n" + b"1 " * 9, 1 << 20),
        (b"P5 2000 1000 99\n", 1 << 20),
        (picture_bombs.bmp_rle(4_000, 4_000, b"\0\1"), 1 << 22),
    ],
)
def test_a_slow_decoder_gets_little_to_do(data: bytes, samples: int) -> None:
    with pytest.raises(InputError) as caught:
        prepare(data)
    assert "is too large for the way it is stored: got" in str(caught.value)
    assert f"expected at most {samples} samples. Fix: save it as a PNG." in str(caught.value)


def test_small_pictures_of_slow_decoders_are_read() -> None:
    ramp = bytes(range(0, 200, 2))
    for data in (b"P5 10 10 199\n" + ramp, b"P2 #c\n10 10 199\n" + b" ".join(b"%d" % v for v in ramp)):
        expected = Image.open(io.BytesIO(data)).resize((6, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(prepare(data, 1)[0, :, :, 0], np.asarray(expected))


def test_text_in_a_png_is_not_taken_for_the_decoders_own(encode_png: Encode) -> None:
    data = encode_png(COLOUR)
    for keyword in (b"progressive", b"exif", b"Raw profile type exif", b"comment"):
        text = picture_bombs.png_chunk(b"tEXt", keyword + b"\0" + b"\xff\xda\0\0" * 500)
        np.testing.assert_array_equal(prepare(data[:33] + text + data[33:]), prepare(data))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_longest_list_of_a_tiff_is_found(order: str, big: bool) -> None:
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    number, entry = order + ("Q" if big else "H"), order + ("HHQQ" if big else "HHII")
    header = magic + (struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "L", 8))
    tags = [(256, 4, 7, 0), (700, 1, 10**9, 0), (282, 5, 9_000, 0), (270, 2, 10**9, 0), (34_377, 7, 10**9, 0)]
    data = header + struct.pack(number, len(tags)) + b"".join(struct.pack(entry, *each) for each in tags)
    assert longest_list(data) == 9_000
    assert longest_list(data[:-1]) == 9_000
    assert longest_list(data[:20]) == longest_list(b"") == longest_list(magic + b"\xff" * 30) == 0


def test_a_text_that_unpacks_to_much_is_refused() -> None:
    text = b"a\0\0" + zlib.compress(bytes(4 << 20))
    with pytest.raises(InputError, match=r"Decompressed [Dd]ata [Tt]oo [Ll]arge"):
        prepare(picture_bombs.png(8, 8, 8, 0, picture_bombs.png_chunk(b"zTXt", text)))


def test_a_masked_array_is_refused_and_a_subclass_is_not() -> None:
    small = COLOUR[:8, :6]
    with pytest.raises(InputError, match=r"the picture 'camera' is a masked array.* Fix: use \.filled\(0\)"):
        prepare(np.ma.masked_less(small, 9))

    class Frame(np.ndarray):
        """What a camera's library may give."""

    frame = small[None].view(Frame)
    tensors = Preprocessor(image("camera", height=8, width=6), lambda name: b"")(frame)
    assert type(tensors["camera.pixels"]) is np.ndarray
    np.testing.assert_array_equal(prepare(frame)[0], small)


def test_a_lying_bmp_is_one_error() -> None:
    for width, height in ((1 << 30, 1 << 30), (-5, 5), (5, -(1 << 31)), (0, 0)):
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        with pytest.raises(InputError, match="the picture 'camera'"):
            prepare(b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + header + bytes(99))


def test_nothing_of_pillow_is_imported_for_an_array_that_fits() -> None:
    assert "PIL.Image" in sys.modules
    fitting = COLOUR[None, :8, :6]
    assert Preprocessor(image("camera", height=8, width=6), lambda name: b"")(fitting)["camera.pixels"] is fitting
