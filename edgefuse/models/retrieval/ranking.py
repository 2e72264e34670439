"""How well queries find what they are for: the rank of the right one, and what follows from ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]
Ranks = npt.NDArray[np.int64]

DEPTHS = (1, 5, 10)
_DRAWS = 2000


def ranks(queries: Points, wanted: Sequence[str], gallery: Points, names: Sequence[str]) -> Ranks:
    """Return the rank of the right one for each query, from 1, int64 [Q]; a tie counts against it.

    Args:
        queries: points of length one, [Q, size].
        wanted: the name that each query should find.
        gallery: points of length one, [G, size].
        names: of the gallery, each once.
    """
    nearness = queries @ gallery.T
    column = {name: place for place, name in enumerate(names)}
    own = nearness[np.arange(len(wanted)), [column[name] for name in wanted]]
    return np.asarray((nearness >= own[:, None]).sum(axis=1), np.int64)


def figures(found: Ranks) -> dict[str, float]:
    """Return recall at each depth, and the mean rank."""
    return {f"recall@{k}": float((found <= k).mean()) for k in DEPTHS} | {"mean_rank": float(found.mean())}


def chance(gallery: int) -> dict[str, float]:
    """Return the figures of guessing among some number of things."""
    return {f"recall@{k}": min(1.0, k / gallery) for k in DEPTHS} | {"mean_rank": (gallery + 1) / 2}


def interval(found: Ranks, things: Sequence[str], depth: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of recall at a depth; queries for one thing are drawn together.

    Args:
        found: ranks, [Q].
        things: that each query is for.
        depth: how many of the nearest count.
    """
    _, of_thing = np.unique(np.asarray(things), return_inverse=True)
    hits = np.bincount(of_thing, weights=found <= depth)
    counts = np.bincount(of_thing)
    drawn = np.random.default_rng(0).integers(len(counts), size=(_DRAWS, len(counts)))
    low, high = np.quantile(hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
