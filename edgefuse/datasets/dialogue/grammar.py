"""Sentences drawn from templates of hassil, the grammar of Home Assistant's intents.

`(a|b)` is one of several, `[a]` may be left out, `(a;b)` comes in any order, `<rule>` is a rule, `{list}` a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from edgefuse.errors import DataError

_TOKEN = re.compile(r"[()\[\]|;]|<[^<>]+>|\{[^{}]+\}|[^()\[\]|;<>{}]+")


@dataclass(frozen=True)
class Group:
    """Parts of a template: all of them, one after the other; one of them; or all in any order."""

    kind: Literal["all", "one", "any order"]
    parts: tuple[Group | str, ...]


@cache
def parse(template: str) -> Group:
    """Read a template; words, `<rule>` and `{list}` stay as they are.

    Raises:
        DataError: a bracket has no partner.
    """
    tokens = iter(_TOKEN.findall(template))
    group, end = _read(tokens)
    if end is not None or next(tokens, None) is not None:
        raise DataError("a template has a bracket without its partner", got=f"'{template}'")
    return group


def _read(tokens: Iterator[str]) -> tuple[Group, str | None]:
    """Read up to a closing bracket or the end; return what was read and the bracket."""
    choices: list[list[Group | str]] = [[]]
    kind: Literal["one", "any order"] = "one"
    for token in tokens:
        if token in ("(", "["):
            inner, end = _read(tokens)
            if end != {"(": ")", "[": "]"}[token]:
                raise DataError("a template has a bracket without its partner", got=f"'{token}'")
            choices[-1].append(inner if token == "(" else Group("one", ("", inner)))
        elif token in (")", "]"):
            return _joined(kind, choices), token
        elif token in ("|", ";"):
            kind = "one" if token == "|" else "any order"
            choices.append([])
        else:
            choices[-1].append(token)
    return _joined(kind, choices), None


def _joined(kind: Literal["one", "any order"], choices: list[list[Group | str]]) -> Group:
    groups = tuple(Group("all", tuple(parts)) for parts in choices)
    return groups[0] if len(groups) == 1 else Group(kind, groups)


def draw(template: str, rules: Mapping[str, str], values: Mapping[str, str], rng: np.random.Generator) -> str:
    """Return a sentence of a template, each choice drawn.

    Args:
        template: of the sentence.
        rules: templates by name.
        values: of lists, by name.
        rng: draws.

    Raises:
        DataError: there is no such rule or value.
    """
    return re.sub(r"\s+", " ", _drawn(parse(template), rules, values, rng)).strip()


def _drawn(part: Group | str, rules: Mapping[str, str], values: Mapping[str, str], rng: np.random.Generator) -> str:
    if isinstance(part, Group):
        if part.kind == "one":
            return _drawn(part.parts[int(rng.integers(len(part.parts)))], rules, values, rng)
        order = rng.permutation(len(part.parts)) if part.kind == "any order" else range(len(part.parts))
        between = " " if part.kind == "any order" else ""
        return between.join(_drawn(part.parts[place], rules, values, rng) for place in order)
    if not part.startswith(("<", "{")):
        return part
    name = part[1:-1].partition(":")[0]
    known = rules if part.startswith("<") else values
    if name not in known:
        raise _unknown(part, known)
    return _drawn(parse(rules[name]), rules, values, rng) if known is rules else values[name]


def named(template: str, rules: Mapping[str, str]) -> frozenset[str]:
    """Return the lists from which a template, or a rule that it names, may take a value.

    Args:
        template: of a sentence.
        rules: templates by name.

    Raises:
        DataError: there is no such rule.
    """
    return _named(parse(template), rules)


def _named(part: Group | str, rules: Mapping[str, str]) -> frozenset[str]:
    if isinstance(part, Group):
        return frozenset().union(*(_named(inner, rules) for inner in part.parts))
    name = part[1:-1].partition(":")[0]
    if part.startswith("<"):
        if name not in rules:
            raise _unknown(part, rules)
        return _named(parse(rules[name]), rules)
    return frozenset({name} if part.startswith("{") else ())


def _unknown(part: str, known: Mapping[str, str]) -> DataError:
    return DataError("a template names what is not there", got=f"'{part}'", expected=", ".join(sorted(known)))
