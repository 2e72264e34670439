"""Where in a sound somebody speaks: Silero VAD (MIT), by ONNX Runtime.

Its package asks for torch; the one file that is fetched of it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.packages import fetch
from edgefuse.runtime.backends.onnx.api import onnxruntime

Pcm = npt.NDArray[np.int16]

SAMPLE_RATE_HZ = 16_000
CHUNK = 512
"""Samples that the network is given at a time: 32 ms."""

_CONTEXT = 64  # samples before a chunk that it is given again
_STARTS, _ENDS = 0.5, 0.35  # the probability of speech at which an utterance starts, and below which it may end
_SILENCE = 12  # chunks: 0.4 s, after which it has ended
_BEFORE = 2  # chunks that are kept from before it
_MAX_CHUNKS = 30 * SAMPLE_RATE_HZ // CHUNK  # nobody asks for something in more than half a minute

_MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"
_SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"


class VoiceActivity:
    """Tells, chunk by chunk, how likely it is that somebody speaks.

    Raises:
        DataError: the package cannot be fetched.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = fetch("silero-vad", "6.2.3", _MEMBER, _SHA256)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._state = np.zeros((2, 1, 128), np.float32)
        self._before = np.zeros(_CONTEXT, np.float32)

    def __call__(self, chunk: Pcm) -> float:
        """Return the probability of speech in the next chunk, int16 [CHUNK]."""
        heard = np.concatenate([self._before, chunk.astype(np.float32) / np.float32(32768)])
        self._before = heard[-_CONTEXT:]
        feeds = {"input": heard[np.newaxis], "state": self._state, "sr": np.array(SAMPLE_RATE_HZ, np.int64)}
        chance, self._state = self._session.run(["output", "stateN"], feeds)
        return float(chance[0, 0])


def utterances(chunks: Iterable[Pcm]) -> Iterator[Pcm]:
    """Give each utterance of a sound as soon as it has ended, or the sound has.

    Args:
        chunks: of the sound, int16 [CHUNK] each, 16 kHz.
    """
    speaks = VoiceActivity()
    before: deque[Pcm] = deque(maxlen=_BEFORE)
    said: list[Pcm] = []
    quiet = 0
    for chunk in chunks:
        chance = speaks(chunk)
        if not said and chance < _STARTS:
            before.append(chunk)
            continue
        said += [chunk] if said else [*before, chunk]
        quiet = quiet + 1 if chance < _ENDS else 0
        if quiet == _SILENCE or len(said) >= _MAX_CHUNKS:
            yield np.concatenate(said[: len(said) - quiet])
            said, quiet = [], 0
            before.clear()
    if said:
        yield np.concatenate(said[: len(said) - quiet])


def chunks_of(pcm: Pcm) -> Iterator[Pcm]:
    """Cut a sound into chunks, the last one filled up with silence."""
    for start in range(0, pcm.size, CHUNK):
        chunk = pcm[start : start + CHUNK]
        yield np.pad(chunk, (0, CHUNK - chunk.size))
