"""Tokenizers of every kind with parts that are wrong, patterns that never end and tables that lead nowhere.

What is taken must tokenise texts of all sorts, long ones too, with ids that the file has.
"""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from edgefuse.bundle.spec import text
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import Preprocessor
from tests.attack import json_edits
from tests.attack.attempt import Area, Attempt
from tests.tokenizer_files import CHAT, KINDS, SENTENCES, charsmap, tokenizer_file

MAX_LENGTH = 16
TEXTS = (
    *SENTENCES,
    "go",
    "a" * 40_000,
    "1" * 20_000 + "-x",
    " ".join(SENTENCES) * 30,
    "A&\t" * 4_000,
    "\u0344ﷺİẞ" * 3_000,
    "你好" * 10_000,
    "[CLS] <s> <unk> [SEP] Fox <tool> <0x41>",
    "\x00\x1b\u200d\ufeff\u202e",
    " \u3000x",
)
# The parts of patterns: those that are likely to be taken, and at the end those that are not.
_LETTERS = ("a", "b", "x", ".", r"\s", r"\S", r"\p{L}", "[ab]", r"[^\s]", r"[\s\S]", r"\d", "A", "1", "ſ", "-", "你")
_ANCHORS = ("^", "$", r"\b", r"\B", r"\z")
_REPEATS = ("", "", "", "", "*", "+", "?", "*?", "++", "{2}", "{1,3}", "{0,50}", "{5,}")
_GROUPS = ("(?:{})", "(?:{})", "({})", "(?={})", "(?!{})", "(?<={})", "(?<!{})", "(?>{})", "(?i:{})", "(?m-i:{})")
_PIECES = (
    *(r"\1", r"\k<n>", "(?#x)", "(*FAIL)", r"\X", r"\R", r"\K", r"\Q", "[]a]", "[[a]", "[a&&b]", r"[\c]]", "{", "|"),
    *("**", "{1,3}+", "{999}", "(?<n>a)", "(?~a)"),
)

