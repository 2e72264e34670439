"""From raw input (files, bytes, arrays, strings) to a modality's tensors.

The same code serves calibration, evaluation and the device. A media library is imported when an input needs it.

- `files`: paths and bytes, opened and bounded;
- `tiff_directory`: how much a TIFF's tags list;
- `image_file`: pictures, decoded;
- `image`: pictures to pixels;
- `sound_stream`: true lengths for streamed sounds;
- `audio_file`: sounds, decoded;
- `audio`: sounds to mono PCM;
- `movie_samples`: how many samples an MP4 lists;
- `video_file`: clips, decoded;
- `video`: clips to frames;
- `text`: text to token ids;
- `array_file`: `.npy` files;
- `tensor`: arrays, checked.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefuse.bundle.spec import (
    AudioPreprocess,
    ImagePreprocess,
    Modality,
    TextPreprocess,
    VideoPreprocess,
)
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.audio import AudioReader
from edgefuse.runtime.preprocess.image import ImageReader
from edgefuse.runtime.preprocess.tensor import TensorReader
from edgefuse.runtime.preprocess.text import TextReader
from edgefuse.runtime.preprocess.video import VideoReader

__all__ = ["Preprocessor"]


class Preprocessor:
    """Turns the raw input of one modality into its tensors.

    Args:
        modality: what is expected and how it is prepared.
        read_asset: returns the bytes of a file that the preprocessing names (a tokenizer).
    """

    def __init__(self, modality: Modality, read_asset: Callable[[str], bytes]) -> None:
        self.modality = modality
        self._read = _reader(modality, read_asset)

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the tensors under the keys of a pipeline's pool: `image.pixels`, `text.ids`, `text.length`.

        Raises:
            InputError: if the input cannot be used; the message says why and what would do.
            MissingExtraError: if the input needs a media library that is not installed.
        """
        return self._read(raw)

    def chunk(self, raw: object) -> Array:
        """Return a part of a stream, steps first, checked: samples of sound as float32, steps of an array as they are.

        Raises:
            InputError: if it cannot be used, or the modality has no steps: a picture, a text.
        """
        if not isinstance(self._read, AudioReader | TensorReader):
            raise InputError(f"'{self.modality.name}' does not come in steps", expected="sound or an array")
        return self._read.chunk(raw)


def _reader(modality: Modality, read_asset: Callable[[str], bytes]) -> Callable[[object], dict[str, Array]]:
    preprocess = modality.preprocess
    if isinstance(preprocess, ImagePreprocess):
        return ImageReader(modality, preprocess)
    if isinstance(preprocess, AudioPreprocess):
        return AudioReader(modality, preprocess)
    if isinstance(preprocess, TextPreprocess):
        return TextReader(modality, preprocess, read_asset(preprocess.tokenizer))
    if isinstance(preprocess, VideoPreprocess):
        return VideoReader(modality, preprocess)
    return TensorReader(modality)
