"""Text and token ids."""

from __future__ import annotations

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from edgefuse.bundle.spec import text
from edgefuse.errors import BundleError, InputError, MissingExtraError
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.runtime.preprocess.text import _refused
from tests.tokenizer_files import KINDS, SENTENCES, tokenizer_file

Array = npt.NDArray[Any]
# A template with a token that it does not define: we refuse it, and the library falls over it.
PANICS = {
    **{"type": "TemplateProcessing", "pair": [], "special_tokens": {}},
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
}


@pytest.fixture(scope="session")
def reader(tiny_tokenizer: bytes) -> Preprocessor:
    modality = text("words", tokenizer="tokenizer.json", max_length=6)
    return Preprocessor(modality, {"tokenizer.json": tiny_tokenizer}.__getitem__)


def test_a_string_becomes_padded_ids_and_a_length(reader: Preprocessor) -> None:
    tensors = reader("Please STOP now")
    assert list(tensors) == ["words.ids", "words.length"]
    assert tensors["words.ids"].tolist() == [[5, 2, 6, 0, 0, 0]]
    assert tensors["words.length"].tolist() == [3]
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.int32)}


def test_unknown_words_and_any_script_are_tokens(reader: Preprocessor) -> None:
    assert reader("go 請 🛑")["words.ids"].tolist() == [[3, 1, 1, 0, 0, 0]]


def test_long_text_is_cut(reader: Preprocessor) -> None:
    tensors = reader("go " * 50)
    assert tensors["words.ids"].tolist() == [[3] * 6]
    assert tensors["words.length"].tolist() == [6]


def test_a_bounded_tensor_keeps_its_length(tiny_tokenizer: bytes) -> None:
    modality = text("words", tokenizer="t", max_length=6, variable=True)
    tensors = Preprocessor(modality, lambda name: tiny_tokenizer)("stop now")
    assert tensors["words.ids"].tolist() == [[2, 6]]
    assert tensors["words.length"].tolist() == [2]


def test_padding_has_the_models_id(tiny_tokenizer: bytes) -> None:
    modality = text("words", tokenizer="t", max_length=4, pad_id=7)
    assert Preprocessor(modality, lambda name: tiny_tokenizer)("stop")["words.ids"].tolist() == [[2, 7, 7, 7]]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "uint64"])
