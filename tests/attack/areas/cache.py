"""Damaged entries of the cache, of every kind: each must count as missing, once, and be made anew."""

from __future__ import annotations

import io
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edgefuse.datasets.cache import Cache, open_cache
from edgefuse.errors import CacheError
from tests.attack import damage
from tests.attack.attempt import Area, Attempt
from tests.attack.entries import KINDS


@dataclass(frozen=True)
class Made:
    """A cache with an entry of each kind: where it lies under the folder, and what it says."""

    folder: Path
    places: Mapping[str, Path]
    answers: Mapping[str, object]


def make(folder: Path) -> Made:
    """Fill a cache."""
    torch.set_num_threads(1)  # no thread that a child would miss
    cache = opened(folder)
    places, answers, known = {}, {}, set[Path]()
    for name, read in KINDS.items():
        answers[name] = read(cache)
        found = {path.relative_to(folder) for path in folder.glob("*/*") if path.suffix != ".lock"}
        (places[name],) = found - known
        known |= found
    (file,) = (path for path in (folder / places["package"]).iterdir() if path.suffix != ".lock")
    return Made(folder, {**places, "package": file.relative_to(folder)}, answers)


def opened(folder: Path) -> Cache:
    """Open the cache in a folder, for what finds it by the environment, too."""
    os.environ["EDGEFUSE_CACHE"] = str(folder)
    return open_cache(folder)


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield damaged caches: one entry's files, a whole entry, two entries exchanged, what lies beside an entry."""
    made = make(folder / "made")
    while True:
        name, seed = rng.choice(sorted(KINDS)), rng.randrange(2**32)
        what, run = rng.choices((_content, _place, _exchanged, _beside, _open), (10, 4, 3, 2, 1))[0](made, name, rng)

        warned = what.startswith(_WRITABLE)

        def tried(name: str = name, seed: int = seed, run: _Damage = run, warned: bool = warned) -> None:
            said = _check(made, folder / f"{os.getpid()}", name, lambda copy: run(copy, random.Random(seed)))
            assert not warned or _WRITABLE in said, said

        yield Attempt(f"{what}, {name}, {seed}", tried)


_Damage = Callable[[Path, random.Random], None]


def _content(made: Made, name: str, rng: random.Random) -> tuple[str, _Damage]:
    what = rng.choice(sorted(damage.CONTENT))
    return what, lambda copy, rng: damage.CONTENT[what](copy / made.places[name], rng)


def _place(made: Made, name: str, rng: random.Random) -> tuple[str, _Damage]:
    what = rng.choice(sorted(damage.PLACE))
    return what, lambda copy, rng: damage.PLACE[what](copy / made.places[name], rng)


def _exchanged(made: Made, name: str, rng: random.Random) -> tuple[str, _Damage]:
    other = rng.choice(sorted(set(KINDS) - {name}))

    def exchange(copy: Path, rng: random.Random) -> None:
        one, two = copy / made.places[name], copy / made.places[other]
        two.rename(copy / "aside")
        if rng.random() < 0.5:
            one.rename(two)
        elif one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()
        (copy / "aside").rename(one)

    return f"the bytes of {other} in its place", exchange


def _beside(made: Made, name: str, rng: random.Random) -> tuple[str, _Damage]:
    place = made.places[name]
    what = rng.choice(("a lock that is ", "a folder of its kind that is "))
    kind = rng.choice(("file", "link", "pipe", "folder"))

    def damaged(copy: Path, rng: random.Random) -> None:
        if what.startswith("a lock"):
            lock = copy / f"{place}.lock"
            lock.touch()
            damage.PLACE[f"whole_{kind}"](lock, rng)
            damage.PLACE["whole_remove"](copy / place, rng)
        else:
            damage.PLACE[f"whole_{kind}"](copy / place.parts[0], rng)

    return f"{what}a {kind}", damaged


_WRITABLE = "others can write to "


def _open(made: Made, name: str, rng: random.Random) -> tuple[str, _Damage]:
    kind = rng.choice(("the cache", "the folder of its kind"))
    mode = rng.choice((0o777, 0o775, 0o722))

    def opened_to_others(copy: Path, rng: random.Random) -> None:
        place = copy if kind == "the cache" else copy / made.places[name].parts[0]
        place.chmod(mode)

    return f"{_WRITABLE}{kind}, {mode:o}", opened_to_others


def _check(made: Made, copy: Path, name: str, run: Callable[[Path], None]) -> str:
    """Damage a copy of the cache and read an entry out of it, twice; return what was logged."""
    shutil.copytree(made.folder, copy)
    run(copy)
    said = io.StringIO()
    logging.basicConfig(stream=said, level=logging.WARNING, force=True)
    try:
        for _ in range(2):
            assert KINDS[name](opened(copy)) == made.answers[name], "another answer"
    except CacheError as error:
        if "Fix: " not in str(error) or "\n" in str(error):
            raise RuntimeError("a refusal that is not one sentence with a fix") from error
        raise
    assert said.getvalue().count("made anew") + said.getvalue().count("fetched anew") <= 1, said.getvalue()
    return said.getvalue()


AREA = Area("cache", attempts, tries=1_000, short=60)
