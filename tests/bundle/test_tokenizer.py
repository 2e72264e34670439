"""A tokenizer's file is taken if its kind is known and its parts fit, and else refused in one sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.tokenizer import check as tokenizer_check
from edgefuse.bundle.tokenizer.check import read_tokenizer
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError
from tests.tokenizer_files import CHAT, KINDS, SENTENCES, charsmap, tokenizer_file

Json = dict[str, Any]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken_and_gives_the_same_ids(kind: str) -> None:
    data = tokenizer_file(kind)
    written = read_tokenizer("tokenizer.json", data, max_length=16).encoded()
    library, ours = Tokenizer.from_str(data.decode()), Tokenizer.from_str(written.decode())
    library.no_truncation()
    library.no_padding()
    for sentence in SENTENCES:
        assert ours.encode(sentence).ids == library.encode(sentence).ids
    assert read_tokenizer("tokenizer.json", written, max_length=16).encoded() == written


def _sequence(*parts: Json) -> Json:
    return {"type": "Sequence", "normalizers": list(parts)}


def _replace(content: str, **pattern: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _added(index: int, content: str) -> Json:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": index, "content": content, **flags}


def _precompiled(trie: bytes, texts: bytes = b"", size: int | None = None) -> Json:
    table = struct.pack("<I", len(trie) if size is None else size) + trie + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def _template(t: Json) -> Json:
    found: Json = t["post_processor"]
    return found


Change = Callable[[Json], object]
CHANGES: list[tuple[str, Change, str]] = [
    # form
    ("WordLevel", lambda t: t.update(model=None), "Expected `object`, got `null` - at `$.model`"),
    ("WordLevel", lambda t: t.pop("model"), "missing required field `model`"),
    ("WordLevel", lambda t: t.update(new=1), "unknown field `new`"),
    ("WordLevel", lambda t: t.update(version="2.0"), "Invalid enum value '2.0'"),
    ("WordLevel", lambda t: t["model"].update(type="Neural"), "Invalid value 'Neural'"),
    ("WordLevel", lambda t: t["model"].pop("type"), "missing required field `type`"),
    ("WordLevel", lambda t: t.update(normalizer={"type": "Uppercase"}), "Invalid value 'Uppercase'"),
    ("WordLevel", lambda t: t.update(pre_tokenizer={"type": "FixedLength", "length": 0}), "Expected `int` >= 1"),
    ("WordLevel", lambda t: t.update(pre_tokenizer={"type": "CharDelimiterSplit", "delimiter": "ab"}), "length <= 1"),
    ("WordLevel", lambda t: t.update(truncation={"max_length": -1, "strategy": "OnlyFirst", "stride": 0}), ">= 0"),
    # vocabularies
    ("WordLevel", lambda t: t["model"].update(vocab={}), "Expected `object` of length >= 1 - at `$.model.vocab`"),
    ("WordLevel", lambda t: t["model"]["vocab"].update(the=2**32), "Expected `int` <= 2147483647"),
    ("WordLevel", lambda t: t["model"]["vocab"].update(the=-1), "Expected `int` >= 0"),
    ("WordLevel", lambda t: t["model"]["vocab"].update(the=1.5), "Expected `int`, got `float`"),
    ("WordLevel", lambda t: t["model"]["vocab"].update(new=1), "has two tokens with one id"),
    ("WordLevel", lambda t: t["model"]["vocab"].update({"x" * 3000: 999}), "Expected `str` of length <= 2048"),
    ("WordPiece", lambda t: t["model"].update(max_input_chars_per_word=10**9), "Expected `int` <= 512"),
    ("Unigram", lambda t: t["model"].update(unk_id=176), "has no token 176, which stands for unknown text"),
    ("Unigram", lambda t: t["model"]["vocab"].append(["x" * 257, -1.0]), "Expected `str` of length <= 256"),
    ("Unigram", lambda t: t["model"]["vocab"].append(t["model"]["vocab"][5]), "twice"),
    ("Unigram", lambda t: t["model"]["vocab"].append(["x", -1e300]), "Expected `float` >= -1000000.0"),
    ("BPE of bytes", lambda t: t["model"].update(dropout=0.5), "drops merges at random"),
    (
        "BPE of bytes",
        lambda t: t["model"]["merges"].append(["t", "qq"]),
        "merges tokens to or from 'qq', which is no token",
    ),
    (
        "BPE of bytes",
        lambda t: t["model"]["merges"].append(["q", "q"]),
        "merges tokens to or from 'qq', which is no token",
    ),
    ("BPE with fallback", lambda t: t["model"]["merges"].append("a b c"), "'a b c', which is not two tokens"),
    ("BPE with marks", lambda t: t["model"]["merges"].append(["t", "h</w>"]), "which has not the prefix '##'"),
    # added tokens
    ("WordPiece", lambda t: t["added_tokens"].append(_added(9, "")), "Expected `str` of length >= 1"),
    ("WordPiece", lambda t: t["added_tokens"].append(t["added_tokens"][0]), "adds the token '[PAD]' twice"),
    ("WordPiece", lambda t: t["added_tokens"].append(_added(999, "x y")), "as 999, which would become 350"),
    ("WordPiece", lambda t: t["added_tokens"][0].update(id=2**31), "Expected `int` <= 2147483647"),
    (
        "WordLevel",
        lambda t: (t["model"]["vocab"].update(end=108), t["added_tokens"].append(_added(108, "x y"))),
        "adds a token 'x y', whose id another one has",
    ),
    ("WordLevel", lambda t: t.update(added_tokens=[_added(i, "y" * 2000 + str(i)) for i in range(600)]), "too long"),
    # post-processors
    ("WordPiece", lambda t: _template(t)["special_tokens"].pop("[CLS]"), "has no special token '[CLS]'"),
    ("WordPiece", lambda t: _template(t)["special_tokens"]["[CLS]"].update(ids=[2, 3]), "more ids than tokens"),
    (
        "WordPiece",
        lambda t: _template(t)["special_tokens"]["[CLS]"].update(ids=[999]),
        "adds the id 999, which no token",
    ),
    ("WordPiece", lambda t: _template(t)["single"][1]["Sequence"].update(id="B"), "of which the text is not one part"),
    ("WordPiece", lambda t: _template(t)["single"].append(_template(t)["single"][1]), "the text is not one part"),
    ("WordPiece", lambda t: _template(t)["single"].pop(1), "the text is not one part"),
    ("WordPiece", lambda t: _template(t)["single"].append({}), "not either text or a special token"),
    ("WordPiece", lambda t: _template(t).update(cls=["[CLS]", 2], sep=["[SEP]", 3]), "unknown field `cls`"),
    (
        "WordPiece",
        lambda t: t.update(post_processor={"type": "Sequence", "processors": [_template(t)] * 2}),
        "has several post-processors that add tokens",
    ),
    (
        "WordPiece",
        lambda t: _template(t).update(single=_template(t)["single"] + [_template(t)["single"][0]] * 14),
        "adds 16 special tokens to a text of at most 16",
    ),
    ("WordPiece from the left", lambda t: _template(t).update(sep=["x", 2**31]), "Expected `int` <= 2147483647"),
    # growth
    ("WordLevel", lambda t: t.update(normalizer=_replace("x" * 17, String="a")), "Expected `str` of length <= 16"),
    (
        "WordLevel",
        lambda t: t.update(normalizer=_sequence(*[_replace("aa", String="a")] * 11)),
        "1500 characters of one",
    ),
    (
        "WordLevel",
        lambda t: t.update(normalizer=_sequence(*[_replace("aa", Regex=".")] * 11)),
        "1500 characters of one",
    ),
    ("WordLevel", lambda t: t.update(normalizer=_sequence(*[{"type": "Lowercase"}] * 32)), "has 34 steps"),
    ("WordLevel", lambda t: t.update(normalizer=_sequence(*[{"type": "ByteLevel"}] * 6)), "1500 characters of one"),
    ("WordLevel", lambda t: t.update(normalizer=_replace("a", Regex="x*")), "has a pattern that matches an empty text"),
    ("WordLevel", lambda t: t.update(normalizer=_replace("a", String="")), "Expected `str` of length >= 1"),
    (
        "WordLevel",
        lambda t: t.update(normalizer=_replace("a", String="a", Regex="b")),
        "not either a text or a regular",
    ),
    # patterns
    ("WordLevel", lambda t: t.update(pre_tokenizer=_split("(a+)+$")), "repeats an expression that repeats"),
    (
        "WordLevel",
        lambda t: t.update(pre_tokenizer=_split(r"\s*\s*\s*x")),
        "that would take too long in 5120 characters",
    ),
    ("WordLevel", lambda t: t.update(pre_tokenizer=_split("|".join(["a*b"] * 99))), "that would take too long in 5120"),
    ("WordLevel", lambda t: t.update(pre_tokenizer=_split("(?:a|a|a|a){9}b")), "too many ways to match one character"),
    ("WordLevel", lambda t: t.update(pre_tokenizer=_split("a" * 1025)), "Expected `str` of length <= 1024"),
    # tables
    ("WordLevel", lambda t: t.update(normalizer=_precompiled(b"", size=2**32 - 1)), "a trie of 4294967295 bytes in 4"),
    ("WordLevel", lambda t: t.update(normalizer=_precompiled(bytes(1024), size=1023)), "a trie of 1023 bytes"),
    ("WordLevel", lambda t: t.update(normalizer=_precompiled(bytes(4))), "leads from 0 to 0 of 1 units"),
    ("WordLevel", lambda t: t.update(normalizer=_precompiled(bytes(1024), b"\xff")), "has texts that are not UTF-8"),
    ("WordLevel", lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "%"}), "is not base64"),
]


@pytest.mark.parametrize(("kind", "change", "reason"), CHANGES, ids=[f"{kind}: {why}" for kind, _, why in CHANGES])
def test_a_file_that_says_something_impossible(kind: str, change: Change, reason: str) -> None:
    parts = json.loads(tokenizer_file(kind))
    change(parts)
    with pytest.raises(BundleError) as caught:
        read_tokenizer("tokenizer.json", json.dumps(parts).encode(), max_length=16)
    message = str(caught.value)
    assert reason in message
    assert message.startswith("the tokenizer 'tokenizer.json' ")
    assert "Fix: edgefuse takes what docs/bundle-format.md lists" in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"\xff", "is not valid JSON|invalid"),
        (b"[" * 100_000, "is nested too deeply|Expected `object`"),
        (b'{"model": ' * 100_000, "is nested too deeply|Expected"),
        (b'{"model": {"type": "WordLevel", "vocab": {"\\ud800": 0}, "unk_token": ""}}', "JSON is malformed"),
        (b'{"decoder": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply"),
    ],
)
def test_text_that_is_no_tokenizer(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        read_tokenizer("tokenizer.json", data, max_length=16)


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_check, "MAX_TOKENIZER_BYTES", 10)
    with pytest.raises(BundleError, match="is too large: 11 bytes, at most 10 are taken"):
        read_tokenizer("tokenizer.json", b" " * 11, max_length=16)


def test_what_is_not_used_is_not_handed_on() -> None:
    parts = json.loads(tokenizer_file("WordPiece from the left"))
    parts["decoder"] = {"type": "Replace", "pattern": {"Regex": "(("}, "content": ""}
    parts["padding"] = {"strategy": {"Fixed": 2**60}}
    file = read_tokenizer("tokenizer.json", json.dumps(parts).encode(), max_length=16)
    assert file.truncation is not None
    assert file.truncation.direction == "Left"
    written = json.loads(file.encoded())
    assert [written.get(name) for name in ("truncation", "padding", "decoder")] == [None] * 3


def test_of_equal_keys_only_what_was_checked_is_handed_on() -> None:
    data = tokenizer_file("characters")
    twice = b'{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////////////w=="},' + data[1:]
    assert b"Precompiled" not in read_tokenizer("tokenizer.json", twice, max_length=16).encoded()


@pytest.mark.parametrize(
    "regex", [CHAT, r"\d{1,3}(?=(?:\d{3})*\b)", r" ?[^(\s|[.,!?…])]+", "[[:alpha:]]+|[^a&&b]", r"\X"]
)
def test_patterns_of_real_tokenizers(regex: str) -> None:
    parts = json.loads(tokenizer_file("characters"))
    parts["pre_tokenizer"] = _split(regex)
    data = json.dumps(parts).encode()
    if regex == r"\X":
        with pytest.raises(BundleError, match="has something that is not taken at character 0"):
            read_tokenizer("tokenizer.json", data, max_length=16)
    else:
        Tokenizer.from_str(read_tokenizer("tokenizer.json", data, max_length=16).encoded().decode())


def test_a_table_replaces_and_nothing_else() -> None:
    parts = json.loads(tokenizer_file("characters"))
    for table, reason in (
        ({"A": "B"}, None),
        ({"A": "B" * 32, "C": ""}, None),
        ({"A": "B" * 33}, "points to byte 0 of 34, where no short text is"),
        ({"A": "B" * 200}, "points to byte 0 of 201, where no short text is"),
    ):
        parts["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap(table)}
        data = json.dumps(parts).encode()
        if reason:
            with pytest.raises(BundleError, match=reason):
                read_tokenizer("tokenizer.json", data, max_length=16)
        else:
            opened = Tokenizer.from_str(read_tokenizer("tokenizer.json", data, max_length=16).encoded().decode())
            assert opened.normalizer.normalize_str("A") == table["A"]


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
    added=st.lists(st.sampled_from(["[UNK]", "b", "c", "<x>", "<y>", "<z>"]), max_size=5, unique=True),
    special=st.booleans(),
)
@example(ids=[0, 1, 5], added=["c", "<x>"], special=True)
@example(ids=[0, 1, 5], added=["<x>", "c", "<y>"], special=True)
@example(ids=[3, 4], added=["<x>", "<y>"], special=False)
def test_added_tokens_get_the_ids_that_the_library_gives_them(ids: list[int], added: list[str], special: bool) -> None:
    """Also where a vocabulary has holes; what would give two tokens one id is refused."""
    parts = json.loads(tokenizer_file("WordLevel"))
    parts["model"]["vocab"] = dict(zip(("[UNK]", "a", "b", "c", "d"), ids, strict=False))
    parts["post_processor"] = None
    parts["added_tokens"] = [_added(99, content) | {"special": special} for content in added]
    library = Tokenizer.from_str(json.dumps(parts))
    given_ = [library.token_to_id(content) for content in added]
    for token, index in zip(parts["added_tokens"], given_, strict=True):
        token["id"] = index
    names = {**parts["model"]["vocab"], **dict(zip(added, given_, strict=True))}
    data = json.dumps(parts).encode()
    if len(set(names.values())) == len(names):
        opened = Tokenizer.from_str(read_tokenizer("tokenizer.json", data, max_length=16).encoded().decode())
        assert [opened.token_to_id(content) for content in added] == given_
    else:
        with pytest.raises(BundleError, match=r"whose id another one has|would become"):
            read_tokenizer("tokenizer.json", data, max_length=16)


def test_a_bundle_with_such_a_file_is_neither_written_nor_read(
    tmp_path: Path, manifest: Manifest, contents: dict[str, bytes], folder: Path, with_manifest: Callable[[bytes], Path]
) -> None:
    hostile = b'{"model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}'
    with pytest.raises(BundleError, match=r"the tokenizer 'assets/tokenizer\.json' cannot be read: got"):
        write_bundle(tmp_path / "new", manifest, {**contents, "assets/tokenizer.json": hostile})
    assert not (tmp_path / "new").exists()
    text = msgspec.json.decode((folder / "manifest.json").read_bytes())
    entry = next(entry for entry in text["files"] if entry["path"] == "assets/tokenizer.json")
    entry |= {"size_bytes": len(hostile), "sha256": hashlib.sha256(hostile).hexdigest()}
    (folder / "assets" / "tokenizer.json").write_bytes(hostile)
    with open_bundle(with_manifest(json.dumps(text).encode())) as bundle, pytest.raises(BundleError) as caught:
        bundle.read("assets/tokenizer.json")
    assert "is refused: the tokenizer 'assets/tokenizer.json' cannot be read: got" in str(caught.value)
