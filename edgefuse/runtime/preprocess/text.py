"""Text to token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Modality, TextPreprocess
from edgefuse.bundle.tokenizer.check import read_tokenizer
from edgefuse.bundle.tokenizer.excerpt import MARGIN, excerpts
from edgefuse.errors import BundleError, EdgefuseError, InputError, cited, needing
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.tensor import delivered, with_length

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_MAX_ID = np.iinfo(np.int32).max


class TextReader:
    """Turns a string, or an array of token ids, into int32 ids [1, steps] and their `length`.

    More than `max_length` tokens are cut (special tokens stay), fewer are padded with `pad_id` or, where the tensor is
    bounded, kept. Of a long text only the part is looked at that so many tokens come from; see `excerpt`. Ids that are
    given as an array need no `tokenizers` module.
    """

    def __init__(self, modality: Modality, preprocess: TextPreprocess, tokenizer_json: bytes) -> None:
        self._name = modality.name
        self._key = f"{modality.name}.{modality.tensors[0].name}"
        self._dim = modality.tensors[0].shape[1]
        self._length = modality.length
        self._preprocess = preprocess
        self._tokenizer_json = tokenizer_json
        self._tokenizer: Tokenizer | None = None
        self._from_end = False
        self._lock = Lock()

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
            raise InputError(f"the text '{self._name}' is empty", got=repr(raw[:200]), expected="at least one token")
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
        ids: list[int] = []
        for excerpt in excerpts(raw, self._preprocess.max_length, from_end=self._from_end):
            encoding = self._encoded(tokenizer, excerpt)
            ids = encoding.ids[: self._preprocess.max_length]
            if len(excerpt) == len(raw) or (
                len(ids) == self._preprocess.max_length and self._is_clear(encoding, excerpt)
            ):
                break
        return ids

    def _encoded(self, tokenizer: Tokenizer, text: str) -> Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate
            raise InputError(
                f"the text '{self._name}' is not valid Unicode",
                got=ascii(text[:40]),
                expected="text without surrogates",
            ) from error
        with _refused(lambda said: InputError(f"the text '{self._name}' cannot be tokenised", got=said)):
            return tokenizer.encode(text)

    def _is_clear(self, encoding: Encoding, text: str) -> bool:
        """Tell whether all tokens lie so far from where the text was cut that they are those of the whole text."""
        places = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        offsets = [offset for offset, special in places if not special]
        if self._from_end:
            return min((begin for begin, _ in offsets), default=0) >= MARGIN
        return max((end for _, end in offsets), default=len(text)) <= len(text) - MARGIN

    def _opened(self) -> Tokenizer:
        """Open the tokenizer when a text first needs it, and let its file's bytes go."""
        with needing("tokenising text", extra="media"):
            from tokenizers import Tokenizer
        with self._lock:
            if self._tokenizer is None:
                name, max_length = self._preprocess.tokenizer, self._preprocess.max_length
                file = read_tokenizer(name, self._tokenizer_json, max_length)
                self._from_end = file.truncation is not None and file.truncation.direction == "Left"
                with _refused(lambda said: BundleError(f"the tokenizer '{name}' cannot be opened", got=said)):
                    tokenizer = Tokenizer.from_str(file.encoded().decode())
                    tokenizer.enable_truncation(max_length, direction="left" if self._from_end else "right")
                self._tokenizer, self._tokenizer_json = tokenizer, b""
            return self._tokenizer


@contextmanager
def _refused(refusal: Callable[[str], EdgefuseError]) -> Iterator[None]:
    """Turn whatever the library raises within the block into an error of ours."""
    try:
        yield
    except Exception as error:  # tokenizers raises plain `Exception`
        raise refusal(cited(error)) from error
    except BaseException as error:
        # A panic is no `Exception`, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise refusal(cited(error)) from error
