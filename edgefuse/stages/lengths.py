"""Let torch trace `len(x)` as the size that `x.shape[0]` is.

Python makes a plain number of whatever `len` returns, which fixes the size for all calls to come: most often that of
the batch, in `expand(len(x), -1, -1)`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def open_lengths() -> Iterator[None]:
    """Within it, `len` of a tensor is its first size, which may be open while torch traces."""
    plain = builtins.len

    def length(given: Any, /) -> Any:
        return given.shape[0] if isinstance(given, Tensor) and given.ndim else plain(given)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain
