"""Sound files that are damaged, lie in their headers, or were written into a pipe."""

from __future__ import annotations

import io
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr

from edgefuse.bundle.spec import audio
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor
from tests.attack import encoded
from tests.attack.attempt import Area, Attempt

RATE_HZ = 16_000
_KINDS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
_MARGIN_S = 0.1


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield known holes and bombs, each once, among edits of short sounds of every format and coding."""
    soxr.resample(np.zeros(100, np.float32), 8_000, RATE_HZ)  # warm
    for what, data, _ in encoded.edited_or_bomb(rng, seeds(), bombs(), edited, 0.2):
        yield attempt(rng, folder, what, data)


def attempt(rng: random.Random, folder: Path, what: str, data: bytes) -> Attempt:
    """Hand a sound over in one of the ways that there are."""
    samples, variable, way = rng.choice((160, 1_600, 160_000)), rng.random() < 0.5, rng.choice(("bytes", "path"))
    given = f"{what}, as {way}, for {samples} samples" + (" or fewer" if variable else "")
    return Attempt(given, lambda: check(folder, data, samples, variable, way))


def check(folder: Path, data: bytes, samples: int, variable: bool, way: str) -> None:
    """Read a sound; what is taken must be what libsndfile reads, what is refused must say of what."""
    raw: object = data
    if way == "path":
        raw = folder / f"{os.getpid()}.sound"
        raw.write_bytes(data)
    modality = audio("mic", sample_rate_hz=RATE_HZ, samples=samples, variable=variable)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)  # stderr may hear of damage from mpg123; results are none of its business
        try:
            tensors = Preprocessor(modality, lambda name: b"")(raw)
        except InputError as error:
            named = f"{os.getpid()}.sound" if way == "path" else f"{len(data)} bytes"
            encoded.check_refusal(str(error), named if data else "0 bytes")
            raise
        finally:
            printed.seek(0)
            said = printed.read()
            assert not said, f"a library printed {said[:200]!r}"
    pcm = tensors["mic.samples"]
    assert pcm.dtype == np.float32, pcm.dtype
    assert np.isfinite(pcm).all(), "not finite"
    assert pcm.shape[0] == 1, pcm.shape
    assert (1 <= pcm.shape[1] <= samples) if variable else pcm.shape[1] == samples, pcm.shape
    expected = by_libsndfile(data, samples)
    if expected is not None:
        assert np.array_equal(pcm[0, : expected.size], expected), "other samples than libsndfile's"
        assert not pcm[0, expected.size :].any(), "more samples than libsndfile's"


def by_libsndfile(data: bytes, samples: int) -> npt.NDArray[np.float32] | None:
    """Return what libsndfile reads of the file at once; None where it finds nothing, since a stream may say 0.

    Nor of an MP3: what a damaged one gives depends on where it is let seek to.
    """
    if data[:1] == b"\xff" or data[:3] == b"ID3":
        return None
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate_hz = file.samplerate
            needed = samples if rate_hz == RATE_HZ else int(np.ceil((samples / RATE_HZ + _MARGIN_S) * rate_hz))
            frames = file.read(needed, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:  # as for an MP3 without a tag, and FLAC of unknown length
        return None
    if not len(frames):
        return None
    mono = frames.mean(axis=1) if frames.shape[1] > 1 else frames[:, 0]
    resampled = mono if rate_hz == RATE_HZ else soxr.resample(mono, rate_hz, RATE_HZ, quality="HQ")
    return np.asarray(resampled[:samples], np.float32)


@cache
def seeds() -> dict[str, bytes]:
    """A quarter of a second by format, coding and number of channels; other rates, too."""
    time = np.arange(4_000) / RATE_HZ
    tone = (0.4 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    made = {}
    for kind in _KINDS:
        for coding in soundfile.available_subtypes(kind):
            for channels, rate_hz in ((1, RATE_HZ), (2, RATE_HZ), (1, 44_100)):
                data = saved(np.stack([tone] * channels, axis=1), rate_hz, kind, coding)
                if data and coding not in ("ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"):
                    made[f"{kind} {coding} {channels} {rate_hz}"] = data
    return made


def saved(frames: npt.NDArray[np.float32], rate_hz: int, kind: str, coding: str | None = None) -> bytes:
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, frames, rate_hz, format=kind, subtype=coding)
    except (soundfile.SoundFileError, ValueError):
        return b""
    return buffer.getvalue()


def edited(rng: random.Random, name: str, data: bytes) -> tuple[str, bytes]:
    """Return what was done to a sound, and the result."""
    if name.startswith("MP3") and rng.random() < 0.5:
        data = b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + data
    if name.startswith(("WAV", "RF64")) and rng.random() < 0.4:
        return _wav_edit(rng, data)
    return encoded.mutated(rng, data, hot=128)


def _wav_edit(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Edit a field of the format, or a length."""
    form = data.index(b"fmt ") + 8
    fields: dict[str, tuple[int, str, tuple[int, ...]]] = {
        "format": (form, "H", (0, 1, 2, 3, 6, 7, 0x11, 0x31, 0x55, 0xFFFE, 0xFFFF)),
        "channels": (form + 2, "H", (0, 1, 2, 3, 33, 255, 1024, 1025, 65_535)),
        "rate": (form + 4, "I", (0, 1, 8, 999, 1_000, 768_000, 768_001, 4_000_000_000, (1 << 32) - 1)),
        "bytes a second": (form + 8, "I", (0, 1, (1 << 32) - 1)),
        "block": (form + 12, "H", (0, 1, 3, 65_535)),
        "bits": (form + 14, "H", (0, 1, 4, 7, 8, 12, 24, 32, 64, 65_535)),
        "size of file": (4, "I", (0, 8, 36, len(data), 0x7FFFFFFF, (1 << 32) - 1)),
        "size of data": (data.index(b"data") + 4, "I", (0, 1, 2, 0x7FFFF000, 0x80000000, (1 << 32) - 1)),
    }
    changed, what = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(fields))
        offset, width, values = fields[name]
        value = rng.choice((*values, encoded.number(rng) % (1 << (16 if width == "H" else 32))))
        struct.pack_into("<" + width, changed, offset, value)
        what.append(f"{name} = {value}")
    return ", ".join(what), bytes(changed)


