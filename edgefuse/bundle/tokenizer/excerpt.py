"""The part of a text that its tokens come from: a model takes so many of them, and a text may be a book.

Tokenising takes time with the text's length, however few tokens are kept. So it begins with as many characters as that
many tokens come from, and takes more only if too few came of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

CHARACTERS_PER_TOKEN = 16
"""English takes four to six; white space, which most tokenizers drop, comes on top."""
CHARACTERS_MORE = 1024
LONGEST_FACTOR = 4
"""How often as much is looked at when the first part gives too few tokens."""
MARGIN = 64
"""Characters before a cut whose tokens may be others than without it."""
_LONGEST_WORD = 256

_LAST_SPACE = re.compile(r"\s+\S*\Z")
_FIRST_SPACE = re.compile(r"\S*(?=\s)")


def longest_excerpt(max_tokens: int) -> int:
    """Return how many characters are looked at, at the most."""
    return LONGEST_FACTOR * (CHARACTERS_PER_TOKEN * max_tokens + CHARACTERS_MORE)


def excerpts(text: str, max_tokens: int, *, from_end: bool) -> Iterator[str]:
    """Yield the beginning of a text (or its end), then more of it; all of it if it is short.

    Args:
        text: as it was given.
        max_tokens: that the model takes.
        from_end: whether tokens are cut from the beginning.
    """
    longest = longest_excerpt(max_tokens)
    for characters in (longest // LONGEST_FACTOR, longest):
        if len(text) <= characters:
            yield text
            return
        yield _end(text, characters) if from_end else _beginning(text, characters)


def _beginning(text: str, characters: int) -> str:
    """Return at most so many characters of a text, cut before white space if there is some near."""
    while characters > 1 and unicodedata.combining(text[characters]):
        characters -= 1
    if text[characters].isspace():
        return text[:characters]
    space = _LAST_SPACE.search(text, characters - _LONGEST_WORD, characters)
    return text[: space.start() if space else characters]


def _end(text: str, characters: int) -> str:
    """Return at most so many of the last characters of a text, cut before white space if there is some near."""
    begin = len(text) - characters
    while begin < len(text) - 1 and unicodedata.combining(text[begin]):
        begin += 1
    word = _FIRST_SPACE.match(text, begin, begin + _LONGEST_WORD)
    return text[word.end() if word else begin :]
