r"""What a regular expression of a tokenizer costs at worst, or why it is not taken.

The library runs Oniguruma, which tries one way after the other: nested repetition takes time that doubles with each
character, and `a*q` looks from each `a` to the end of the row. Here a pattern is read by a grammar that holds what
tokenizers use; whatever else Oniguruma's Ruby syntax has (references, calls, callouts, conditions, comments, named
groups) is refused, so that nothing is read in two ways. The cost is counted, not measured: the ways in which a part can
match from one place, and the steps until all have failed.

What makes the patterns of GPT-2 and its successors fast is that another branch takes what one has looked at in vain:
behind `\s*[\r\n]+` comes `\s+`. Then each character is looked at a few times, however long the row.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_WITHOUT_CASE = 50
"""Steps for one character where case does not matter; measured, against a few nanoseconds for one step."""

MAX_REPEATS = 64
MAX_NODES = 10_000
MAX_DEPTH = 8

_ONE_CHARACTER = re.compile(
    r"""\\[dDsSwWhH] | \\[pP]\{\^?[A-Za-z0-9_ &-]{1,40}\} | \\x[0-9A-Fa-f]{2} | \\x\{[0-9A-Fa-f]{1,6}\}
    | \\u[0-9A-Fa-f]{4} | \\[nrtfvae] | \\[^A-Za-z0-9] | [^\\\[\](){|*+?^$]""",
    re.VERBOSE | re.DOTALL,
)
_ANCHOR = re.compile(r"[\^$]|\\[bBAzZ]")
_CLASS_PART = re.compile(
    r"\[:\^?[a-z]{1,12}:\] | && | \\[pP]\{\^?[A-Za-z0-9_ &-]{1,40}\} | \\[^CMcpPkgKQEXRN0-9] | [^\\\[\]&] | &(?!&)",
    re.VERBOSE | re.DOTALL,
)
_GROUP = re.compile(r"\(\?(?:[im]*(?:-[im]+)?:|[:=!>]|<[=!])|\((?![?*])")
_REPEAT = re.compile(
    r"(?P<simple>[*+?])(?P<suffix>[?+]?)|\{(?P<low>\d{0,4})(?P<comma>,?)(?P<high>\d{0,4})\}(?P<lazy>\??)"
)


class PatternError(ValueError):
    """Why a pattern is not taken, as the end of a sentence."""


class Cost(NamedTuple):
    """The cost of a part of a pattern.

    Attributes:
        ways: in which it can match from one place.
        first: steps until it has matched in one way, or has failed.
        steps: until it has failed, having matched in every way and nothing having matched behind it.
        sure: whether it matches anywhere, if only an empty text.
        low: the fewest characters that it matches.
        high: the most.
        nodes: its size when repetitions are written out.
    """

    ways: float
    first: float
    steps: float
    sure: bool
    low: float
    high: float
    nodes: int


_NOTHING = Cost(1, 0, 0, True, 0, 0, 0)
_CHARACTER = Cost(1, 1, 1, False, 1, 1, 1)
_CHECK = Cost(1, 1, 1, False, 0, 0, 1)
_MANY = 1e18
"""Enough to be too many: larger numbers are not told apart."""


class _Item(NamedTuple):
    """A part of a sequence: its cost, what is repeated in it, and whether it may take any number of characters."""

    cost: Cost
    text: str
    runs: bool


def cost(pattern: str, characters: float) -> Cost:
    """Return the cost of a regular expression at each place of a text of so many characters.

    Raises:
        PatternError: it has something that is not taken, may match an empty text, or repeats what repeats.
    """
    reader = _Reader(pattern, characters)
    found = reader.alternatives(0)
    if reader.position != len(pattern):
        raise PatternError(f"has '{pattern[reader.position]}' at character {reader.position} where none can be")
    if found.low < 1:
        raise PatternError("matches an empty text")
    return found


class _Reader:
    """Reads a pattern by recursive descent, from `position` on."""

    def __init__(self, pattern: str, characters: float) -> None:
        self._pattern = pattern
        self._characters = characters
        self._one = _CHARACTER
        self.position = 0

    def alternatives(self, depth: int) -> Cost:
        """Read sequences with `|` between them."""
        branches = [self._sequence(depth)]
        while self._pattern.startswith("|", self.position):
            self.position += 1
            branches.append(self._sequence(depth))
        # Only at the top, nothing can fail behind the branch that takes a row over.
        later = [_rows(branches[index + 1 :]) if not depth else frozenset() for index in range(len(branches))]
        costs = [_joined(branch, taken) for branch, taken in zip(branches, later, strict=True)]
        ways, first, steps, sure, lows, highs, nodes = zip(*costs, strict=True)
        return Cost(sum(ways), sum(first), sum(steps), any(sure), min(lows), max(highs), sum(nodes))

    def _sequence(self, depth: int) -> list[_Item]:
        items: list[_Item] = []
        while self.position < len(self._pattern) and self._pattern[self.position] not in "|)":
            items.append(self._repeated(depth))
        return items

    def _repeated(self, depth: int) -> _Item:
        begin = self.position
        atom = self._atom(depth)
        text = self._pattern[begin : self.position]
        match = self._take(_REPEAT)
        if match is None:
            return _Item(atom, text, runs=False)
        if atom.high == 0:
            raise PatternError("repeats an expression that matches no character")
        if _REPEAT.match(self._pattern, self.position):
            raise PatternError("repeats a repetition")
        if match["simple"]:
            low, high = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}[match["simple"]]
            found = self._repeat(atom, low, high)
            if match["suffix"] == "+":
                return _Item(self._final(found), text, runs=False)
            return _Item(found, text, runs=atom == self._one and high == math.inf)
        low, high = self._bounds(match)
        # `{n}?` may be none or `n` in Oniguruma.
        return _Item(self._repeat(atom, 0 if match["lazy"] else low, high), text, runs=False)

    @staticmethod
    def _bounds(match: re.Match[str]) -> tuple[int, float]:
        low = int(match["low"] or 0)
        high = math.inf if match["comma"] and not match["high"] else int(match["high"] or low)
        if not match["low"] + match["high"] or low > high or max(low, 0 if high == math.inf else high) > MAX_REPEATS:
            raise PatternError(f"has the repetition '{match.group()}'")
        return low, high

    def _atom(self, depth: int) -> Cost:
        if self._take(_ONE_CHARACTER):
            return self._one
        if self._take(_ANCHOR):
            return _CHECK
        if self._pattern.startswith("[", self.position):
            self._class(0)
            return self._one
        opening = self._take(_GROUP)
        if opening is None or depth == MAX_DEPTH:
            raise PatternError(f"has something that is not taken at character {self.position}")
        return self._group(opening.group()[1:], depth + 1)

    def _group(self, kind: str, depth: int) -> Cost:
        """Read what a group holds, and its end; `kind` is how it begins after the bracket."""
        outer = self._one
        if "i" in kind:
            self._one = _CHARACTER._replace(first=_WITHOUT_CASE, steps=_WITHOUT_CASE)
        inner = self.alternatives(depth)
        self._one = outer
        if not self._pattern.startswith(")", self.position):
            raise PatternError("has a group that does not end")
        self.position += 1
        if kind in ("?=", "?!", "?<=", "?<!"):
            steps = 1 + inner.first + min(inner.high, self._characters)
            return _CHECK._replace(first=steps, steps=steps, nodes=1 + inner.nodes)
        if kind == "?>":
            return self._final(inner)
        return inner if kind else inner._replace(first=inner.first + 1, steps=inner.steps + 1)  # it is kept

    def _class(self, depth: int) -> None:
        """Read a class in brackets; what it holds does not matter as long as its end is certain."""
        self.position += 1
        if self._pattern.startswith("^", self.position):
            self.position += 1
        begin = self.position
        while not self._pattern.startswith("]", self.position):
            if self._take(_CLASS_PART):
                continue
            if not self._pattern.startswith("[", self.position) or depth == MAX_DEPTH:
                raise PatternError(f"has a class that is not taken at character {self.position}")
            self._class(depth + 1)
        if self.position == begin:
            raise PatternError("has an empty class")
        self.position += 1

    def _take(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._pattern, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def _final(self, part: Cost) -> Cost:
        """Return what a part costs that never gives back what it took, also when that was for nothing."""
        steps = part.first + min(part.high, self._characters)
        return part._replace(ways=1, first=steps, steps=steps)

    def _repeat(self, part: Cost, low: int, high: float) -> Cost:
        most = min(high, self._characters / max(part.low, 1))
        sure, nodes = part.sure or low == 0, part.nodes * int(max(1, low if high == math.inf else high))
        if part == self._one:
            ways, first, steps = (most - low + 1) * part.first, part.first * low, part.steps * low
        elif part.ways == 1 and part.low == part.high:
            ways, first, steps = most - low + 1, part.first * most, part.steps * most
        elif high <= MAX_REPEATS:
            powers = [min(part.ways**count, _MANY) for count in range(int(high) + 1)]
            ways, first, steps = sum(powers[low:]), part.first * sum(powers[:-1]), part.steps * sum(powers[:-1])
        else:
            raise PatternError("repeats an expression that repeats or has a choice")
        return Cost(max(ways, 1), first, steps, sure, part.low * low, part.high * high, nodes)


def _rows(branches: list[list[_Item]]) -> frozenset[str]:
    """Return of which characters one of the branches takes a whole row, and then cannot fail."""
    found = []
    for branch in branches:
        lead = _lead(branch)
        if lead is not None and all(item.cost.sure for item in branch[lead + 1 :]):
            found.append(branch[lead].text)
    return frozenset(found)


def _lead(branch: list[_Item]) -> int | None:
    """Return the place of the first part that takes a row, if at most single characters may stand before it."""
    for place, item in enumerate(branch):
        if item.runs:
            return place
        if not item.cost.sure or item.cost.high > 1:
            return None
    return None


def _joined(branch: list[_Item], taken: frozenset[str]) -> Cost:
    """Return what a branch costs, when rows of the characters that are `taken` later count once for each of them."""
    lead, total = _lead(branch), _NOTHING
    for place, item in enumerate(branch):
        free = place == lead and item.text in taken
        total = _followed(total, item.cost._replace(ways=1) if free else item.cost)
    if total.nodes > MAX_NODES:
        raise PatternError("is too large when its repetitions are written out")
    return total


def _followed(a: Cost, b: Cost) -> Cost:
    """Return what one part and another cost: the second is tried after each way of the first, unless it is sure."""
    ways, steps = min(a.ways * b.ways, _MANY), min(a.steps + a.ways * b.steps, _MANY)
    first = a.first + b.first if b.sure else min(a.steps + a.ways * b.first, _MANY)
    return Cost(ways, first, steps, a.sure and b.sure, a.low + b.low, a.high + b.high, a.nodes + b.nodes)
