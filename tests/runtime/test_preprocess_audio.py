"""Sound of every kind becomes the same samples."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.bundle.spec import Bucketed, RepeatedAudioPreprocess, audio
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.runtime.preprocess import Preprocessor

Encode = Callable[..., bytes]
Array = npt.NDArray[Any]
RATE_HZ = 16_000


def tone(samples: int = 1600, rate_hz: int = RATE_HZ, frequency_hz: float = 440.0) -> npt.NDArray[np.float32]:
    wave: npt.NDArray[np.float64] = np.sin(2 * np.pi * frequency_hz * np.arange(samples) / rate_hz)
    return (0.5 * wave).astype(np.float32)


def prepare(raw: object, samples: int = 1600, variable: bool = False) -> Array:
    modality = audio("mic", sample_rate_hz=RATE_HZ, samples=samples, variable=variable)
    pcm = Preprocessor(modality, lambda name: b"")(raw)["mic.samples"]
    assert pcm.dtype == np.float32
    assert pcm.shape[0] == 1
    clip: Array = pcm[0]
    return clip


def test_a_path_bytes_and_an_array_are_the_same(encode_wav: Encode, tmp_path: Path) -> None:
    data = encode_wav(tone(), subtype="FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    for raw in (path, str(path), data, tone(), tone()[None], tone()[:, None], tone().astype(float), (tone(), RATE_HZ)):
        np.testing.assert_array_equal(prepare(raw), tone())


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 127),
        ("WAV", "PCM_16", 1 / 32767),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 1 / 32767),
        ("OGG", "VORBIS", 0.1),
    ],
)
def test_every_format_is_read(encode_wav: Encode, kind: str, subtype: str, tolerance: float) -> None:
    np.testing.assert_allclose(prepare(encode_wav(tone(), kind=kind, subtype=subtype)), tone(), rtol=0, atol=tolerance)


def test_int16_arrays_are_scaled() -> None:
    assert prepare(np.array([-32768, 16384], np.int16), samples=2).tolist() == [-1.0, 0.5]


def test_channels_are_averaged(encode_wav: Encode) -> None:
    stereo = np.stack([tone(), np.zeros(1600, np.float32)], axis=1)
    for raw in (stereo, encode_wav(stereo, subtype="FLOAT"), stereo.astype(np.float64)):
        np.testing.assert_allclose(prepare(raw), tone() / 2, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled(encode_wav: Encode, rate_hz: int) -> None:
    source = tone(rate_hz, rate_hz)
    from_file = prepare(encode_wav(source, rate_hz, subtype="FLOAT"), samples=RATE_HZ)
    np.testing.assert_allclose(from_file[200:-200], tone(RATE_HZ)[200:-200], atol=2e-3)
    np.testing.assert_array_equal(prepare((source, rate_hz), samples=RATE_HZ), from_file)


def test_reading_only_the_beginning_of_a_long_file_changes_nothing() -> None:
    long = np.random.default_rng(0).normal(0, 0.2, 48_000 * 3).astype(np.float32)
    short = long[: 48_000 + 24_000]
    np.testing.assert_allclose(
        prepare((long, 48_000), samples=RATE_HZ), prepare((short, 48_000), samples=RATE_HZ), atol=1e-6
    )


def test_long_clips_are_cut_and_short_ones_padded() -> None:
    np.testing.assert_array_equal(prepare(tone(3000)), tone(1600))
    padded = prepare(tone(100))
    assert padded.shape == (1600,)
    np.testing.assert_array_equal(padded[:100], tone(100))
    assert not padded[100:].any()


@pytest.mark.parametrize(("given_samples", "kept"), [(100, 100), (1600, 1600), (3000, 1600)])
def test_a_variable_clip_keeps_its_length(given_samples: int, kept: int) -> None:
    modality = audio("mic", sample_rate_hz=RATE_HZ, samples=1600, variable=True)
    tensors = Preprocessor(modality, lambda name: b"")(tone(given_samples))
    assert tensors["mic.samples"].shape == (1, kept)
    assert tensors["mic.length"].tolist() == [kept]
    assert tensors["mic.length"].dtype == np.int32


def test_a_bucketed_clip_is_padded_to_the_next_bucket() -> None:
    modality = audio("mic", sample_rate_hz=RATE_HZ, samples=1600, variable=True)
    bucketed = msgspec.structs.replace(modality.tensors[0], shape=(1, Bucketed(sizes=(400, 800, 1600))))
    tensors = Preprocessor(msgspec.structs.replace(modality, tensors=(bucketed,)), lambda name: b"")(tone(500))
    assert tensors["mic.samples"].shape == (1, 800)
    assert tensors["mic.length"].tolist() == [500]


def test_silence_is_accepted(encode_wav: Encode) -> None:
    silence = np.zeros(1600, np.float32)
    assert not prepare(silence).any()
    assert not prepare(encode_wav(silence)).any()


def test_an_array_at_the_models_rate_needs_no_library(monkeypatch: pytest.MonkeyPatch, encode_wav: Encode) -> None:
    data = encode_wav(tone())
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    np.testing.assert_array_equal(prepare((tone(), RATE_HZ)), tone())
    with pytest.raises(MissingExtraError, match=r"reading sound files needs the module 'soundfile'.*edgefuse\[media\]"):
        prepare(data)
    with pytest.raises(MissingExtraError, match=r"resampling from 8000 to 16000 Hz needs the module 'soxr'"):
        prepare((tone(), 8_000))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the file for 'mic' is empty"),
        (b"RIFF\x00\x00\x00\x00WAVE", "the sound 'mic' cannot be decoded"),
        (b"plain text, no sound", r"cannot be decoded: got .*, expected a whole WAV, FLAC, OGG"),
        ("/no/such.wav", r"the file for 'mic' cannot be read: got '/no/such.wav' \(No such file or directory\)"),
        (np.zeros(0, np.float32), "the sound 'mic' is empty: got 0 samples, expected at least one"),
        (np.zeros((0, 2), np.float32), "the sound 'mic' is empty"),
        (np.array([0, np.nan, np.inf], np.float32), "not finite: got 2 of 3 samples NaN or infinite"),
        (np.array([0, -np.inf]), "not finite: got 1 of 2 samples"),
        (1000 * tone(), r"is not scaled: got a peak of [0-9.]+, expected float samples .* Fix: divide 16-bit samples"),
        (np.zeros(10, np.int32), "has the wrong type: got int32, expected float32 or float64 from -1 to 1, or int16"),
        (np.zeros(10, np.uint8), "has the wrong type: got uint8"),
        (
            np.zeros((2, 1600), np.float32),
            r"shape: got \[2, 1600\].* Fix: transpose it if the channels come first",
        ),
        (np.zeros((1, 1, 9), np.float32), "has the wrong shape"),
        (np.float32(1), "'mic' is not sound: got float32"),
        ([0.0, 0.1], "'mic' is not sound: got list"),
        ((tone(), 0), r"sample rate of 'mic' makes no sense: got 0, expected 1000 to 768000 Hz \(the model's is 16000"),
        ((tone(), float("nan")), "makes no sense: got nan"),
        ((tone(), "16k"), "makes no sense: got 16k"),
        ((tone(), True), "makes no sense: got True"),
        ((tone()[:1], 768_000), "is too short: got 1 samples at 768000 Hz, expected at least one sample at 16000 Hz"),
    ],
)
def test_what_is_no_sound_is_refused(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(raw)


def test_a_file_of_nan_is_refused(encode_wav: Encode) -> None:
    broken = tone()
    broken[5] = np.nan
    with pytest.raises(InputError, match="not finite: got 1 of 1600 samples"):
        prepare(encode_wav(broken, subtype="FLOAT"))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    with pytest.raises(InputError):
        prepare(b"RIFF" + data)


@given(st.integers(1, 4000), st.sampled_from([RATE_HZ, 8_000, 11_025, 48_000]), st.booleans())
def test_any_clip_gives_the_declared_shape(samples: int, rate_hz: int, variable: bool) -> None:
    if samples * RATE_HZ < rate_hz:
        return
    pcm = prepare((np.ones(samples, np.float32), rate_hz), variable=variable)
    assert 1 <= pcm.size <= 1600
    assert variable or pcm.size == 1600
    assert np.isfinite(pcm).all()


@pytest.mark.parametrize(("length", "times"), [(1, 10), (3, 3), (5, 2), (6, 1), (10, 1), (12, 1)])
def test_a_short_clip_is_repeated_where_the_modality_says_so(length: int, times: int) -> None:
    preprocess = RepeatedAudioPreprocess(sample_rate_hz=RATE_HZ, samples=10)
    modality = msgspec.structs.replace(audio("mic", sample_rate_hz=RATE_HZ, samples=10), preprocess=preprocess)
    clip = np.arange(1, length + 1, dtype=np.float32) / 16
    expected = np.zeros(10, np.float32)
    repeated = np.concatenate([clip] * times)[:10]
    expected[: len(repeated)] = repeated
    np.testing.assert_array_equal(Preprocessor(modality, lambda name: b"")(clip)["mic.samples"][0], expected)
