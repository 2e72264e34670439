"""Clips become frames: taken at the model's rate, cut, padded, resized as pictures are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgefuse.bundle.spec import Bucketed, ImagePreprocess, Modality, TensorSpec, VideoPreprocess, image, video
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.preprocess import Preprocessor

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def prepare(raw: object, **fields: Any) -> dict[str, Array]:
    settings: dict[str, Any] = {"height": 4, "width": 5, "frames": 8, "fps": 10} | fields
    return Preprocessor(video("clip", **settings), lambda name: b"")(raw)


def test_an_array_of_the_models_size_is_passed_on_without_a_copy() -> None:
    eight = RNG.integers(0, 256, (8, 4, 5, 3), dtype=np.uint8)
    taken = prepare(eight)
    assert list(taken) == ["clip.frames"]
    assert np.shares_memory(taken["clip.frames"], eight)
    np.testing.assert_array_equal(taken["clip.frames"], eight[None])
    np.testing.assert_array_equal(prepare(eight[None])["clip.frames"], eight[None])


def test_a_longer_clip_is_cut_and_a_shorter_one_is_padded_with_zeros() -> None:
    np.testing.assert_array_equal(prepare(FRAMES, frames=4)["clip.frames"][0], FRAMES[:4])
    taken = prepare(FRAMES, length=True)
    np.testing.assert_array_equal(taken["clip.frames"][0, :6], FRAMES)
    assert not taken["clip.frames"][0, 6:].any()
    assert taken["clip.length"].tolist() == [6]
    assert taken["clip.length"].dtype == np.int32


def test_a_variable_clip_is_kept_and_a_bucketed_one_goes_to_the_next_bucket() -> None:
    taken = prepare(FRAMES, variable=True)
    np.testing.assert_array_equal(taken["clip.frames"], FRAMES[None])
    assert taken["clip.length"].tolist() == [6]
    plain = video("clip", height=4, width=5, frames=16, fps=10, length=True)
    frames = TensorSpec(name="frames", dtype="uint8", shape=(1, Bucketed(sizes=(4, 7, 16)), 4, 5, 3))
    bucketed = msgspec.structs.replace(plain, tensors=(frames,))
    assert Preprocessor(bucketed, lambda name: b"")(FRAMES)["clip.frames"].shape == (1, 7, 4, 5, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["stretch", "contain", "cover"])
def test_frames_are_resized_as_pictures_are(channels: Any, fit: Any) -> None:
    given = RNG.integers(0, 256, (3, 9, 14, 3), dtype=np.uint8)
    modality = video("clip", height=4, width=5, channels=channels, frames=3, fps=1)
    fields = {"height": 4, "width": 5, "channels": channels, "resample": "bicubic", "fit": fit}
    preprocess = VideoPreprocess(**fields, frames=3, frames_per_second=1.0)
    taken = Preprocessor(msgspec.structs.replace(modality, preprocess=preprocess), lambda name: b"")(given)
    one = image("picture", height=4, width=5, channels=channels)
    picture = msgspec.structs.replace(one, preprocess=ImagePreprocess(**fields))
    read = Preprocessor(picture, lambda name: b"")
    for frame, pixels in zip(taken["clip.frames"][0], given, strict=True):
        np.testing.assert_array_equal(frame, read(pixels)["picture.pixels"][0])


def test_a_list_of_pictures_is_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "second.png"
    Image.fromarray(FRAMES[1]).save(path)
    given = [Image.fromarray(FRAMES[0]), path, path.read_bytes(), FRAMES[3]]
    taken = prepare(given, variable=True)
    np.testing.assert_array_equal(taken["clip.frames"][0], FRAMES[[0, 1, 1, 3]])
    np.testing.assert_array_equal(prepare(tuple(given), frames=2)["clip.frames"][0], FRAMES[:2])
    endless = [FRAMES[0]] * 8 + [b"what is cut is not looked at"]
    assert prepare(endless)["clip.frames"].shape[1] == 8


@pytest.mark.parametrize(
    ("rate", "model", "expected"),
    [
        (10, 10, [0, 1, 2, 3, 4, 5]),
        (20, 10, [0, 2, 4]),
        (10, 20, [0, 0, 1, 1, 2, 2, 3, 3]),
        (30, 12.5, [0, 2, 4]),
        (29.97, 29.97, [0, 1, 2, 3, 4, 5]),
        (0.5, 1, [0, 0, 1, 1, 2, 2, 3, 3]),
        (100, 1, [0]),
    ],
)
def test_pictures_at_another_rate_are_taken_by_their_times(rate: float, model: float, expected: list[int]) -> None:
    for given in (FRAMES, list(FRAMES)):
        taken = prepare((given, rate), fps=model, variable=True)
        np.testing.assert_array_equal(taken["clip.frames"][0], FRAMES[expected])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (FRAMES.astype(np.float32), "the video 'clip' has the wrong type: got float32, expected uint8 from 0 to 255"),
        (FRAMES[0], r"the video 'clip' has the wrong shape: got \[4, 5, 3\], expected \[frames, height"),
        (FRAMES[..., :2], r"has the wrong shape: got \[6, 4, 5, 2\], .* with 1, 3 or 4 channels"),
        (FRAMES[:, :0], r"has the wrong shape: got \[6, 0, 5, 3\]"),
        (FRAMES[:0], "the video 'clip' is empty: got 0 frames, expected at least one"),
        ([], "the video 'clip' is empty: got 0 frames"),
        (7, "'clip' is not a video: got int, expected a path, the bytes of a video file, a uint8 array"),
        ((FRAMES, 0), "the frame rate of 'clip' makes no sense: got 0, expected frames per second"),
        ((FRAMES, float("nan")), "the frame rate of 'clip' makes no sense: got nan"),
        ((FRAMES, True), "the frame rate of 'clip' makes no sense: got True"),
        ((7, 10), "'clip' is not a video: got int"),
        (
            (b"GIF89a", 10),
            r"'clip' is not a video: got bytes, .* or a tuple \(such an array or list, frames_per_second",
        ),
        ([FRAMES[0], "no/such.png"], r"the file for 'clip' cannot be read: got 'no/such.png' \(No such file"),
        ([FRAMES[0], 3], "'clip' is not a picture: got int"),
        (b"", "the file for 'clip' is empty"),
    ],
)
def test_what_is_no_clip_is_one_sentence(raw: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(raw)


def test_a_video_file_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"reading video files needs the module 'av'.*edgefuse\[media\]"):
        prepare(b"GIF89a")


def test_the_description_of_a_clip() -> None:
    plain = video("clip", height=4, width=5, frames=8, fps=10)
    assert isinstance(plain, Modality)
    assert (plain.length, plain.optional) == (False, False)
    assert plain.tensors[0].max_shape == (1, 8, 4, 5, 3)
    assert video("clip", height=4, width=5, frames=8, fps=10, variable=True).length