def test_ids_are_taken_without_the_library(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: bytes, dtype: str) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    reader = Preprocessor(text("words", tokenizer="t", max_length=6), lambda name: tiny_tokenizer)
    for ids in (np.array([4, 2], dtype), np.array([[4, 2]], dtype)):
        assert reader(ids)["words.ids"].tolist() == [[4, 2, 0, 0, 0, 0]]
        assert reader(ids)["words.length"].tolist() == [2]
    with pytest.raises(MissingExtraError, match=r"tokenising text needs .*'tokenizers'.* 'edgefuse\[media\]'"):
        reader("stop")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "the text 'words' is empty: got '', expected at least one token"),
        (" \n\t", "the text 'words' is empty"),
        (np.zeros(0, np.int32), "the text 'words' is empty"),
        (b"stop", "'words' is not text: got bytes, expected a string or an integer array of ids"),
        (5, "'words' is not text: got int"),
        (["stop"], "'words' is not text: got list"),
        ("a\ud800b", r"the text 'words' is not valid Unicode: got 'a\\ud800b'"),
        (np.array([1.0]), r"the token ids 'words' have the wrong type or shape: got float64 \[1\], expected integers"),
        (np.array([[1], [2]]), "the token ids 'words' have the wrong type or shape"),
        (np.array([-1, 2]), "the token ids 'words' are out of range: got -1 to 2, expected 0 to 2147483647"),
        (np.array([2**40]), "the token ids 'words' are out of range"),
    ],
)
def test_what_is_no_text_is_refused(reader: Preprocessor, raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reader(raw)


def test_a_damaged_tokenizer_is_refused() -> None:
    reader = Preprocessor(text("words", tokenizer="tokenizer.json", max_length=6), lambda name: b"{}")
    with pytest.raises(BundleError, match=r"the tokenizer 'tokenizer\.json' cannot be read: got"):
        reader("stop")


def _reader(kind: str, max_length: int) -> Preprocessor:
    data = tokenizer_file(kind)
    return Preprocessor(text("words", tokenizer="t", max_length=max_length, variable=True), lambda name: data)


def _whole(kind: str, max_length: int, raw: str) -> list[int]:
    """Return the ids that the library makes of all of a text."""
    library = Tokenizer.from_str(tokenizer_file(kind).decode())
    direction = (library.truncation or {}).get("direction", "right")
    library.no_padding()
    library.no_truncation()
    library.enable_truncation(max_length, direction=direction)
    ids: list[int] = library.encode(raw).ids
    return ids


def _random_text(rng: random.Random, characters: int) -> str:
    """Return sentences of all scripts, with words, numbers, spaces and lines of every length between them."""
    parts: list[str] = []
    while sum(map(len, parts)) < characters:
        word = "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöüß0123456789", k=rng.randrange(1, 30)))
        parts += [
            rng.choice((*SENTENCES, word, "<tool>", "Fox", "[SEP]")),
            rng.choice((" ", "\n", "  ", ", ", "\t", " " * 40)),
        ]
    return "".join(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_has_the_ids_of_all_of_it(kind: str) -> None:
    """It is cut before it is tokenised, and no token kept may tell."""
    rng = random.Random(kind)
    for max_length in (8, 64):
        reader = _reader(kind, max_length)
        for characters in (500, 2_000, 3_000, 20_000):
            raw = _random_text(rng, characters)
            assert reader(raw)["words.ids"][0].tolist() == _whole(kind, max_length, raw)


@pytest.mark.parametrize("kind", ["WordPiece", "BPE for chat", "Unigram"])
def test_a_text_without_spaces_is_cut_between_characters(kind: str) -> None:
    raw = "今天的天气很好" * 3_000
    assert _reader(kind, 64)(raw)["words.ids"][0].tolist() == _whole(kind, 64, raw)


def test_more_is_looked_at_where_few_tokens_come_from_many_characters() -> None:
    raw = "go" + " " * 1_500 + "stop" + " " * 1_500 + "now" + " " * 100_000 + "wait"
    assert _reader("WordPiece", 16)(raw)["words.ids"][0].tolist() == _whole("WordPiece", 16, raw[:5_000])


def test_what_a_text_costs_does_not_grow_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, seen = _reader("WordPiece", 16), []

    class Counting:
        def __init__(self, tokenizer: Tokenizer) -> None:
            self._tokenizer = tokenizer

        def encode(self, raw: str) -> Encoding:
            seen.append(len(raw))
            return self._tokenizer.encode(raw)

    reader("go")
    inner: Any = reader._read
    monkeypatch.setattr(inner, "_tokenizer", Counting(inner._tokenizer))
    for raw in ("stop and go " * 1_000_000, "請" * 10_000_000, "x" * 10_000_000):
        reader(raw)
    assert sum(seen) < 30_000


def test_threads_open_one_tokenizer(tiny_tokenizer: bytes) -> None:
    modality = text("words", tokenizer="t", max_length=6)
    for _ in range(20):
        reader = Preprocessor(modality, lambda name: tiny_tokenizer)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda reader: reader("stop now")["words.ids"].tolist(), [reader] * 8))
        assert results == [[[2, 6, 0, 0, 0, 0]]] * 8


def test_an_unknown_word_without_a_token_for_it_is_one_error() -> None:
    parts = {"type": "WordLevel", "vocab": {"go": 0}, "unk_token": "[UNK]"}
    data = json.dumps({"pre_tokenizer": {"type": "Whitespace"}, "model": parts}).encode()
    reader = Preprocessor(text("words", tokenizer="t", max_length=6), lambda name: data)
    assert reader("go go")["words.length"].tolist() == [2]
    with pytest.raises(
        InputError, match=r"the text 'words' cannot be tokenised: got Exception: WordLevel error: Missing \[UNK\]"
    ):
        reader("go home")
    assert reader("go go")["words.length"].tolist() == [2]


def test_a_panic_of_the_library_is_one_error() -> None:
    """It is a `BaseException`; other ones go their way."""
    panicking = Tokenizer.from_str(json.dumps(json.loads(tokenizer_file("characters")) | {"post_processor": PANICS}))
    with (
        pytest.raises(InputError, match="refused: got PanicException: "),
        _refused(lambda said: InputError("refused", got=said)),
    ):
        panicking.encode("go")
    with pytest.raises(KeyboardInterrupt), _refused(lambda said: InputError("refused", got=said)):
        raise KeyboardInterrupt


def test_special_tokens_must_leave_room_for_text() -> None:
    with pytest.raises(BundleError, match="adds 2 special tokens to a text of at most 2"):
        _reader("WordPiece", 2)("go")
    assert _reader("WordPiece", 3)("go go")["words.length"].tolist() == [3]


@given(st.text())
def test_any_string_is_tokens_or_one_error(reader: Preprocessor, raw: str) -> None:
    try:
        tensors = reader(raw)
    except InputError:
        return
    assert tensors["words.ids"].shape == (1, 6)
    assert 1 <= tensors["words.length"][0] <= 6
