"""Keep drawings of one thing together, and deal such groups out to the splits.

Two stamps of a category are of one thing if their captions name it with the same head word ("A red apple." and "An
apple core."), if their files are called after it (`apple_red.png`, `apple-cartoon.png`), or if the pictures are nearly
the same. Groups are the transitive closure, so no split holds a recoloured, mirrored or renamed copy of another's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.stamps.material import CATEGORIES, Material, Stamp

_COLOURS = "red green blue yellow white black brown pink purple orange grey gray silver golden gold colorful"
_MANNERS = "big small large little huge tiny very open closed lit old another cartoon photo silo left right up down"
_VARIANTS = frozenset(f"{_COLOURS} {_MANNERS} a an the two some pair bunch cluster string head it s".split())
_ALIKE = 0.95
"""How pictures of one thing correlate at the least."""

_CLAUSE_ENDS = re.compile(r"[.,!?;:(]|\b(?:of|for|with|in|at|on|by|from|to|is|are|that|means|inside)\b|-{1,2}\B")


def groups(material: Material) -> list[list[int]]:
    """Return the stamps in groups that belong together, each ascending, in the order of their first stamp."""
    parents = list(range(len(material.stamps)))

    def root(index: int) -> int:
        while parents[index] != index:
            index = parents[index]
        return index

    for bucket in _buckets(material):
        for other in bucket[1:]:
            first, second = sorted((root(bucket[0]), root(other)))
            parents[second] = first
    members: dict[int, list[int]] = {}
    for index in range(len(parents)):
        members.setdefault(root(index), []).append(index)
    return list(members.values())


def deal(material: Material, shares: Mapping[str, float], seed: int) -> dict[str, tuple[int, ...]]:
    """Deal whole groups out so that every split gets about its share of the stamps of every category.

    Args:
        material: the stamps.
        shares: fraction of the stamps per split; they add up to one.
        seed: of the order in which groups are dealt.

    Returns:
        Stamps per split, ascending.
    """
    rng = np.random.default_rng(seed)
    together = groups(material)
    dealt: dict[str, list[int]] = {split: [] for split in shares}
    for category in range(len(CATEGORIES)):
        own = [group for group in together if material.stamps[group[0]].category == category]
        # The largest first, so that what is left can even it out; within a size, at random.
        order = sorted(rng.permutation(len(own)).tolist(), key=lambda place: -len(own[place]))
        wanted = {split: share * sum(map(len, own)) for split, share in shares.items()}
        for place in order:
            split = max(wanted, key=lambda name: wanted[name])
            dealt[split] += own[place]
            wanted[split] -= len(own[place])
    return {split: tuple(sorted(stamps)) for split, stamps in dealt.items()}


def unlike(others: Material, known: Material) -> list[int]:
    """Return the stamps of `others` that are of no thing in `known`, by the same three signs across all categories."""
    heads = {_head(stamp.caption) for stamp in known.stamps} - {""}
    names = {_name(stamp) for stamp in known.stamps} - {""}
    near = _nearness(others.pictures, known.pictures).max(axis=1) > _ALIKE
    return [
        index
        for index, stamp in enumerate(others.stamps)
        if _head(stamp.caption) not in heads and _name(stamp) not in names and not near[index]
    ]


def _buckets(material: Material) -> Iterable[list[int]]:
    """Yield lists of stamps that belong together."""
    keyed: dict[tuple[int, str, str], list[int]] = {}
    for index, stamp in enumerate(material.stamps):
        for kind, key in (("caption", _head(stamp.caption)), ("file", _name(stamp))):
            if key:
                keyed.setdefault((stamp.category, kind, key), []).append(index)
    yield from keyed.values()
    yield from _alike(material)


def _head(caption: str) -> str:
    """Return the last word of the caption's first clause: 'apple' of "A red apple on a plate."."""
    clauses = (re.findall(r"[a-z]+", clause) for clause in _CLAUSE_ENDS.split(caption.lower()) if clause)
    words = next((kept for words in clauses if (kept := [word for word in words if word not in _VARIANTS])), [])
    return words[-1].removesuffix("s") if words else ""


def _name(stamp: Stamp) -> str:
    """Return the first word of a file's name that says what, not which: 'apple' of `apple_red_2.png`."""
    path = PurePosixPath(stamp.path)
    if path.parts[1:2] == ("money",):
        return "/".join(path.parts[1:3])  # the coins of one country
    words = re.findall(r"[a-z]+", path.stem.lower())
    return next((word for word in words if len(word) > 1 and word not in _VARIANTS), "")


def _alike(material: Material) -> Iterable[list[int]]:
    """Yield pairs of one category whose pictures are nearly the same."""
    close = _nearness(material.pictures, material.pictures) > _ALIKE
    categories = np.array([stamp.category for stamp in material.stamps])
    close &= categories[:, None] == categories[None, :]
    for first, second in np.argwhere(np.triu(close, 1)):
        yield [int(first), int(second)]


def _nearness(pictures: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return how pictures correlate, 16 × 16 on grey and also mirrored, float64 [pictures, others]."""
    small, upright = _thumbnails(pictures), _normalised(_thumbnails(others))
    return np.maximum(_normalised(small) @ upright.T, _normalised(small[:, :, ::-1]) @ upright.T)


def _thumbnails(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the pictures [N, 160, 160, 4] on middle grey at a tenth of their size, float64 [N, 16, 16, 3]."""
    scaled: list[npt.NDArray[np.float64]] = []
    for picture in pictures:
        alpha = picture[..., 3:] / 255.0
        on_grey = picture[..., :3] * alpha + 128.0 * (1 - alpha)
        side = on_grey.shape[0] // 16
        scaled.append(on_grey.reshape(16, side, 16, side, 3).mean(axis=(1, 3)))
    return np.stack(scaled)


def _normalised(small: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows of mean zero and length one."""
    rows = small.reshape(len(small), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9))