def bombs() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield what each is, and a function that makes it."""
    second = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE_HZ, 1)).astype(np.float32)
    wav = saved(second, RATE_HZ, "WAV", "PCM_16")
    yield "a stream of size 0", lambda: sized(wav, 0, 0)
    yield "a stream of unknown size", lambda: sized(wav, 0xFFFFFFFF, 0xFFFFFFFF)
    yield "chunks without end", lambda: wav[:12] + b"LIST\0\0\0\0" * 3_000_000 + wav[12:]
    yield "chunks without end in AIFF", lambda: b"FORM\0\0\0\0AIFF" + b"ANNO\0\0\0\0" * 3_000_000
    yield "a chunk of 4 GiB", lambda: wav[:12] + b"junk" + struct.pack("<I", 0xFFFFFFF0) + wav[12:]
    yield "ten minutes at 768 kHz", lambda: relabelled(saved(np.zeros((9_600_000, 1), np.float32), RATE_HZ, "WAV"))
    yield "32 channels", lambda: saved(np.repeat(second, 32, axis=1), RATE_HZ, "WAV", "FLOAT")
    yield "33 channels", lambda: saved(np.repeat(second, 33, axis=1), RATE_HZ, "WAV", "FLOAT")
    yield "1,024 channels", lambda: saved(np.repeat(second, 1_024, axis=1), RATE_HZ, "WAV", "PCM_16")
    yield "an hour of silence in FLAC", lambda: flac_of_zeros(3_600)
    yield "FLAC of unknown length", lambda: flac_length(saved(second, RATE_HZ, "FLAC"), 0)
    yield "FLAC of 2³⁶ samples", lambda: flac_length(saved(second, RATE_HZ, "FLAC"), (1 << 36) - 1)
    yield "NaN", lambda: saved(np.full_like(second, np.nan), RATE_HZ, "WAV", "FLOAT")
    yield "infinity", lambda: saved(np.full_like(second, -np.inf), RATE_HZ, "WAV", "DOUBLE")
    yield "3e38 in two channels", lambda: saved(np.full((999, 2), 3e38, np.float32), RATE_HZ, "WAV", "FLOAT")
    yield "a tag without end", lambda: b"ID3\3\0\0\x7f\x7f\x7f\x7f" + saved(second, RATE_HZ, "MP3")
    yield "tags without end", lambda: b"ID3\3\0\0\0\0\0\x0a" + b"ID3\3\0\0\0\0\0\0" * 2_000_000
    yield "an MP3 of zeros", lambda: saved(second, RATE_HZ, "MP3") + bytes(30 << 20)
    yield "an MP3 of nothing but sync", lambda: b"\xff\xfb\x90\xc4" * 5_000_000
    yield "OGG pages without end", lambda: saved(second, RATE_HZ, "OGG") + b"OggS" + bytes(23) * 2_000_000
    yield "ALAC in CAF", lambda: saved(second, RATE_HZ, "CAF", "ALAC_16")[:-900]
    for kind in ("SDS", "XI", "MAT5", "PAF", "NIST", "SVX", "VOC", "IRCAM", "HTK", "PVF", "AVR", "WVE", "MPC2K"):
        coding: Any = {"XI": "DPCM_16", "WVE": "ALAW"}.get(kind)
        yield (
            f"{kind}, which nobody asked for",
            lambda kind=kind, coding=coding: (  # type: ignore[misc]
                saved(second if kind != "WVE" else second[::2], 8_000 if kind == "WVE" else RATE_HZ, kind, coding)
            ),
        )
    yield "bytes without meaning", lambda: b"\x55" * 1_000_000


def sized(wav: bytes, riff: int, data: int) -> bytes:
    """Return a WAV file with other lengths."""
    changed, at = bytearray(wav), wav.index(b"data") + 4
    changed[4:8], changed[at : at + 4] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(changed)


def relabelled(wav: bytes) -> bytes:
    at = wav.index(b"fmt ") + 12
    return wav[:at] + struct.pack("<I", 768_000) + wav[at + 4 :]


def flac_of_zeros(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, 1, format="FLAC") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * RATE_HZ, np.float32))
    return buffer.getvalue()


def flac_length(flac: bytes, samples: int) -> bytes:
    fields = int.from_bytes(flac[18:26], "big") >> 36 << 36 | samples
    return flac[:18] + fields.to_bytes(8, "big") + flac[26:]


AREA = Area("sounds", attempts, tries=1_200, short=60, max_rss_bytes=1 << 30)
