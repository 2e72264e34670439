"""Text and token ids."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.bundle.spec import text
from edgefuse.errors import BundleError, InputError, MissingExtraError
from edgefuse.runtime.preprocess import Preprocessor

Array = npt.NDArray[Any]


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


@given(st.text())
def test_any_string_is_tokens_or_one_error(reader: Preprocessor, raw: str) -> None:
    try:
        tensors = reader(raw)
    except InputError:
        return
    assert tensors["words.ids"].shape == (1, 6)
    assert 1 <= tensors["words.length"][0] <= 6