Json = dict[str, Any]


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield edited files of every kind, in turn."""
    assert tokenizers.__version__  # warm: a child imports nothing
    kinds = {kind: json.loads(tokenizer_file(kind)) for kind in KINDS}
    for kind in KINDS:
        yield Attempt(f"{kind}: untouched", lambda kind=kind: check(tokenizer_file(kind), all_of_it=True))  # type: ignore[misc]
    makers: tuple[Callable[[random.Random, Json], tuple[str, Any]], ...] = (
        *(json_edits.edited, json_edits.edited, steps, steps, patterns, tables, numbers, specials),
    )
    while True:
        for kind, parts in kinds.items():
            if rng.random() < 0.1:
                what, data = json_edits.damaged(rng, tokenizer_file(kind))
            else:
                what, changed = rng.choice(makers)(rng, copy.deepcopy(parts))
                data = json_edits.dumped(changed)
            yield Attempt(f"{kind}: {what}", lambda data=data: check(data))  # type: ignore[misc]


def steps(rng: random.Random, parts: Json) -> tuple[str, Json]:
    """Give a file normalizers or pre-tokenizers in any order and number."""
    normalizers = [_normalizer(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 8, 40)))]
    splitters = [_pre_tokenizer(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 6, 33)))]
    parts["normalizer"] = _sequence(rng, "normalizers", normalizers)
    parts["pre_tokenizer"] = _sequence(rng, "pretokenizers", splitters) if splitters else None
    return f"{[n['type'] for n in normalizers][:8]}, {[s['type'] for s in splitters][:8]}", parts


def _sequence(rng: random.Random, name: str, parts: list[Json]) -> Json:
    nested: Json = {"type": "Sequence", name: parts}
    for _ in range(rng.choice((0, 0, 0, 0, 1, 3, 200))):
        nested = {"type": "Sequence", name: [nested]}
    return nested


def _normalizer(rng: random.Random) -> Json:
    kind = rng.choice(
        ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel", "Strip", "Bert", "?")
    )
    if kind == "Strip":
        return {"type": "Strip", "strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
    if kind == "Bert":
        flags = {name: rng.random() < 0.5 for name in ("clean_text", "handle_chinese_chars", "lowercase")}
        return {"type": "BertNormalizer", "strip_accents": rng.choice((None, True, False)), **flags}
    if kind != "?":
        return {"type": kind}
    content = rng.choice(("", "a", "aa", "ﷺ", "\u0344", "İ", "▁", "a" * 16, "a" * 17))
    pattern = {"Regex": pattern_of(rng)} if rng.random() < 0.5 else {"String": rng.choice(("a", " ", "aa", "\n", ""))}
    replace = {"type": "Replace", "pattern": pattern, "content": content}
    prepend = {"type": "Prepend", "prepend": content}
    table = {"type": "Precompiled", "precompiled_charsmap": charsmap({"a": content, "1": "ﷺ"})}
    return rng.choice((replace, replace, prepend, table))


def _pre_tokenizer(rng: random.Random) -> Json:
    plain = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")
    behavior = rng.choice(("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
    marks = {
        "add_prefix_space": rng.random() < 0.5,
        "trim_offsets": rng.random() < 0.5,
        "use_regex": rng.random() < 0.5,
    }
    scheme = {
        "replacement": rng.choice(("▁", " ", "a", "▁", " ", "ab")),
        "prepend_scheme": rng.choice(("always", "first", "never")),
    }
    split = {"type": "Split", "pattern": {"Regex": pattern_of(rng)}, "behavior": behavior, "invert": rng.random() < 0.3}
    return rng.choice(
        (
            {"type": rng.choice(plain)},
            {"type": "ByteLevel", **marks},
            {"type": "Metaspace", "split": rng.random() < 0.5, **scheme},
            {"type": "Punctuation", "behavior": behavior},
            {"type": "Digits", "individual_digits": rng.random() < 0.5},
            {"type": "CharDelimiterSplit", "delimiter": rng.choice(("a", " ", "a", " ", "", "ab"))},
            {"type": "FixedLength", "length": rng.choice((1, 2, 5, 9, 2**31 - 1, 0, -1))},
            split,
            split,
        )
    )


def patterns(rng: random.Random, parts: Json) -> tuple[str, Json]:
    """Give a file one pattern that may never end."""
    regex = pattern_of(rng)
    behavior = rng.choice(("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
    parts["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
    return f"the pattern {regex[:80]!r}", parts


def pattern_of(rng: random.Random) -> str:
    """Return a regular expression that was put together at random, or a real one with an edit."""
    if rng.random() < 0.2:
        place = rng.randrange(len(CHAT))
        return CHAT[:place] + rng.choice((*_LETTERS, *_REPEATS, *_PIECES)) + CHAT[place + rng.randrange(2) :]
    return _alternatives(rng, rng.choice((0, 1, 2, 2, 3)))


def _alternatives(rng: random.Random, depth: int) -> str:
    branches = []
    for _ in range(rng.choice((1, 1, 2, 3, 12))):
        atoms = []
        for _ in range(rng.choice((1, 2, 3, 4))):
            atoms.append(_atom(rng, depth))
        branches.append("".join(atoms))
    return "|".join(branches)


def _atom(rng: random.Random, depth: int) -> str:
    chance = rng.random()
    if depth and chance < 0.4:
        return str(rng.choice(_GROUPS)).format(_alternatives(rng, depth - 1)) + rng.choice(("", "", "?", "*", "{2}"))
    if chance > 0.9:
        return rng.choice(_ANCHORS if chance < 0.99 else _PIECES)
    return rng.choice(_LETTERS) + rng.choice(_REPEATS)


def tables(rng: random.Random, parts: Json) -> tuple[str, Json]:
    """Give a file a table of characters that is damaged."""
    made = charsmap({"a": rng.choice(("b", "", "x" * 40)), "1": "2", rng.choice("AZ "): "ﷺ"})
    data = bytearray(base64.b64decode(made))
    notes = []
    for _ in range(rng.choice((0, 1, 1, 3))):
        # Most of the table is empty: edit what is not.
        place = rng.choice([index for index, byte in enumerate(data) if byte]) // 4 * 4
        value = rng.choice((*(0, 1, 2**31, 2**32 - 1, 2**31 | 5, 1 << 8, 1 << 9, 0xFFFFFF00), rng.randrange(2**32)))
        data[place : place + 4] = value.to_bytes(4, "little")
        notes.append(f"{place} = {value:#x}")
    encoded = base64.b64encode(data[: rng.choice((len(data), len(data), 3, 8, len(data) // 2))]).decode()
    parts["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": encoded}
    return f"a table with {notes}, of {len(encoded)} characters", parts


def numbers(rng: random.Random, parts: Json) -> tuple[str, Json]:
    """Give tokens other numbers or names, or merges that lead elsewhere."""
    model = parts["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        entry = rng.randrange(len(vocabulary))
        vocabulary[entry] = rng.choice(
            (["", -1.0], ["a", -1e300], vocabulary[0], ["x" * 300, -1.0], ["a"], [1, 2], None)
        )
        model["unk_id"] = rng.choice((None, 0, len(vocabulary), 2**40, model["unk_id"]))
        return f"entry {entry} = {vocabulary[entry]!r:.60}", parts
    token = rng.choice(sorted(vocabulary))
    if "merges" in model and rng.random() < 0.5:
        other = rng.choice(sorted(vocabulary))
        merge = rng.choice(
            ([token, other], [token, "##"], [token, "#"], f"{token} {other}", "a b c", ["", ""], [token], ["ä", "##"])
        )
        model["merges"].insert(rng.randint(0, len(model["merges"])), merge)
        prefix = model.get("continuing_subword_prefix")
        model["continuing_subword_prefix"] = rng.choice((prefix, prefix, "", "ä", "##", "x" * 20))
        return f"merge {merge!r:.60} with {model['continuing_subword_prefix']!r}", parts
    kind = rng.choice(("number", "less", "more", "holes", "long"))
    if kind == "number":
        vocabulary[token] = rng.choice((*json_edits.NUMBERS, vocabulary[token] + 1))
    elif kind == "less":
        del vocabulary[token]
    elif kind == "holes":
        vocabulary.update({name: number * 3 for name, number in vocabulary.items()})
    else:
        vocabulary["x" * 3_000 if kind == "long" else token + "x"] = len(vocabulary)
    return f"{kind} {token!r:.40}", parts


def specials(rng: random.Random, parts: Json) -> tuple[str, Json]:
    """Give a file special tokens, added tokens and truncation that do not fit."""
    known = rng.choice(("[CLS]", "<s>", "the", "x"))
    number = rng.choice((0, 1, 2, 3, 10**6, 2**31, 2**32 - 1))
    piece = {"SpecialToken": {"id": known, "type_id": rng.choice((0, 2**33))}}
    here, there = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    single = rng.choices(
        (piece, here, there, {}, {**piece, **here}), (3, 3, 1, 0.3, 0.3), k=rng.choice((1, 2, 3, 20, 500))
    )
    tokens = {known: {"id": known, "ids": [number] * rng.choice((0, 1, 2, 40)), "tokens": [known] * rng.choice((1, 2))}}
    template = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens}
    pair = {"sep": [known, number], "cls": ["[CLS]", rng.choice((2, number))]}
    roberta = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": True, **pair}
    offsets = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    made = [rng.choice((template, {"type": "BertProcessing", **pair}, roberta, offsets, template | pair))]
    made *= rng.choice((1, 1, 1, 2, 40))
    parts["post_processor"] = made[0] if len(made) == 1 else {"type": "Sequence", "processors": made}
    if rng.random() < 0.5:
        flags = {name: rng.random() < 0.5 for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        content = rng.choice(("a", " ", "", "the", "\n", "a" * 3_000, "ﷺ"))
        added = {"id": rng.choice((number, len(parts["model"]["vocab"]))), "content": content, **flags}
        parts["added_tokens"] = [*parts["added_tokens"], added]
    if rng.random() < 0.3:
        cut = {"direction": "Left", "max_length": number, "strategy": "OnlySecond", "stride": number}
        parts["truncation"] = cut
    return f"{[m['type'] for m in made][:3]} with {known!r} as {number}", parts


def check(data: bytes, *, all_of_it: bool = False) -> None:
    """Tokenise texts: each gives ids of the file, or is refused in one sentence."""
    modality = text("words", tokenizer="tokenizer.json", max_length=MAX_LENGTH, variable=True)
    reader = Preprocessor(modality, lambda name: data)
    refusal, taken = None, 0
    for given in TEXTS:
        try:
            ids = reader(given)["words.ids"][0].tolist()
        except InputError as error:
            refusal = error
            continue
        taken += 1
        assert 1 <= len(ids) <= MAX_LENGTH, ids
        assert set(ids) <= _numbers(json.loads(data)), "ids that the file does not have"
    if refusal and not taken:
        raise refusal
    assert not (all_of_it and taken < len(TEXTS) - 3), f"only {taken} texts were taken"


def _numbers(parts: Mapping[str, Any]) -> set[int]:
    """Return the ids that a file has."""
    vocabulary = parts["model"]["vocab"]
    numbers = set(range(len(vocabulary))) if isinstance(vocabulary, list) else set(vocabulary.values())
    return numbers | {token["id"] for token in parts.get("added_tokens") or ()}


AREA = Area("tokenizer", attempts, tries=1_500, short=60, max_rss_bytes=1 << 30)
