"""Synthesise speech with eSpeak NG, the engine and voices of the package `espeakng-loader`.

The speech is synthetic; whatever is built on it says so.

The engine carries state from one utterance to the next (the phase of its vibrato, its echo buffer). So a list of
utterances is spoken in order by a fresh process, which gives the same samples every time; the variants that
breathe (`UNSTABLE_VARIANTS`) draw noise that no seed reaches and are refused.
"""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import DataError, MissingExtraError

SAMPLE_RATE_HZ = 16_000
UNSTABLE_VARIANTS = frozenset({"Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor", "whisper", "whisperf"})

# Constants of speak_lib.h.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """A text to say, with voice, rate and pitch.

    Attributes:
        text: the words.
        accent: a language of the engine, such as `en-gb-scotland`.
        variant: a voice variant of the engine, such as `f4`.
        rate_wpm: words per minute.
        pitch: 0 to 99.
        pitch_range: 0 (monotone) to 99.
    """

    text: str
    accent: str
    variant: str
    rate_wpm: int = 170
    pitch: int = 50
    pitch_range: int = 50


def synthesise(utterances: Sequence[Utterance]) -> list[npt.NDArray[np.int16]]:
    """Speak every utterance; return mono 16-bit PCM at 16 kHz, one array [samples] each, silence trimmed.

    Raises:
        DataError: the engine does not start, does not know a voice, or a variant cannot be reproduced.
    """
    for utterance in utterances:
        if utterance.variant in UNSTABLE_VARIANTS:
            raise DataError(
                "a voice variant sounds different every time",
                got=f"'{utterance.variant}'",
                expected=f"a variant other than {', '.join(sorted(UNSTABLE_VARIANTS))}",
            )
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    request = json.dumps([asdict(utterance) for utterance in utterances]).encode()
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError("speech synthesis failed", got=last[-1] if last else f"exit code {done.returncode}")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as reply:
        ends = np.cumsum(reply["lengths"])
        return list(np.split(reply["pcm"], ends[:-1]))


class _Engine:
    """The engine, started once in a process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingExtraError("speech synthesis", extra="compile", module="espeakng_loader") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        path = espeakng_loader.get_data_path().encode()
        self.rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, _DONT_EXIT)
        if self.rate_hz <= 0:
            raise DataError(
                "the speech engine does not start",
                got=f"status {self.rate_hz}",
                fix="reinstall the package 'espeakng-loader'",
            )
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._callback = _Callback(self._receive)  # must outlive every call into the library
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, _events: int | None) -> int:
        if wave and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
        return 0

    def speak(self, utterance: Utterance) -> npt.NDArray[np.float32]:
        """Return float32 PCM at the engine's own rate, in [-1, 1]."""
        voice = f"{utterance.accent}+{utterance.variant}"
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise DataError("the speech engine does not know a voice", got=f"'{voice}'")
        settings = ((_RATE, utterance.rate_wpm), (_PITCH, utterance.pitch), (_RANGE, utterance.pitch_range))
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        text = utterance.text.encode() + b"\0"
        status = self._library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, _UTF8, None, None)
        if status != 0 or not self._chunks:
            raise DataError(f"the speech engine could not say '{utterance.text}'", got=f"status {status}")
        return np.concatenate(self._chunks).astype(np.float32) / np.float32(32768)


def _speak_all(utterances: Iterable[Utterance]) -> list[npt.NDArray[np.int16]]:
    import soxr

    engine = _Engine()
    return [_trim(soxr.resample(engine.speak(u), engine.rate_hz, SAMPLE_RATE_HZ)) for u in utterances]


def _trim(pcm: npt.NDArray[np.float32], floor: float = 0.01) -> npt.NDArray[np.int16]:
    """Cut silence at both ends, scale the peak to 0.9 and return 16-bit PCM."""
    peak = float(np.abs(pcm).max())
    loud = np.flatnonzero(np.abs(pcm) > floor * peak)
    if peak == 0 or loud.size == 0:
        raise DataError("the speech engine gave silence")
    scaled = pcm[loud[0] : loud[-1] + 1] * (0.9 / peak)
    return np.asarray(np.clip(np.rint(scaled * 32767), -32768, 32767), dtype=np.int16)


def serve() -> None:
    """Read utterances as JSON from stdin and write their samples as .npz to stdout."""
    clips = _speak_all([Utterance(**fields) for fields in json.load(sys.stdin)])
    reply = io.BytesIO()
    np.savez(reply, lengths=np.array([clip.size for clip in clips], np.int64), pcm=np.concatenate(clips))
    sys.stdout.buffer.write(reply.getvalue())
