"""What things and colours are called, what answers there are, and tokenizers of whole words."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

CLOTHES = {"shirt": 0, "dress": 3, "coat": 4, "sandal": 5, "sneaker": 7, "bag": 8, "boot": 9}
"""The class of each in Fashion-MNIST. Left out are trousers, which have no singular, and pullovers and the class of
shirts with buttons, which at this size are told from coats by luck."""

KINDS = (*DIGITS, *CLOTHES)

COLOURS = {
    "red": (225, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (235, 225, 40),
    "green": (40, 180, 60),
    "blue": (50, 95, 235),
    "purple": (140, 50, 190),
    "pink": (245, 135, 195),
    "white": (235, 235, 235),
}
"""In red, green and blue."""

RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Rows and columns from a thing to what is so."""

NOTHING = "nothing"
ANSWERS = (*KINDS, *COLOURS, "yes", "no", NOTHING)
"""Of all questions; numbers of things are words that digits have, too."""

SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")
PAD, UNKNOWN, START, END = range(4)


def article(word: str) -> str:
    """Return "a" or "an", as the word wants it."""
    return "an" if word in ("eight", "orange") else "a"


def vocabulary(words: Iterable[str]) -> tuple[str, ...]:
    """Return the tokens, those that are no words first; a token's place is its id."""
    return (*SPECIAL, *sorted(set(words)))


def tokenizer(tokens: Iterable[str]) -> Tokenizer:
    """Build the tokenizer of a vocabulary: lower case, one token a word or a mark."""
    built = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=SPECIAL[UNKNOWN]))
    built.normalizer = Lowercase()
    built.pre_tokenizer = Whitespace()
    return built
