"""The words that go with frames, what each does with the digit that is seen, and the words that answer.

Every frame shows a digit, and a word says what to do with it: take it as the total, add it to the total or take it
away (modulo ten), or leave the total as it is. The answer is the new total, in the language of the word; a sign, which
has none, is answered in the language of the answer before. So an answer depends on the picture, the word and the answer
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from edgefuse.datasets.digits.text import WORDS as NUMBERS

LANGUAGES = ("en", "de", "es")
"""In which no two numbers are spelled alike. The first is that of a sign that comes first."""

_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "en": {"take": ("is", "take"), "add": ("add", "more"), "subtract": ("less", "remove"), "keep": ("again", "repeat")},
    "de": {"take": ("ist", "nimm"), "add": ("dazu", "mehr"), "subtract": ("weniger", "ohne"), "keep": ("nochmal",)},
    "es": {"take": ("es", "toma"), "add": ("suma", "añade"), "subtract": ("menos", "resta"), "keep": ("repite",)},
    "": {"take": ("=",), "add": ("+",), "subtract": ("-",)},
}
MEANINGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        word: (language, operation)
        for language, operations in _WORDS.items()
        for operation, words in operations.items()
        for word in words
    }
)
"""Of each word: its language, empty for a sign, and what it does."""

LABELS = ("<start>", "<end>", *(number for language in LANGUAGES for number in NUMBERS[language]))
"""What an answer is made of."""
START, END = 0, 1
_FIRST = 2
_DIGITS = 10


def answers(digits: Sequence[int], words: Sequence[str]) -> list[int]:
    """Return the ids of the right answers, the end token last.

    Args:
        digits: that the frames show, 0 to 9.
        words: one for each frame.
    """
    total, spoken, ids = 0, LANGUAGES[0], []
    for digit, word in zip(digits, words, strict=True):
        language, operation = MEANINGS[word]
        spoken = language or spoken
        change = {"take": digit - total, "add": digit, "subtract": -digit, "keep": 0}[operation]
        total = (total + change) % _DIGITS
        ids.append(_FIRST + _DIGITS * LANGUAGES.index(spoken) + total)
    return [*ids, END]


def tokenizer() -> Tokenizer:
    """Build the tokenizer: one token a word, `<pad>` 0 and `<unk>` 1."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<unk>", *MEANINGS])}
    built = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = WhitespaceSplit()
    return built


def vocabulary_size() -> int:
    """Return the number of tokens."""
    return len(MEANINGS) + 2
