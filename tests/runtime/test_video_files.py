"""Video files: their frames are taken by their times; what is damaged, lies or is too much is one sentence."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.spec import video
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor, video_file
from tests.runtime.clips import LOSSLESS, Pixels, av, clip, grey

LEVELS = [grey(20 * level) for level in range(10)]
FORMS = [
    LOSSLESS,
    ("matroska", "ffv1", "bgr0"),
    ("avi", "rawvideo", "bgr24"),
    ("mp4", "libx264", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("gif", "gif", "rgb8"),
    ("avi", "mjpeg", "yuvj420p"),
    ("mp4", "mpeg4", "yuv420p"),
    ("matroska", "ffv1", "yuva444p"),
    ("matroska", "ffv1", "gray16le"),
    ("matroska", "ffv1", "yuv422p10le"),
]
UNSEEN = "a whole MP4, MOV, WebM, Matroska, AVI or GIF file"


def prepare(raw: object, **fields: Any) -> Pixels:
    settings: dict[str, Any] = {"height": 16, "width": 24, "frames": 60, "fps": 10, "variable": True} | fields
    tensors = Preprocessor(video("clip", **settings), lambda name: b"")(raw)
    frames: Pixels = tensors["clip.frames"][0].astype(np.uint8, copy=False)
    assert tensors["clip.length"].tolist() == [len(frames)]
    return frames


def levels(raw: object, **fields: Any) -> list[int]:
    return [round(float(frame.mean()) / 20) for frame in prepare(raw, **fields)]


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_the_formats_that_people_record(form: tuple[str, str, str], tmp_path: Path) -> None:
    data = clip(LEVELS, form)
    frames = prepare(data)
    assert frames.shape == (10, 16, 24, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), range(0, 200, 20), atol=0 if form == LOSSLESS else 6)
    path = tmp_path / "clip"  # the content decides, not the name
    path.write_bytes(data)
    for raw in (path, str(path), bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(prepare(raw), frames)


def test_a_lossless_file_gives_what_the_array_gives() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 18, 30, 3), dtype=np.uint8)
    for channels in (1, 3):
        np.testing.assert_array_equal(
            prepare(clip(list(frames)), channels=channels), prepare(frames, channels=channels)
        )


@pytest.mark.parametrize("form", [LOSSLESS, ("matroska", "ffv1", "bgr0"), ("avi", "rawvideo", "bgr24")], ids="-".join)
@pytest.mark.parametrize(
    ("fps", "expected"),
    [(30, list(range(10))), (10, [0, 3, 6, 9]), (60, [n // 2 for n in range(20)]), (15, [0, 2, 4, 6, 8]), (0.5, [0])],
)
def test_frames_are_taken_at_the_rate(form: tuple[str, str, str], fps: float, expected: list[int]) -> None:
    assert levels(clip(LEVELS, form, rate=30), fps=fps) == expected
    assert levels(clip(LEVELS, form, rate=30), fps=fps, frames=3) == expected[:3]


def test_a_variable_rate_is_followed_wherever_the_clip_begins() -> None:
    times = [0, 100, 150, 700, 710, 1500]
    expected = [0, 1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4, 5]
    for late in (0, 5_000):
        data = clip(LEVELS[:6], ("matroska", "ffv1", "bgr0"), times_ms=[time + late for time in times])
        assert levels(data)[:16] == expected


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
    ],
)
def test_frames_are_turned_as_the_file_says(matrix: tuple[int, ...], turned: Any) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    data = bytearray(clip([frame] * 2))
    at = data.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    expected = turned(frame)
    taken = prepare(bytes(data), height=expected.shape[0], width=expected.shape[1])
    np.testing.assert_array_equal(taken[0], expected)


@pytest.mark.parametrize(
    "data",
    [
        b"none at all",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        clip(LEVELS, ("mpegts", "mpeg2video", "yuv420p"), rate=25),
    ],
    ids=["junk", "playlist", "list", "stream"],
)
def test_other_formats_are_not_opened(data: bytes) -> None:
    with pytest.raises(InputError, match=f"'clip' cannot be decoded: got no such video in .*, expected {UNSEEN}"):
        prepare(data)


def sound() -> bytes:
    import io

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 44_100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def test_sound_alone_is_no_video() -> None:
    with pytest.raises(InputError, match="the video 'clip' has no pictures that move: got audio in the video given as"):
        prepare(sound())


def test_no_frame_at_all_is_said() -> None:
    whole = clip(LEVELS, ("matroska", "ffv1", "bgr0"))
    with pytest.raises(InputError, match="the video 'clip' is empty: got 0 frames in the video given as"):
        prepare(whole[: whole.index(bytes.fromhex("1f43b675")) + 20])  # in the first cluster


def test_a_coding_that_is_not_read_is_named() -> None:
    with pytest.raises(InputError, match=r"in a coding that is not read: got cinepak in .* Fix: convert it to H.264"):
        prepare(clip(LEVELS, ("avi", "cinepak", "rgb24")))


@pytest.mark.parametrize("form", [LOSSLESS, ("mp4", "libx264", "yuv420p"), ("avi", "rawvideo", "bgr24")], ids="-".join)
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_a_file_that_is_cut_is_refused(form: tuple[str, str, str], part: float, tmp_path: Path) -> None:
    data = clip(LEVELS, form)
    path = tmp_path / "seven.mp4"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"the video 'clip' (cannot|has no|is in|is empty).* in '.*seven\.mp4'"):
        prepare(path)


def test_a_matroska_that_is_cut_ends_there() -> None:
    data = clip(LEVELS, ("matroska", "ffv1", "bgr0"))
    taken = levels(data[: int(0.7 * len(data))])
    assert taken == list(range(10))[: len(taken)]
    assert 1 <= len(taken) < 10


def test_damage_behind_the_last_frame_that_is_taken_does_not_matter() -> None:
    data = clip(LEVELS, ("avi", "rawvideo", "bgr24"))
    assert levels(data[: int(0.8 * len(data))], frames=3) == [0, 1, 2]


def test_what_ffmpeg_would_decode_beyond_our_bound_is_refused_before_it_is() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wide = bytearray(clip([grey(0)] * 2, ("gif", "gif", "rgb8")))
    wide[6:10] = struct.pack("<HH", 65_535, 65_535)
    with pytest.raises(InputError, match=r"got a frame of more than 9\.4 million pixels"):
        prepare(bytes(wide))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def listing(name: bytes, count: int) -> bytes:
    """A film whose table says that it has so many samples."""
    if name == b"stsz":
        data = bytearray(clip(LEVELS))
        at = data.index(b"stsz")
        data[at + 8 : at + 16] = struct.pack(">2I", 7, count)
    else:
        data = bytearray(clip(LEVELS, ("mp4", "mpeg4", "yuv420p"), options={"movflags": "frag_keyframe+empty_moov"}))
        at = data.index(b"trun")
        data[at + 4 : at + 12] = struct.pack(">2I", 0, count)
    return bytes(data)


@pytest.mark.parametrize("name", [b"stsz", b"trun"])
def test_a_film_that_claims_millions_of_frames_takes_no_memory(name: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"'clip' has too many parts: got tables of 800000[0-9]* samples in the video"):
        prepare(listing(name, 80_000_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_film_of_millions_of_boxes_is_refused() -> None:
    data = clip(LEVELS)
    with pytest.raises(InputError, match="'clip' has too many parts: got too many boxes in the video"):
        prepare(data + struct.pack(">I4s", 8, b"free") * (1 << 16))
    large = struct.pack(">I4s", 65 << 20, b"free") + bytes((65 << 20) - 8)
    with pytest.raises(InputError, match="'clip' has too many parts: got too many boxes in the video"):
        prepare(data + large)
    assert levels(data + struct.pack(">I4s", 0, b"free") + bytes(9)) == list(range(10))


@pytest.mark.parametrize(
    ("bound", "most", "said"),
    [
        ("MAX_PACKETS", 5, r"goes on for too long before the last frame that is taken: got 6 frames with 0 million"),
        ("MAX_DECODED_PIXELS", 16 * 24 * 5, r"goes on for too long .* expected at most 65536 with 0 million"),
        (
            "MAX_READ_BYTES",
            40_000,
            r"is too large: got more than 0 MiB before the last frame that is taken in the video",
        ),
        ("MAX_PIXELS", 16 * 24 - 1, r"is too large: got 24 x 16 pixels in the video"),
        ("MAX_FILE_BYTES", 100, r"the file for 'clip' is too large"),
    ],
)
def test_what_goes_on_for_ever_ends(bound: str, most: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip([*LEVELS, *LEVELS] * 5, ("avi", "rawvideo", "bgr24"))
    assert len(prepare(data, frames=3)) == 3
    monkeypatch.setattr(video_file, bound, most)
    with pytest.raises(InputError, match=said):
        prepare(data, fps=0.5)


def test_a_gif_that_repeats_for_ever_is_read_once() -> None:
    data = clip(LEVELS[:4], ("gif", "gif", "rgb8"), options={"loop": "0"})
    assert b"NETSCAPE2.0\x03\x01\0\0" in data
    assert len(prepare(data)) == 4


def test_nothing_but_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "MAX_PACKETS", 4)
    assert levels(clip(LEVELS), frames=3) == [0, 1, 2]


def test_ffmpeg_writes_nothing_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip(LEVELS, ("mp4", "libx264", "yuv420p"))[:-300])
    program = (
        "from edgefuse.bundle.spec import video\n"
        "from edgefuse.runtime.preprocess import Preprocessor\n"
        "read = Preprocessor(video('clip', height=4, width=4, frames=4, fps=4), lambda name: b'')\n"
        "try:\n"
        f"    read({str(path)!r})\n"
        "except ValueError:\n"
        "    raise\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("InputError\n", "")
