"""Sound files that are damaged, lie or never end: read as far as they go, or refused with one sentence."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile  # type: ignore[import-untyped]

from edgefuse.bundle.spec import audio
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor, audio_file
from edgefuse.runtime.preprocess.sound_stream import SoundStream

Encode = Callable[..., bytes]
Array = npt.NDArray[Any]
RATE_HZ = 16_000
TONE = (0.5 * np.sin(np.arange(1_600) / 6)).astype(np.float32)
MPEG_TAG = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
FORMATS = "a whole WAV, FLAC, OGG, MP3, AIFF, AU, CAF or W64 file"


def prepare(raw: object, samples: int = 1600, rate_hz: int = RATE_HZ) -> Array:
    modality = audio("mic", sample_rate_hz=rate_hz, samples=samples, variable=True)
    clip: Array = Preprocessor(modality, lambda name: b"")(raw)["mic.samples"][0]
    return clip


def at_once(raw: str | bytes) -> Array:
    """Return all frames as one call of libsndfile reads them (seeking, as `soundfile.read` does, changes an MP3)."""
    with soundfile.SoundFile(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as file:
        frames: Array = file.read(dtype="float32", always_2d=True)
    return frames


def changed(data: bytes, *edits: tuple[int, str, int]) -> bytes:
    """Return a file with numbers overwritten: (offset, format, number)."""
    result = bytearray(data)
    for offset, form, number in edits:
        struct.pack_into(form, result, offset, number)
    return bytes(result)


@pytest.mark.parametrize("riff", [0, 8, 36, 44, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_read_to_its_end(encode_wav: Encode, riff: int, size: int) -> None:
    wav = encode_wav(TONE, subtype="FLOAT")
    streamed = changed(wav, (4, "<I", riff), (wav.index(b"data") + 4, "<I", size))
    np.testing.assert_array_equal(prepare(streamed), TONE)
    at = wav.index(b"fmt ")
    with_list = streamed[:at] + b"LIST\x03\0\0\0abc\0" + streamed[at:]  # a chunk of odd size before it
    np.testing.assert_array_equal(prepare(with_list), TONE)


@pytest.mark.parametrize(
    ("kind", "field", "form", "numbers"),
    [
        ("WAVEX", b"data", "<I", (0, 0xFFFFFFFF)),
        ("AIFF", b"SSND", ">I", (0, 8, 0xFFFFFFFF)),
        ("AU", b".snd", ">I", (0, 0x7FFFFFFF, 0xFFFFFFFF)),
        ("CAF", b"data", ">q", (-1,)),
        ("W64", b"data\xf3", "<Q", (0, 24, (1 << 63) - 1, (1 << 64) - 1)),
        ("RF64", b"ds64", "<Q", (0, (1 << 63) - 1, (1 << 64) - 1)),
    ],
)
def test_other_formats_from_a_pipe_are_read_to_their_end(
    encode_wav: Encode, kind: str, field: bytes, form: str, numbers: tuple[int, ...]
) -> None:
    data = encode_wav(TONE, kind=kind, subtype="PCM_16")
    offset = data.index(field) + {"AU": 8, "W64": 16, "RF64": 16}.get(kind, 4)
    whole = prepare(data)
    assert whole.size == TONE.size
    for number in numbers:
        np.testing.assert_array_equal(prepare(changed(data, (offset, form, number))), whole)


def test_a_flac_of_unknown_length_is_read_to_its_end(encode_wav: Encode) -> None:
    flac = encode_wav(TONE, kind="FLAC")
    fields = int.from_bytes(flac[18:26], "big")
    for length in (0, (1 << 36) - 1):
        streamed = changed(flac, (18, ">Q", fields >> 36 << 36 | length))
        np.testing.assert_array_equal(prepare(streamed), prepare(flac))


def test_a_wav_of_nothing_is_empty(encode_wav: Encode) -> None:
    empty = encode_wav(TONE[:0])
    tagged = empty + b"LIST\x04\0\0\0INFO" + b"id3 \x03\0\0\0abc\0"
    for data in (empty, tagged, changed(tagged, (4, "<I", len(tagged) - 8))):
        with pytest.raises(InputError, match=f"the sound 'mic' is empty: got 0 samples in .* {len(data)} bytes"):
            prepare(data)


def test_an_mp3_needs_no_name_and_no_tag(encode_wav: Encode, tmp_path: Path) -> None:
    mp3 = encode_wav(TONE, kind="MP3", subtype="MPEG_LAYER_III")
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3)
    expected = at_once(str(path))[:1600, 0]
    for raw in (mp3, path, MPEG_TAG + mp3):
        np.testing.assert_array_equal(prepare(raw), expected)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_are_what_is_read_at_once(encode_wav: Encode, kind: str, channels: int) -> None:
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, (150_000, channels)).astype(np.float32)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, channels, format=kind) as file:
        for begin in range(0, len(noise), 10_000):
            file.write(noise[begin : begin + 10_000])
    data = buffer.getvalue()
    whole = at_once(MPEG_TAG + data if kind == "MP3" else data)
    mono = whole.mean(axis=1) if channels == 2 else whole[:, 0]
    np.testing.assert_array_equal(prepare(data, samples=140_000), mono[:140_000])


def test_many_channels_take_no_more_memory_than_a_block(encode_wav: Encode, tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    path.write_bytes(encode_wav(np.zeros((200_000, 32), np.float32)))
    prepare(path, samples=200_000)
    tracemalloc.start()
    prepare(path, samples=200_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000 * 32 * 4 * 0.7  # at once, it were all of that and the mean


def test_a_long_file_is_read_as_far_as_the_clip_goes(encode_wav: Encode) -> None:
    data = encode_wav(np.tile(TONE, 2_000), subtype="FLOAT")

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            given = super().read(size)
            Counted.taken += len(given)
            return given

    stream = SoundStream(Counted(data), len(data))
    with audio_file._forward(soundfile)(stream) as sound:
        np.testing.assert_array_equal(audio_file._mono(sound, 1_600), TONE)
    assert Counted.taken < 60_000 < len(data)


def test_too_many_channels_are_refused(encode_wav: Encode, tmp_path: Path) -> None:
    path = tmp_path / "choir.wav"
    path.write_bytes(encode_wav(np.zeros((10, 33), np.float32)))
    with pytest.raises(InputError, match=r"'mic' has too many channels: got 33 in '.*choir\.wav', expected 1 to 32"):
        prepare(path)


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 768_001, 4_000_000_000])
def test_a_rate_that_makes_no_sense_is_refused(encode_wav: Encode, rate_hz: int) -> None:
    wav = encode_wav(TONE)
    with pytest.raises(InputError, match=r"the sample rate of 'mic' makes no sense|cannot be decoded"):
        prepare(changed(wav, (wav.index(b"fmt ") + 12, "<I", rate_hz)))


@pytest.mark.parametrize(
    "rate_hz",
    [10**5_000, 1e300, float("inf"), np.float64("nan"), -(10**400)],
    ids=["huge", "1e300", "inf", "nan", "low"],
)
def test_a_rate_beyond_numbers_is_refused(rate_hz: Any) -> None:
    with pytest.raises(InputError, match="the sample rate of 'mic' makes no sense"):
        prepare((TONE, rate_hz))


def test_a_model_of_a_rate_far_from_the_files_is_no_endless_filter() -> None:
    with pytest.raises(InputError, match=r"cannot be resampled: got .* at 768000 Hz, expected a rate nearer to"):
        prepare((np.zeros(100_000, np.float32), 768_000), samples=10, rate_hz=1)


def test_a_clip_that_is_too_long_for_memory_is_refused(encode_wav: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "MAX_FRAMES", 1_000)
    with pytest.raises(
        InputError, match="the sound 'mic' is too long: got 1600 samples at 16000 Hz in the sound given"
    ):
        prepare(encode_wav(TONE))
    assert prepare(encode_wav(TONE), samples=1_000).size == 1_000


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "MP3"])
def test_damage_is_one_sentence_that_names_the_file(encode_wav: Encode, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "seven.sound"
    path.write_bytes(encode_wav(TONE, kind=kind, subtype=None)[:20] + b"\xff" * 100)
    with pytest.raises(InputError, match=r"in '.*seven\.sound'") as caught:
        prepare(path)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize("kind", ["SDS", "XI", "MAT4", "MAT5", "PAF", "NIST", "SVX", "VOC", "IRCAM", "PVF", "AVR"])
def test_formats_that_nobody_records_are_not_opened(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, TONE, RATE_HZ, format=kind, subtype="DPCM_16" if kind == "XI" else None)
    with pytest.raises(InputError, match=f"'mic' cannot be decoded: got no such sound in .*, expected {FORMATS}"):
        prepare(buffer.getvalue()[:-500])
    assert capfd.readouterr().out == ""  # some of libsndfile's decoders print there


def test_alac_is_not_opened(encode_wav: Encode) -> None:
    with pytest.raises(InputError, match="got no such sound"):
        prepare(encode_wav(TONE, kind="CAF", subtype="ALAC_16"))


def test_seeking_to_nowhere_raises_nothing_into_c(encode_wav: Encode, capfd: pytest.CaptureFixture[str]) -> None:
    wav = encode_wav(TONE, kind="W64", subtype="PCM_16")
    for number in ((1 << 64) - 1, 1 << 63, 1):
        data = changed(wav, (wav.index(b"fmt \xf3") + 16, "<Q", number))
        with pytest.raises(InputError, match="cannot be decoded"):
            prepare(data)
    assert "Traceback" not in capfd.readouterr().err


def test_chunks_without_end_are_an_end(encode_wav: Encode) -> None:
    wav = encode_wav(TONE)
    stream = SoundStream(io.BytesIO(wav), len(wav))
    buffer = memoryview(bytearray(4))
    for _ in range(1 << 18):
        stream.seek(0)
        assert stream.readinto(buffer) == 4
    assert stream.readinto(buffer) == 0


def test_the_streams_position_stays_where_it_can_be() -> None:
    stream = SoundStream(io.BytesIO(b"RIFF" + bytes(60)), 64)
    assert stream.seek(-1) == 0
    assert stream.seek(10) == stream.tell() == 10
    assert stream.seek(1 << 63) == 10
    assert stream.seek(-4, 2) == 60
    assert stream.read() == bytes(4)
    assert stream.seek(5, 1) == 69
    assert stream.read(4) == b""


@pytest.mark.parametrize("values", [[3e38, 3e38], [np.inf, -np.inf], [np.nan, 0]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_channels_that_overflow_together_are_refused_without_a_warning(values: list[float], dtype: Any) -> None:
    stereo = np.array([values] * 9, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"holds values that are not finite|is not scaled"):
            prepare(stereo)
        with pytest.raises(InputError, match="holds values that are not finite"):
            prepare(np.array([1e300, 0]))


def test_a_masked_array_is_refused() -> None:
    with pytest.raises(InputError, match=r"the sound 'mic' is a masked array.* Fix: use \.filled\(0\)"):
        prepare(np.ma.masked_less(TONE, 0))


def test_arrays_of_any_layout_are_the_same() -> None:
    wide = np.zeros((1_600, 2), np.float32)
    wide[:, 0] = TONE
    for same in (wide[:, 0], TONE[::-1].copy()[::-1], np.asfortranarray(TONE[:, None])):
        np.testing.assert_array_equal(prepare(same), TONE)
