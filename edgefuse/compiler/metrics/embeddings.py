"""Metrics of retrieval: embeddings, [n, size], each of which is to find its like among the others, by their cosine.

Against the index of a group (int [n]) an item's like is any other of its group; against another output of the same
items ([n, size]) it is that of its own item, as of a picture and its text. Both stand in the space of one model: the
one that is judged embeds what is searched, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.compiler.metrics.values import METRICS as VALUES
from edgefuse.errors import MeasureError

_BLOCK = 1024
"""Items that are compared with all others at a time."""


def _ranks(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the place of the nearest like of each item among all that it could be taken for, from 1; float64 [m].

    An item of a group that has no other is found by nobody: it has no row.
    """
    found = unit(outputs)
    grouped = targets.ndim == 1
    others = found if grouped else unit(targets)
    if found.shape != others.shape:
        raise MeasureError(
            "embeddings that are to find each other differ in size", got=f"{outputs.shape} and {targets.shape}"
        )
    places = [_places(found, others, targets, start, grouped) for start in range(0, len(found), _BLOCK)]
    rank = np.concatenate(places)
    if not np.isfinite(rank).any():
        raise MeasureError(
            "there is nothing to find: no two items are of one group",
            got=f"{len(targets)} groups of {len(targets)} items",
            expected="targets that some items share",
        )
    return (rank[np.isfinite(rank)],)


def _among_first(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Tell of each item whether one of its like is among the `k` nearest."""
    (rank,) = _ranks(outputs, targets, asked)
    return ((rank <= asked.k).astype(np.float64),)


def unit(vectors: Array) -> Array:
    """Return vectors of length 1, float64 [n, size]; zero stays zero."""
    exact = vectors.reshape(len(vectors), -1).astype(np.float64)
    long: Array = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-30)
    return long


def _places(found: Array, others: Array, targets: Array, start: int, grouped: bool) -> Array:
    """Return the ranks of a block of items; infinite where an item has no like."""
    mine = np.arange(start, min(start + _BLOCK, len(found)))
    near = found[mine] @ others.T
    like = targets[mine, None] == targets if grouped else mine[:, None] == np.arange(len(others))
    if grouped:
        near[np.arange(len(mine)), mine] = -np.inf
        like[np.arange(len(mine)), mine] = False
    best = np.where(like, near, -np.inf).max(axis=1)
    # What is as near as the like stands before it: a model that embeds all alike finds nothing.
    rank = 1.0 + ((near >= best[:, None]) & ~like & np.isfinite(near)).sum(axis=1)
    return np.where(np.isfinite(best), rank, np.inf)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "recall@k": Metric(_among_first, against="index"),
        "mean_rank": Metric(_ranks, lower_is_better=True, against="index"),
        **VALUES,
    }
)
