"""The approximate search of a large index, by a navigable graph of its vectors (HNSW, arXiv:1603.09320) of usearch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.errors import needing
from edgefuse.progress import Progress, silent
from edgefuse.runtime.retrieval.index import Hit, Index

_WIDER = 4
"""So many times more candidates are scored exactly than are asked for: the graph keeps vectors in 16 bits."""


class Graph:
    """A graph over an open index, for processes that search it often: made in memory, and never kept in a file.

    usearch, reading a damaged file of its own, ends the process by a signal. Searches may come from several threads.

    Args:
        index: stays open as long as the graph is used.
        threads: that make it; with more than one, graphs differ in their edges.
        progress: is told of vectors.

    Raises:
        MissingExtraError: if usearch is not installed.
        InputError: if the index is damaged.
    """

    def __init__(self, index: Index, *, threads: int = 1, progress: Progress = silent) -> None:
        with needing("approximate search", extra="search"):
            import usearch.index
        self._index = index
        self._graph: Any = usearch.index.Index(ndim=index.record.size, metric="ip", dtype="f16")
        for start, block in index.blocks():
            self._graph.add(np.arange(start, start + len(block)), block, threads=threads)
            progress(start + len(block), len(index), "connect vectors")

    def search(self, points: npt.ArrayLike, top: int = 10) -> list[list[Hit]]:
        """Return what is near to each point, the nearest first, with exact scores; some of the nearest may be missed.

        Args:
            points: float [Q, size], or [size] for one.
            top: how many items.

        Raises:
            InputError: if the points do not fit or have no direction, or `top` is below 1.
        """
        queries = self._index.queries(points, top)
        found = []
        for query in queries:
            near = self._graph.search(query, min(_WIDER * top, len(self._index)), threads=1)
            found.append(self._index.ranked(query, np.sort(near.keys.astype(np.int64)), top))
        return found
