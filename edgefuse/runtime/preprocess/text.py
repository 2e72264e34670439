"""Text to token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Modality, TextPreprocess
from edgefuse.errors import BundleError, InputError, needing
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.tensor import delivered, with_length

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_ID = np.iinfo(np.int32).max


class TextReader:
    """Turns a string, or an array of token ids, into int32 ids [1, steps] and their `length`.

    More than `max_length` tokens are cut (special tokens stay), fewer are padded with `pad_id` or, where the tensor is
    bounded, kept. Ids given as an array need no `tokenizers` module.
    """

    def __init__(self, modality: Modality, preprocess: TextPreprocess, tokenizer_json: bytes) -> None:
        self._name = modality.name
        self._key = f"{modality.name}.{modality.tensors[0].name}"
        self._dim = modality.tensors[0].shape[1]
        self._length = modality.length
        self._preprocess = preprocess
        self._tokenizer_json = tokenizer_json
        self._tokenizer: Tokenizer | None = None

    def __call__(self, raw: object) -> dict[str, Array]:
        """Return the ids and their length; see `Preprocessor`."""
        if isinstance(raw, str):
            ids = self._tokenised(raw)
        elif isinstance(raw, np.ndarray):
            ids = self._from_array(raw)
        else:
            raise InputError(
                f"'{self._name}' is not text", got=type(raw).__name__, expected="a string or an integer array of ids"
            )
        steps = len(ids)
        if steps == 0:
            raise InputError(f"the text '{self._name}' is empty", got=repr(raw), expected="at least one token")
        padding = [self._preprocess.pad_id] * (delivered(self._dim, steps) - steps)
        values = np.array([ids + padding], np.int32)
        return with_length(self._name, self._key, values, steps, self._length)

    def _from_array(self, raw: npt.NDArray[np.generic]) -> list[int]:
        row = raw[0] if raw.ndim == 2 and raw.shape[0] == 1 else raw
        if row.dtype.kind not in "iu" or row.ndim != 1:
            raise InputError(
                f"the token ids '{self._name}' have the wrong type or shape",
                got=f"{raw.dtype} {list(raw.shape)}",
                expected="integers [tokens] or [1, tokens]",
            )
        ids: list[int] = row[: self._preprocess.max_length].tolist()  # a list is faster for a few numbers
        if ids and (min(ids) < 0 or max(ids) > _MAX_ID):
            raise InputError(
                f"the token ids '{self._name}' are out of range",
                got=f"{min(ids)} to {max(ids)}",
                expected=f"0 to {_MAX_ID}",
            )
        return ids

    def _tokenised(self, raw: str) -> list[int]:
        if not raw.strip():
            return []
        tokenizer = self._tokenizer or self._opened()
        try:
            return list(tokenizer.encode(raw).ids)[: self._preprocess.max_length]
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate
            raise InputError(
                f"the text '{self._name}' is not valid Unicode", got=ascii(raw[:40]), expected="text without surrogates"
            ) from error

    def _opened(self) -> Tokenizer:
        """Open the tokenizer when a text first needs it, and let its file's bytes go."""
        with needing("tokenising text", extra="media"):
            from tokenizers import Tokenizer
        try:
            tokenizer = Tokenizer.from_str(self._tokenizer_json.decode())
        except Exception as error:  # tokenizers raises plain `Exception`
            raise BundleError(
                f"the tokenizer '{self._preprocess.tokenizer}' cannot be read", got=str(error).split("\n", 1)[0]
            ) from error
        direction = (tokenizer.truncation or {}).get("direction", "right")
        tokenizer.enable_truncation(self._preprocess.max_length, direction=direction)
        tokenizer.no_padding()
        self._tokenizer, self._tokenizer_json = tokenizer, b""
        return tokenizer
