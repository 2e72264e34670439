"""Text to token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Modality, TextPreprocess
from edgefuse.errors import BundleError, InputError, MissingExtraError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.sizes import delivered, with_length

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
            ids: Array = np.array(self._tokenised(raw), np.int32)
        elif isinstance(raw, np.ndarray):
            ids = self._from_array(raw)
        else:
            raise InputError(
                f"'{self._name}' is not text", got=type(raw).__name__, expected="a string or an integer array of ids"
            )
        steps = min(ids.size, self._preprocess.max_length)
        if steps == 0:
            raise InputError(f"the text '{self._name}' is empty", got=repr(raw), expected="at least one token")
        values = np.full((1, delivered(self._dim, steps)), self._preprocess.pad_id, np.int32)
        values[0, :steps] = ids[:steps]
        return with_length(self._name, self._key, values, steps, self._length)

    def _from_array(self, raw: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        ids = raw[0] if raw.ndim == 2 and raw.shape[0] == 1 else raw
        if not np.issubdtype(ids.dtype, np.integer) or ids.ndim != 1:
            raise InputError(
                f"the token ids '{self._name}' have the wrong type or shape",
                got=f"{raw.dtype} {list(raw.shape)}",
                expected="integers [tokens] or [1, tokens]",
            )
        if ids.size and (ids.min() < 0 or ids.max() > _MAX_ID):
            raise InputError(
                f"the token ids '{self._name}' are out of range",
                got=f"{ids.min()} to {ids.max()}",
                expected=f"0 to {_MAX_ID}",
            )
        return ids

    def _tokenised(self, raw: str) -> list[int]:
        if not raw.strip():
            return []
        tokenizer = self._tokenizer or self._opened()
        try:
            return list(tokenizer.encode(raw).ids)
        except (UnicodeEncodeError, TypeError) as error:  # a lone surrogate
            raise InputError(
                f"the text '{self._name}' is not valid Unicode", got=ascii(raw[:40]), expected="text without surrogates"
            ) from error

    def _opened(self) -> Tokenizer:
        """Open the tokenizer when a text first needs it, and let its file's bytes go."""
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise MissingExtraError("tokenising text", extra="media", module="tokenizers") from error
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
