"""How often the right one is among the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]


def recall(
    queries: Points, wanted: npt.NDArray[np.int64], gallery: Points, names: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return the fraction of queries whose nearest, or one of whose five nearest, is the wanted one.

    Args:
        queries: points of length one, [Q, size].
        wanted: the name that each query should find, [Q].
        gallery: points of length one, [G, size].
        names: of the gallery, [G], each once.

    Returns:
        `{"at_1": …, "at_5": …}`.
    """
    similarity = queries @ gallery.T
    column = {name: place for place, name in enumerate(names.tolist())}
    own = similarity[np.arange(len(wanted)), [column[name] for name in wanted.tolist()]][:, None]
    rank = (similarity > own).sum(axis=1)
    return {f"at_{depth}": float((rank < depth).mean()) for depth in (1, 5)}
