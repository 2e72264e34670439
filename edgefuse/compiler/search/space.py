"""All combinations of candidates at once, as arrays: one row per combination, the last stage varying fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from edgefuse.compiler.search.figures import Floats

_MAX_ENUMERATED = 100_000


def sums(options: Sequence[Sequence[int]], values: Floats) -> Floats:
    """Add up the figures of the parts of every combination.

    Args:
        options: candidate indices by stage.
        values: float64 [candidates, columns].

    Returns:
        float64 [combinations, columns], the last stage varying fastest.
    """
    total = np.zeros((1, values.shape[1]))
    for own in options:
        total = (total[:, None, :] + values[None, list(own), :]).reshape(-1, values.shape[1])
    return total


def repeated(options: Sequence[Sequence[int]], values: Floats, files: Sequence[str]) -> Floats:
    """Add up the figures of parts whose file an earlier stage of the combination runs, too.

    Args:
        options: candidate indices by stage.
        values: float64 [candidates, columns].
        files: of the candidates; empty where it is not known.

    Returns:
        float64 [combinations, columns], the last stage varying fastest.
    """
    counts = [len(own) for own in options]
    total = np.zeros((*counts, values.shape[1]))
    for later, own in enumerate(options):
        again = np.zeros(counts, bool)
        for earlier, others in enumerate(options[:later]):
            same = np.array([[bool(files[j]) and files[i] == files[j] for j in own] for i in others])
            again |= same.reshape([count if at in (earlier, later) else 1 for at, count in enumerate(counts)])
        part = values[list(own)].reshape([*(n if at == later else 1 for at, n in enumerate(counts)), -1])
        total += again[..., None] * part
    return np.asarray(total.reshape(-1, values.shape[1]), np.float64)


def position_of(indices: Sequence[int], options: Sequence[Sequence[int]]) -> int:
    """Return the row of a combination in the result of `sums`."""
    position = 0
    for index, own in zip(indices, options, strict=True):
        position = position * len(own) + own.index(index)
    return position


def thinned(options: list[list[int]], cost: Floats, effect: Floats) -> list[list[int]]:
    """Leave out candidates until few enough combinations remain: first dominated ones, then near twins.

    Args:
        options: candidate indices by stage.
        cost: of each candidate.
        effect: of each candidate in its worst subset.
    """
    if math.prod(map(len, options)) <= _MAX_ENUMERATED:
        return options
    kept = []
    for own in options:
        frontier: list[int] = []
        for i in sorted(own, key=lambda i: (cost[i], effect[i], i)):
            if not frontier or effect[i] < effect[frontier[-1]]:
                frontier.append(i)
        kept.append(frontier)
    while math.prod(map(len, kept)) > _MAX_ENUMERATED:
        longest = max(kept, key=len)
        gaps = [cost[b] - cost[a] for a, b in itertools.pairwise(longest)]
        del longest[1 + int(np.argmin(gaps[1:])) if len(longest) > 2 else 0]
    return kept
