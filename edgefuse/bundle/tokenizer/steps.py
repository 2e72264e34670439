"""Bounds of normalizers and pre-tokenizers: how long a text may grow, and how long patterns may search in it.

Each step by itself is bounded, but a chain multiplies: eight replacements of one character by sixteen take gigabytes.
Steps that change characters by Unicode's rules hardly grow what people write, but they do once a step before them has
put characters of its own into the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from edgefuse.bundle.tokenizer.charsmap import CharsmapError, longest_replacement
from edgefuse.bundle.tokenizer.parts import (
    MAX_DEPTH,
    MAX_STEPS,
    NFC,
    NFD,
    NFKC,
    NFKD,
    BertNormalizer,
    ByteLevel,
    ByteLevelNormalizer,
    Lowercase,
    Metaspace,
    Normalizer,
    Normalizers,
    Pattern,
    Precompiled,
    Prepend,
    PreTokenizer,
    PreTokenizers,
    Replace,
    Split,
)
from edgefuse.bundle.tokenizer.patterns import PatternError, cost

MAX_GROWTH = 1_500
"""Characters made of one. ALBERT's chain comes to 1,296 by the rules below."""
MAX_SEARCH_STEPS = 2**30
"""Of all patterns in the longest text that is looked at, if they take longer with its length: some seconds."""
MAX_STEPS_PER_CHARACTER = 4096
"""Of one pattern, apart from that. GPT-4o's comes to 1,700 by the rules of `patterns`."""

_Step: TypeAlias = Normalizer | PreTokenizer
_GROWN = {NFC: 3.0, NFD: 4.0, NFKC: 18.0, NFKD: 18.0, Lowercase: 2.0, BertNormalizer: 24.0}
"""Characters that these make of one at the most, by the tables of Unicode."""
_BYTES = 4.0


class StepError(ValueError):
    """Why a normalizer or pre-tokenizer is not taken, as the end of a sentence."""


def growth(normalizer: Normalizer | None, pre_tokenizer: PreTokenizer | None, characters: int) -> float:
    """Return how many characters the steps make of one at the most, in a text of so many.

    Args:
        normalizer: the tokenizer's; None if it has none.
        pre_tokenizer: the tokenizer's; None if it has none.
        characters: of the longest text.

    Raises:
        StepError: a step is not taken, or all together take too long or grow a text too much.
    """
    steps = [*_flat([normalizer] if normalizer else []), *_flat([pre_tokenizer] if pre_tokenizer else [])]
    if len(steps) > MAX_STEPS:
        raise StepError(f"has {len(steps)} steps before its model, more than {MAX_STEPS}")
    grown, searched, rewritten = 1.0, 0.0, False
    for step in steps:
        factor, search = _effect(step, grown * characters, rewritten)
        searched += search
        grown *= factor
        rewritten |= isinstance(step, Replace | Prepend | Precompiled | ByteLevel | ByteLevelNormalizer)
        if grown > MAX_GROWTH:
            raise StepError(f"has steps that make more than {MAX_GROWTH} characters of one")
        if searched > MAX_SEARCH_STEPS:
            raise StepError(f"has patterns that would take too long in {characters} characters")
    return grown


def _flat(steps: Sequence[_Step], depth: int = 0) -> Iterator[_Step]:
    """Yield steps without the sequences that they stand in."""
    if depth > MAX_DEPTH:
        raise StepError("has sequences in sequences")
    for step in steps:
        if isinstance(step, Normalizers):
            yield from _flat(step.normalizers, depth + 1)
        elif isinstance(step, PreTokenizers):
            yield from _flat(step.pretokenizers, depth + 1)
        else:
            yield step


def _effect(step: _Step, characters: float, rewritten: bool) -> tuple[float, float]:
    """Return what a step makes of one character, and how long it searches a text of so many."""
    if isinstance(step, Replace):
        shortest, search = _search(step.pattern, characters)
        return max(1.0, len(step.content) / shortest), search
    if isinstance(step, Split):
        return 1.0, _search(step.pattern, characters)[1]
    if isinstance(step, Precompiled):
        try:
            return max(1.0, longest_replacement(step.precompiled_charsmap)), 0.0
        except CharsmapError as error:
            raise StepError(f"has a table of characters that {error}") from error
    if isinstance(step, Prepend):
        return 1.0 + len(step.prepend), 0.0
    if isinstance(step, Metaspace):
        return 2.0, 0.0
    if isinstance(step, ByteLevel | ByteLevelNormalizer):
        return _BYTES, 0.0
    return _GROWN.get(type(step), 1.0) if rewritten else 1.0, 0.0


def _search(pattern: Pattern, characters: float) -> tuple[float, float]:
    """Return the shortest text that a pattern finds, and how long it searches."""
    if (pattern.text is None) == (pattern.regex is None):
        raise StepError("has a pattern that is not either a text or a regular expression")
    if pattern.regex is None:
        return float(len(pattern.text or " ")), 0.0
    try:
        alone, found = cost(pattern.regex, 1), cost(pattern.regex, characters)
    except PatternError as error:
        raise StepError(f"has a pattern that {error}") from error
    if alone.first > MAX_STEPS_PER_CHARACTER:
        raise StepError("has a pattern with too many ways to match one character")
    return found.low, (found.first - alone.first) * characters
