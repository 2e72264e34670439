"""Pictures of every kind become the same pixels."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgefuse.bundle.spec import CroppedImagePreprocess, ImagePreprocess, image
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.preprocess import Preprocessor

Encode = Callable[..., bytes]
Pixels = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)
GREY: Pixels = RNG.integers(0, 256, (8, 6), dtype=np.uint8)
COLOUR: Pixels = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)


def prepare(raw: object, channels: Any = 3, **options: Any) -> Pixels:
    modality = image("camera", height=8, width=6, channels=channels)
    kind = CroppedImagePreprocess if "shortest_edge" in options else ImagePreprocess
    preprocess = kind(height=8, width=6, channels=channels, **options)
    tensors = Preprocessor(msgspec.structs.replace(modality, preprocess=preprocess), lambda name: b"")(raw)
    assert list(tensors) == ["camera.pixels"]
    pixels = tensors["camera.pixels"]
    assert pixels.shape == (1, 8, 6, channels)
    assert pixels.dtype == np.uint8
    return pixels.astype(np.uint8, copy=False)


def test_a_path_bytes_a_pillow_image_and_an_array_are_the_same(encode_png: Encode, tmp_path: Path) -> None:
    data = encode_png(COLOUR)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for raw in (path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(COLOUR), COLOUR):
        np.testing.assert_array_equal(prepare(raw)[0], COLOUR)


@pytest.mark.parametrize("array", [GREY, GREY[:, :, None], GREY[None, :, :, None]], ids=["HW", "HWC", "1HWC"])
def test_grey_arrays(array: Pixels) -> None:
    np.testing.assert_array_equal(prepare(array, channels=1)[0, :, :, 0], GREY)
    np.testing.assert_array_equal(prepare(array)[0], np.repeat(GREY[:, :, None], 3, axis=2))


def test_colour_becomes_grey_for_a_grey_model() -> None:
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"))
    np.testing.assert_array_equal(prepare(COLOUR, channels=1)[0, :, :, 0], expected)


def test_alpha_is_dropped(encode_png: Encode) -> None:
    with_alpha = np.dstack([COLOUR, np.full((8, 6), 10, np.uint8)])
    for raw in (with_alpha, encode_png(with_alpha)):
        np.testing.assert_array_equal(prepare(raw)[0], COLOUR)


def test_a_palette_is_resolved(encode_png: Encode) -> None:
    flat = np.zeros((8, 6, 3), np.uint8)
    flat[:, 3:] = (10, 200, 30)
    palette = Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(prepare(encode_png(palette))[0], flat)


def test_sixteen_bits_keep_their_high_byte(encode_png: Encode) -> None:
    deep = GREY.astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(prepare(encode_png(deep), channels=1)[0, :, :, 0], GREY)


def test_one_bit_pictures(encode_png: Encode) -> None:
    black_and_white = Image.fromarray(GREY).point(lambda v: 255 * (v > 127)).convert("1")
    np.testing.assert_array_equal(prepare(encode_png(black_and_white), channels=1)[0, :, :, 0], 255 * (GREY > 127))


def test_exif_orientation_is_applied(encode_png: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    lying = np.ascontiguousarray(np.rot90(COLOUR))
    np.testing.assert_array_equal(prepare(encode_png(lying, exif=exif))[0], COLOUR)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((8, 6), shade, np.uint8)) for shade in (40, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert prepare(buffer.getvalue(), channels=1).max() == 40


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic"])
def test_stretch_is_pillows_resize(resample: str) -> None:
    large = RNG.integers(0, 256, (31, 17, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(large).resize((6, 8), Image.Resampling[resample.upper()]))
    np.testing.assert_array_equal(prepare(large, resample=resample)[0], expected)


def test_contain_pads_and_cover_crops() -> None:
    wide = np.full((8, 24, 3), 200, np.uint8)
    wide[:, :8] = 0
    contained = prepare(wide, fit="contain", resample="nearest")[0]
    assert not contained[:3].any()  # bars above and below
    assert not contained[-3:].any()
    assert contained[3:-3].any()
    assert prepare(wide, fit="cover", resample="nearest").min() == 200  # the middle


def test_an_array_of_the_right_size_is_passed_on_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image")
    modality = image("camera", height=8, width=6)
    batch = COLOUR[None]
    assert Preprocessor(modality, lambda name: b"")(batch)["camera.pixels"] is batch
    np.testing.assert_array_equal(prepare(COLOUR)[0], COLOUR)
    with pytest.raises(MissingExtraError, match=r"needs the module 'PIL'.* Fix: pip install 'edgefuse\[media\]'"):
        prepare(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow warns before it fails
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_one_error(encode_png: Encode, kind: str, kept: float) -> None:
    noise = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    data = encode_png(noise, kind)
    with pytest.raises(InputError, match=r"the picture 'camera' cannot be decoded: got .*, expected a whole PNG"):
        prepare(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the file for 'camera' is empty: got 0 bytes"),
        (b"plain text", "the picture 'camera' cannot be decoded"),
        ("/no/such.png", r"the file for 'camera' cannot be read: got '/no/such.png' \(No such file or directory\)"),
        ("/", r"the file for 'camera' cannot be read: got '/' \(Is a directory\)"),
        ("a\0b", "the file for 'camera' cannot be read"),
        (GREY / 255, r"has the wrong type: got float64, expected uint8 from 0 to 255\. Fix: .*\(picture \* 255\)"),
        (GREY > 9, "has the wrong type: got bool"),
        (GREY.astype(np.uint16), "has the wrong type: got uint16"),
        (np.zeros((8, 6, 2), np.uint8), r"has the wrong shape: got \[8, 6, 2\], expected \[height, width\]"),
        (np.zeros((2, 8, 6, 3), np.uint8), "has the wrong shape"),
        (np.zeros((0, 6, 3), np.uint8), "has the wrong shape"),
        (np.zeros(8, np.uint8), "has the wrong shape"),
        (Image.fromarray(np.zeros((8, 6), np.float32)), "holds floating-point numbers: got mode F"),
        (5, "'camera' is not a picture: got int, expected a path, the bytes of a picture"),
        (None, "'camera' is not a picture: got NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(raw)


@pytest.mark.parametrize(("edge", "size"), [(9, (31, 14)), (9, (14, 31)), (11, (8, 6)), (8, (8, 8)), (8, (6, 8))])
def test_a_cropped_picture_is_resized_by_its_shorter_edge(edge: int, size: tuple[int, int]) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    scaled = {9: {(31, 14): (9, 19), (14, 31): (19, 9)}, 11: {(8, 6): (11, 14)}, 8: {(8, 8): (8, 8), (6, 8): (10, 8)}}
    whole = np.asarray(picture.resize(scaled[edge][size], Image.Resampling.BICUBIC))
    top, left = (whole.shape[0] - 8) // 2, (whole.shape[1] - 6) // 2
    found = prepare(picture, shortest_edge=edge, resample="bicubic")[0]
    np.testing.assert_array_equal(found, whole[top : top + 8, left : left + 6])


def test_what_is_smaller_than_the_crop_is_centred_on_black() -> None:
    picture = Image.fromarray(np.full((3, 3, 3), 200, np.uint8))
    expected = np.zeros((8, 6), np.uint8)
    expected[3:6, 2:5] = 200
    np.testing.assert_array_equal(prepare(picture, shortest_edge=3)[0, :, :, 0], expected)


def test_a_picture_that_is_too_long_to_be_resized_is_refused() -> None:
    picture = Image.new("L", (40_000, 2))
    with pytest.raises(InputError, match=r"is too elongated: got \(40000, 2\) in the picture"):
        prepare(picture, shortest_edge=512)


def test_lanczos_is_pillows() -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (31, 14, 3), dtype=np.uint8))
    expected = np.asarray(picture.resize((6, 8), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(prepare(picture, resample="lanczos")[0], expected)
