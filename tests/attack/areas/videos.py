"""Video files that are damaged, lie in their headers, or are small on disk and long or huge in memory."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from edgefuse.bundle.spec import video
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor
from tests.attack import encoded
from tests.attack.attempt import Area, Attempt
from tests.runtime.clips import LOSSLESS, clip, grey

_FORMS = (
    LOSSLESS,
    ("matroska", "ffv1", "bgr0"),
    ("avi", "rawvideo", "bgr24"),
    ("avi", "mjpeg", "yuvj420p"),
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "mpeg4", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("gif", "gif", "rgb8"),
    ("mov", "prores_ks", "yuv422p10le"),
    ("mov", "qtrle", "rgb24"),
)
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
_BOXES = (b"mvhd", b"tkhd", b"mdhd", b"stsd", b"stts", b"stss", b"stsc", b"stsz", b"stco", b"elst", b"trun", b"tfhd")
_HEIGHT, _WIDTH = 16, 24


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield known holes and bombs, each once, among edits of short clips of every format."""
    prepared(seeds()["gif gif"], 4, 10.0, variable=True)  # warm
    for what, data, _ in encoded.edited_or_bomb(rng, seeds(), bombs(), edited, 0.2):
        yield attempt(rng, folder, what, data)


def attempt(rng: random.Random, folder: Path, what: str, data: bytes) -> Attempt:
    """Hand a clip over in one of the ways that there are."""
    frames, rate = rng.choice((1, 4, 60)), rng.choice((0.5, 10.0, 30.0))
    variable, way = rng.random() < 0.5, rng.choice(("bytes", "path"))
    given = f"{what}, as {way}, for {frames} frames at {rate} Hz" + (" or fewer" if variable else "")
    return Attempt(given, lambda: check(folder, data, frames, rate, variable, way))


def check(folder: Path, data: bytes, frames: int, rate: float, variable: bool, way: str) -> None:
    """Read a clip; what is taken must have the model's shape, what is refused must say of what."""
    raw: bytes | Path = data
    if way == "path":
        raw = folder / f"{os.getpid()}.clip"
        raw.write_bytes(data)
    try:
        length, taken = prepared(raw, frames, rate, variable=variable)
    except InputError as error:
        named = f"{os.getpid()}.clip" if way == "path" else f"{len(data)} bytes"
        encoded.check_refusal(str(error), named if data else "0 bytes")
        raise
    assert 1 <= length <= frames, length
    assert taken.shape[1:] == (_HEIGHT, _WIDTH, 3), taken.shape
    assert taken.shape[0] == (length if variable else frames), taken.shape
    assert not taken[length:].any(), "padding is not zero"


def prepared(raw: bytes | Path, frames: int, rate: float, *, variable: bool) -> tuple[int, np.ndarray]:
    """Return how many frames a clip has, and the frames that a model gets of it."""
    modality = video(
        "clip", height=_HEIGHT, width=_WIDTH, frames=frames, fps=rate, variable=variable, length=not variable
    )
    tensors = Preprocessor(modality, lambda name: b"")(raw)
    taken = tensors["clip.frames"]
    assert taken.dtype == np.uint8, taken.dtype
    assert len(taken) == 1, taken.shape
    return int(tensors["clip.length"].item()), taken[0]


@cache
def seeds() -> dict[str, bytes]:
    """Six frames by format and coding; MP4 in fragments, too."""
    levels = [grey(40 * level, _HEIGHT, _WIDTH) for level in range(6)]
    with encoded.silence():
        made = {f"{form[0]} {form[1]}": clip(levels, form) for form in _FORMS}
        made["mp4 mpeg4 in fragments"] = clip(levels, ("mp4", "mpeg4", "yuv420p"), options=_FRAGMENTED)
    return made


def edited(rng: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    """Return what was done to a clip, and the result: numbers inside of a box, or bytes anywhere."""
    boxes = [box for box in _BOXES if box in data]
    if not boxes or rng.random() < 0.4:
        return encoded.mutated(rng, data, hot=1_024)
    changed, what = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        box = rng.choice(boxes)
        at = data.index(box) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28))
        value = encoded.number(rng)
        struct.pack_into(">I", changed, at, value)
        what.append(f"{box.decode()} at {at}: {value}")
    return ", ".join(what), bytes(changed)


def bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield what each is, and a function that makes it."""
    black = [grey(0, _HEIGHT, _WIDTH)]
    film, gif = seeds()["mov png"], seeds()["gif gif"]
    yield "nothing", lambda: b""
    yield "a GIF of 65,535 x 65,535", lambda: gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    yield "a still clip of an hour", lambda: clip(black * 3_600, ("mp4", "mpeg4", "yuv420p"), rate=1)
    yield "frames a day apart", lambda: clip(black * 3, ("matroska", "ffv1", "bgr0"), times_ms=(0, 1, 86_400_000))
    yield "a frame of 9 million pixels", lambda: clip([grey(0, 2_304, 4_096)], ("mp4", "mpeg4", "yuv420p"))
    yield "ten of them", lambda: clip([grey(0, 2_304, 4_096)] * 10, ("mp4", "mpeg4", "yuv420p"))
    yield "boxes without end", lambda: film + struct.pack(">I4s", 8, b"free") * 2_000_000
    yield "a box inside of a box, 10,000 times", lambda: nested(film, 10_000)
    yield "a box of 2⁶³ bytes", lambda: film + struct.pack(">I4sQ", 1, b"mdat", 1 << 63)
    yield "clusters without end", lambda: seeds()["matroska ffv1"] + bytes.fromhex("1f43b67580") * 2_000_000
    yield "RIFF lists without end", lambda: seeds()["avi mjpeg"] + b"LIST\4\0\0\0movi" * 1_000_000
    yield "a playlist", lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n"
    yield "a list of files", lambda: b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "bytes without meaning", lambda: b"\x55" * 1_000_000
    yield "an EBML head and nothing", lambda: b"\x1aE\xdf\xa3" + bytes(1_000_000)


def nested(film: bytes, depth: int) -> bytes:
    """Return a film behind which boxes lie inside of each other."""
    size = 8 * depth
    return film + b"".join(struct.pack(">I4s", size - 8 * level, b"moov") for level in range(depth))


AREA = Area("videos", attempts, tries=1_200, short=60, max_rss_bytes=1 << 30)
