"""Sound files decoded by libsndfile (soundfile), forward and in blocks; imported when a sound first needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import InputError, needing
from edgefuse.runtime.preprocess.files import Encoded, decoding, opened
from edgefuse.runtime.preprocess.sound_stream import SoundStream

Pcm = npt.NDArray[np.float32]

A_WHOLE_SOUND = "a whole WAV, FLAC, OGG, MP3, AIFF, AU, CAF or W64 file"
MAX_CHANNELS = 32
MAX_FRAMES = 1 << 27
MAX_FILE_BYTES = 4 << 30
"""Nothing but what a clip needs is ever in memory; this bounds what a decoder may look at."""
_BLOCK_FRAMES = 1 << 16


def decoded(raw: Encoded, name: str, where: str, needed: Callable[[int], int]) -> tuple[Pcm, int]:
    """Return the beginning of a sound file as float32 mono, and its rate.

    Args:
        raw: a path, or the content of a file.
        name: of the modality.
        where: the sound comes from, for messages.
        needed: returns how many samples are needed at a rate, or raises `InputError` where the rate makes no sense.
    """
    with needing("reading sound files", extra="media"):
        import soundfile  # type: ignore[import-untyped]
    with opened(raw, name, MAX_FILE_BYTES) as (file, size), decoding(f"the sound '{name}'", where, A_WHOLE_SOUND):
        stream = SoundStream(file, size)
        if not stream.known:
            raise InputError(
                f"the sound '{name}' cannot be decoded", got=f"no such sound in {where}", expected=A_WHOLE_SOUND
            )
        with _forward(soundfile)(stream) as sound:
            if sound.channels > MAX_CHANNELS:
                raise InputError(
                    f"the sound '{name}' has too many channels",
                    got=f"{sound.channels} in {where}",
                    expected=f"1 to {MAX_CHANNELS}",
                )
            frames = min(needed(sound.samplerate), max(0, sound.frames))
            if frames > MAX_FRAMES:
                raise InputError(
                    f"the sound '{name}' is too long",
                    got=f"{frames} samples at {sound.samplerate} Hz in {where}",
                    expected=f"at most {MAX_FRAMES}",
                    fix="cut or resample it first",
                )
            return _mono(sound, frames), sound.samplerate


def mixed(frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return [frames, channels] as the mean of the channels."""
    with np.errstate(all="ignore"):  # NaN and infinity are refused afterwards, with a sentence
        return np.asarray(frames.mean(axis=1))


def _mono(sound: Any, frames: int) -> Pcm:
    """Read up to so many frames, block by block: 32 channels at once would take 32 times the room."""
    pcm = np.empty(frames, np.float32)
    done, wanted = 0, min(_BLOCK_FRAMES, frames)
    while wanted:
        block = sound.read(wanted, dtype="float32", always_2d=True)
        pcm[done : done + len(block)] = mixed(block) if block.shape[1] > 1 else block[:, 0]
        done += len(block)
        wanted = min(_BLOCK_FRAMES, frames - done) if len(block) == wanted else 0  # less: it ends before it said
    return pcm[:done]


@cache
def _forward(soundfile: ModuleType) -> type[Any]:
    """Return the class that reads sound files without going back and forth.

    Otherwise `soundfile` seeks after every read, which a FLAC stream of unknown length cannot do.
    """

    class Forward(soundfile.SoundFile):  # type: ignore[misc, name-defined]
        def seekable(self) -> bool:
            return False

    return Forward
