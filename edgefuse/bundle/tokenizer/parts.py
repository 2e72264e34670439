"""The parts of a `tokenizer.json` as types: one struct for each part that is taken, with bounds on every value.

The format is that of the library `tokenizers` 0.20 to 0.23; its Rust sources are the only specification. Unknown parts
and fields are refused: the library tells some parts apart by their fields alone, so a field more makes another part.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_TOKENS = 2**19
MAX_TOKEN_CHARACTERS = 2048
MAX_PIECE_CHARACTERS = 256
"""Of a token of Unigram, which keeps a node for each byte and takes them apart by recursion."""
MAX_WORD_CHARACTERS = 512
"""Of a word that WordPiece takes apart, which tries every part of it."""
MAX_PATTERN_CHARACTERS = 1024
MAX_STEPS = 32
MAX_DEPTH = 4
"""Of sequences in sequences."""

_Number: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
_Short: TypeAlias = Annotated[str, Meta(max_length=16)]
_Character: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1)]
_Token: TypeAlias = Annotated[str, Meta(max_length=MAX_TOKEN_CHARACTERS)]
_Piece: TypeAlias = Annotated[str, Meta(max_length=MAX_PIECE_CHARACTERS)]
_Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]
_Score: TypeAlias = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Behavior: TypeAlias = Literal["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
_NONE = msgspec.Raw(b"null")
_FEW, _MANY = Meta(max_length=MAX_STEPS), Meta(min_length=1, max_length=MAX_TOKENS)


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of everything in the file: nothing unknown in it, written as short as it can be."""


class Part(Record, frozen=True, kw_only=True, tag_field="type", tag=True):
    """A record that names its type, which is that of the class."""


class Pattern(Record, frozen=True, kw_only=True):
    """A pattern to find: a text or a regular expression, not both."""

    text: _Text | None = msgspec.field(default=None, name="String")
    regex: _Text | None = msgspec.field(default=None, name="Regex")


class BertNormalizer(Part, frozen=True, kw_only=True):
    """Clean a text as BERT does."""

    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool | None = None
    lowercase: bool


class Strip(Part, frozen=True, kw_only=True):
    """Remove white space at the ends."""

    strip_left: bool
    strip_right: bool


class StripAccents(Part, frozen=True, kw_only=True):
    """Remove combining marks."""


class NFC(Part, frozen=True, kw_only=True):
    """Compose characters."""


class NFD(Part, frozen=True, kw_only=True):
    """Decompose characters."""


class NFKC(Part, frozen=True, kw_only=True):
    """Compose characters, and replace those that are compatible with others."""


class NFKD(Part, frozen=True, kw_only=True):
    """Decompose characters, and replace those that are compatible with others."""


class Lowercase(Part, frozen=True, kw_only=True):
    """Lower the case."""


class Nmt(Part, frozen=True, kw_only=True):
    """Remove control characters, and make all white space a space."""


class ByteLevelNormalizer(Part, frozen=True, kw_only=True, tag="ByteLevel"):
    """Make each byte one character."""


class Precompiled(Part, frozen=True, kw_only=True):
    """Replace characters as a table of SentencePiece says; see `charsmap`."""

    precompiled_charsmap: Annotated[str, Meta(max_length=2**21)]


class Replace(Part, frozen=True, kw_only=True):
    """Replace the matches of a pattern."""

    pattern: Pattern
    content: _Short


class Prepend(Part, frozen=True, kw_only=True):
    """Put a text in front; the library loses count over an empty one."""

    prepend: Annotated[str, Meta(min_length=1, max_length=16)]


class Normalizers(Part, frozen=True, kw_only=True, tag="Sequence"):
    """Normalizers, one after the other."""

    normalizers: Annotated[tuple[Normalizer, ...], _FEW]


Unicode: TypeAlias = NFC | NFD | NFKC | NFKD
Cleaning: TypeAlias = BertNormalizer | Strip | StripAccents | Lowercase | Nmt
Rewriting: TypeAlias = Replace | Prepend | Precompiled | ByteLevelNormalizer
Normalizer: TypeAlias = Unicode | Cleaning | Rewriting | Normalizers


class BertPreTokenizer(Part, frozen=True, kw_only=True):
    """Split at white space and punctuation."""


class Whitespace(Part, frozen=True, kw_only=True):
    """Split into words, and runs of other characters."""


class WhitespaceSplit(Part, frozen=True, kw_only=True):
    """Split at white space."""


class UnicodeScripts(Part, frozen=True, kw_only=True):
    """Split where the script changes."""


class Digits(Part, frozen=True, kw_only=True):
    """Split off digits."""

    individual_digits: bool


class Punctuation(Part, frozen=True, kw_only=True):
    """Split at punctuation."""

    behavior: _Behavior = "Isolated"


class CharDelimiterSplit(Part, frozen=True, kw_only=True):
    """Split at one character."""

    delimiter: _Character


class FixedLength(Part, frozen=True, kw_only=True):
    """Split into pieces of equal length."""

    length: Annotated[int, Meta(ge=1, lt=2**31)] = 5


class Split(Part, frozen=True, kw_only=True):
    """Split at the matches of a pattern."""

    pattern: Pattern
    behavior: _Behavior
    invert: bool


