"""Texts out of WordNet: how its file is read, and what is made of an entry; needs the package for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.datasets.stamps import debian, glosses
from edgefuse.datasets.stamps.glosses import Entry, Glosses, caption, read
from edgefuse.errors import DataError

FILE = """\
  1 This software and database is being provided to you, the LICENSEE, by
00058743 04 n 02 escape 0 great_flight 1 010 @ 00046177 n 0000 + 02075480 v 0201 | the act of fleeing; \
"he made his escape from the ward"; "the canary escaped"
02131653 05 n 01 Otter_(animal) 0 001 @ 02131418 n 0000 | a furry swimmer; lives in rivers
"""


def test_an_entry_has_names_a_meaning_and_examples() -> None:
    escape, otter = read(FILE)
    examples = ("he made his escape from the ward", "the canary escaped")
    assert escape == Entry(("escape", "great flight"), "the act of fleeing", examples)
    assert otter == Entry(("Otter (animal)",), "a furry swimmer; lives in rivers")


def test_entries_become_texts_in_the_forms_of_captions() -> None:
    escape, otter = read(FILE)
    texts = {caption(entry, np.random.default_rng(seed)) for entry in (escape, otter) for seed in range(200)}
    assert {"An escape.", "great flight", "The canary escaped"} & texts == {"An escape.", "great flight"}
    assert {"the canary escaped", "the act of fleeing", "An Otter (animal) (a furry swimmer; lives in"} <= texts
    assert max(len(text.split()) for text in texts) <= 14
    assert all(texts)


def test_texts_are_a_pure_function_of_seed_and_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glosses, "entries", lambda: tuple(read(FILE)))
    samples = Glosses(40, seed=3)
    assert len(samples) == 40
    assert [sample.inputs for sample in samples] == [sample.inputs for sample in Glosses(40, seed=3)]
    assert [sample.inputs for sample in samples] != [sample.inputs for sample in Glosses(40, seed=4)]
    assert all(list(sample.inputs) == ["text"] for sample in samples)


def test_the_package_is_read_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []

    def members(package: str, version: str, *_: object) -> dict[str, bytes]:
        fetched.append(f"{package} {version}")
        return {"usr/share/wordnet/data.noun": FILE.encode()}

    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr(debian, "members", members)
    for _ in range(2):
        glosses.entries.cache_clear()
        assert glosses.entries() == tuple(read(FILE))
    glosses.entries.cache_clear()
    assert fetched == ["wordnet-base 1:3.0-37"]


def test_a_package_without_the_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr(debian, "members", lambda *_: {})
    glosses.entries.cache_clear()
    with pytest.raises(DataError, match=r"wordnet-base 1:3\.0-37 has no file 'usr/share/wordnet/data\.noun'"):
        glosses.entries()


def test_wordnet_names_tens_of_thousands_of_things() -> None:
    glosses.entries.cache_clear()
    try:
        known = glosses.entries()
    except DataError as error:
        pytest.skip(f"not checked: what the package of WordNet holds: {error}")
    assert len(known) == 82_115
    assert all(entry.names and entry.meaning for entry in known)
    assert any("mourning dove" in entry.names for entry in known)
