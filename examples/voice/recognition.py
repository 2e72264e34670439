"""Speech recognisers that run on the device: each is optional, and takes an utterance to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.errors import DataError

Recogniser: TypeAlias = Callable[[npt.NDArray[np.int16]], str]
"""Writes down an utterance, int16 [samples], 16 kHz."""


def pocketsphinx() -> Recogniser:
    """Return PocketSphinx (BSD), with the English model of its package.

    Raises:
        DataError: the package is missing.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        what = "the recogniser needs the package 'pocketsphinx'"
        raise DataError(what, got=str(error), fix="pip install pocketsphinx==5.1.1") from error
    decoder = Decoder(loglevel="FATAL")

    def written(said: npt.NDArray[np.int16]) -> str:
        decoder.start_utt()
        decoder.process_raw(said.astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return "" if found is None else str(found.hypstr)

    return written


RECOGNISERS: Mapping[str, Callable[[], Recogniser]] = MappingProxyType({"pocketsphinx": pocketsphinx})