class Metaspace(Part, frozen=True, kw_only=True):
    """Make spaces visible, and split at them."""

    replacement: _Character
    prepend_scheme: Literal["always", "first", "never"] = "always"
    split: bool | None = None
    add_prefix_space: bool | None = None
    str_rep: _Short | None = None


class ByteLevel(Part, frozen=True, kw_only=True):
    """Make each byte one character; as a post-processor, change nothing but offsets."""

    add_prefix_space: bool
    trim_offsets: bool
    use_regex: bool = True


class PreTokenizers(Part, frozen=True, kw_only=True, tag="Sequence"):
    """Pre-tokenizers, one after the other."""

    pretokenizers: Annotated[tuple[PreTokenizer, ...], _FEW]


Splitting: TypeAlias = BertPreTokenizer | Whitespace | WhitespaceSplit | UnicodeScripts | Digits | Punctuation
PreTokenizer: TypeAlias = Splitting | CharDelimiterSplit | FixedLength | Split | Metaspace | ByteLevel | PreTokenizers


class BertProcessing(Part, frozen=True, kw_only=True):
    """Put one token in front and one at the end."""

    sep: tuple[_Token, _Number]
    cls: tuple[_Token, _Number]


class RobertaProcessing(Part, frozen=True, kw_only=True):
    """Put one token in front and one at the end."""

    sep: tuple[_Token, _Number]
    cls: tuple[_Token, _Number]
    trim_offsets: bool
    add_prefix_space: bool


class Placed(Record, frozen=True, kw_only=True):
    """A place in a template, by name."""

    id: _Token
    type_id: _Number


class Piece(Record, frozen=True, kw_only=True):
    """A part of a template: the text (`A`, or `B` of a pair) or a special token, not both."""

    sequence: Placed | None = msgspec.field(default=None, name="Sequence")
    special: Placed | None = msgspec.field(default=None, name="SpecialToken")


class SpecialToken(Record, frozen=True, kw_only=True):
    """What a special token of a template stands for."""

    id: _Token
    ids: Annotated[tuple[_Number, ...], _FEW]
    tokens: Annotated[tuple[_Token, ...], _FEW]


class TemplateProcessing(Part, frozen=True, kw_only=True):
    """Put special tokens where a template has them."""

    single: Annotated[tuple[Piece, ...], _FEW]
    pair: Annotated[tuple[Piece, ...], _FEW]
    special_tokens: Annotated[dict[str, SpecialToken], _FEW]


class Processors(Part, frozen=True, kw_only=True, tag="Sequence"):
    """Post-processors, one after the other."""

    processors: Annotated[tuple[Processor, ...], _FEW]


Processor: TypeAlias = BertProcessing | RobertaProcessing | TemplateProcessing | ByteLevel | Processors


class WordPiece(Part, frozen=True, kw_only=True):
    """Words made of the longest parts that fit."""

    vocab: Annotated[dict[_Token, _Number], _MANY]
    unk_token: _Token
    continuing_subword_prefix: _Short
    max_input_chars_per_word: Annotated[int, Meta(ge=0, le=MAX_WORD_CHARACTERS)]


class WordLevel(Part, frozen=True, kw_only=True):
    """Whole words."""

    vocab: Annotated[dict[_Token, _Number], _MANY]
    unk_token: _Token


class BPE(Part, frozen=True, kw_only=True):
    """Words merged from pairs, in order of the merges: two tokens each, or a text with a space between them."""

    vocab: Annotated[dict[_Token, _Number], _MANY]
    merges: Annotated[tuple[str | tuple[_Token, _Token], ...], Meta(max_length=2 * MAX_TOKENS)]
    dropout: float | None = None
    unk_token: _Token | None = None
    continuing_subword_prefix: _Short | None = None
    end_of_word_suffix: _Short | None = None
    fuse_unk: bool | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None


class Unigram(Part, frozen=True, kw_only=True):
    """The most likely pieces: each token with the logarithm of its frequency, in order of the ids."""

    vocab: Annotated[tuple[tuple[_Piece, _Score], ...], _MANY]
    unk_id: _Number | None = None
    byte_fallback: bool = False


class AddedToken(Record, frozen=True, kw_only=True):
    """A token that is found before the text is split."""

    id: _Number
    content: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_CHARACTERS)]
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class Truncation(Record, frozen=True, kw_only=True):
    """How a text is cut; of this, only the direction counts, since `max_length` stands in the manifest."""

    direction: Literal["Left", "Right"] = "Right"
    max_length: _Number
    strategy: Literal["LongestFirst", "OnlyFirst", "OnlySecond"]
    stride: _Number


class TokenizerFile(Record, frozen=True, kw_only=True):
    """A `tokenizer.json`. Padding and the decoder are not used: whatever they hold is not handed on."""

    version: Literal["1.0"] = "1.0"
    truncation: Truncation | None = None
    padding: msgspec.Raw = _NONE
    added_tokens: Annotated[tuple[AddedToken, ...], Meta(max_length=2**16)] = ()
    normalizer: Normalizer | None = None
    pre_tokenizer: PreTokenizer | None = None
    post_processor: Processor | None = None
    decoder: msgspec.Raw = _NONE
    model: WordPiece | WordLevel | BPE | Unigram

    def encoded(self) -> bytes:
        """Return the file with what is used of it, and nothing that has not been checked."""
        return msgspec.json.encode(msgspec.structs.replace(self, truncation=None, padding=_NONE, decoder=_NONE))
