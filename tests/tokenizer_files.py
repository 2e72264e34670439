"""Small `tokenizer.json` files of every kind of model, trained by the library itself on a few sentences.

The library finds another vocabulary each time, so that what was found once is kept in `trained_tokenizers.json`:
`python -m tests.tokenizer_files` trains anew.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and then it jumps again.",
    "Please stop the music now; go on with the talk, but do not wait for me!",
    "Numbers such as 12, 345 and 6789 are tokens, and so are prices: $3.50.",
    "Größe und Übermut tun selten gut, sagt die Großmutter auf der Straße.",
    "Le café naïf s'élève à côté de la forêt où l'été s'achève.",
    "你好，世界。今天的天气很好，我们去公园吧。",
    "こんにちは世界。今日はいい天気ですね。",
    "Привет, мир! Сегодня хорошая погода, и мы идём гулять.",
    "Tokens\tand  spaces\n\nand new lines, 😀 and 🎉 too.",
    "don't can't won't it's we're they'll I'd you've",
)
CHAT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def charsmap(replacements: Mapping[str, str]) -> str:
    """Return the table of a `Precompiled` normalizer that replaces ASCII characters, in base64."""
    units = [0] * (512 + 256 * len(replacements))
    units[0] = 256 << 10
    texts = b""
    for index, (character, text) in enumerate(replacements.items()):
        label, leaf = ord(character), 512 + 256 * index
        place = 256 ^ label
        units[place] = label | 1 << 8 | (place ^ leaf) << 10
        units[leaf] = 1 << 31 | len(texts)
        texts += text.encode() + b"\0"
    return base64.b64encode(struct.pack(f"<{1 + len(units)}I", 4 * len(units), *units) + texts).decode()


_PLACE = Path(__file__).with_name("trained_tokenizers.json")
_trains = False


@cache
def _found() -> dict[str, dict[str, Any]]:
    """Return what training found, by the kind of tokenizer."""
    return {} if _trains else dict(json.loads(_PLACE.read_text(encoding="utf-8")))


def _trained(kind: str, tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    """Return a tokenizer with the vocabulary that the trainer found for it."""
    if _trains:
        tokenizer.train_from_iterator(SENTENCES * 4, trainer)
        parts = json.loads(tokenizer.to_str())
        _found()[kind] = {name: parts[name] for name in ("added_tokens", "model")}
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | _found()[kind]))


def _word_piece() -> Tokenizer:
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(SPECIAL), show_progress=False)
    built = _trained("WordPiece", built, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def _word_piece_from_the_left() -> Tokenizer:
    built = _word_piece()
    built.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    built.enable_truncation(32, direction="left", stride=2)
    built.enable_padding(length=64, pad_to_multiple_of=8)
    return built


def _word_level() -> Tokenizer:
    built = Tokenizer(models.WordLevel(unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    built.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    return _trained("WordLevel", built, trainer)


def _characters() -> Tokenizer:
    vocabulary = {
        character: index for index, character in enumerate(["<pad>", "<unk>", *sorted(set("".join(SENTENCES)))])
    }
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return built


def _bytes() -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    built = _byte_pairs("BPE of bytes", built, ["<s>", "<pad>", "</s>"])
    built.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return built


def _chat() -> Tokenizer:
    built = Tokenizer(models.BPE(ignore_merges=True))
    built.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(CHAT), "isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    built = _byte_pairs("BPE for chat", built, ["<|begin|>"])
    begin = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    built.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    built.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("Fox", single_word=True)])
    return built


def _byte_pairs(kind: str, built: Tokenizer, special: list[str]) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(kind, built, trainer)


def _prefixed() -> Tokenizer:
    marks: dict[str, Any] = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    built = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True, **marks))
    parts = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    built.normalizer = normalizers.Sequence(parts)
    built.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False, **marks)
    return _trained("BPE with marks", built, trainer)


def _unigram() -> Tokenizer:
    built = Tokenizer(models.Unigram())
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    built.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=special, show_progress=False)
    built = _trained("Unigram", built, trainer)
    built.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return built


def _tabled() -> bytes:
    """Unigram with a table of characters, which the library can only read."""
    parts = json.loads(_unigram().to_str())
    table = {"type": "Precompiled", "precompiled_charsmap": charsmap({"A": "a", "&": "and", "\t": " "})}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    parts["normalizer"] = {"type": "Sequence", "normalizers": [table, strip, spaces]}
    return json.dumps(parts).encode()


def _fallback() -> bytes:
    """BPE over the whole text with bytes for what is unknown, as SentencePiece's is converted; merges as texts."""
    parts = json.loads(_prefixed().to_str())
    letters = ["▁", *sorted(set("".join(SENTENCES).replace(" ", "")) - set("你好世界"))]
    tokens = [
        "<unk>",
        "<s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        "th",
        "▁th",
        "▁the",
        "an",
        "▁an",
        "▁and",
    ]
    merges = ["t h", "▁ th", "▁th e", "a n", "▁ an", "▁an d"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    parts["model"] = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "dropout": None}
    parts["model"] |= {"vocab": vocabulary, "merges": merges}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts["added_tokens"] = [{"id": 0, "content": "<unk>", "special": True, **marks}]
    parts["pre_tokenizer"] = parts["post_processor"] = None
    parts["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(parts).encode()


_KINDS: Mapping[str, Callable[[], Tokenizer | bytes]] = MappingProxyType(
    {
        "WordPiece": _word_piece,
        "WordPiece from the left": _word_piece_from_the_left,
        "WordLevel": _word_level,
        "characters": _characters,
        "BPE of bytes": _bytes,
        "BPE for chat": _chat,
        "BPE with marks": _prefixed,
        "BPE with fallback": _fallback,
        "Unigram": _unigram,
        "Unigram with a table": _tabled,
    }
)
KINDS = tuple(_KINDS)


@cache
def tokenizer_file(kind: str) -> bytes:
    """Return the bytes of a file of one of `KINDS`."""
    built = _KINDS[kind]()
    return built if isinstance(built, bytes) else built.to_str().encode()


if __name__ == "__main__":
    _trains = True
    for make in _KINDS.values():
        make()
    _PLACE.write_text(json.dumps(_found(), ensure_ascii=False) + "\n", encoding="utf-8")
