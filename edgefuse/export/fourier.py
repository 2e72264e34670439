"""The discrete Fourier transform of real samples in two factors, as weights of small matrix products.

A windowed DFT written as a strided convolution over samples, the form that lowers everywhere, costs K multiplications
per bin. With K = A * B, sample n = B a + b and bin k, X[k] = sum_b w^(b k) sum_a x[B a + b] w^(B a k), where
w = exp(-2 pi i / K): the inner sum depends on k mod A alone (Cooley and Tukey 1965, Math. Comp. 19). For real samples
the residues 0..A/2 give all powers, since bins k and K - k have the same. Both sums are small matrix products, and the
sum of the two squares of a bin is part of the product with the mel filters.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

_SMALLEST_FACTOR = 4
_BASIS_TOLERANCE = 1e-5
"""How far weights may be from a windowed DFT, which has numbers up to 1: float32 rounding of long phases."""


def factors(length: int) -> tuple[int, int]:
    """Return A and B with A * B = length, A at most B, as equal as they can be."""
    smaller = max(factor for factor in range(1, math.isqrt(length) + 1) if length % factor == 0)
    return smaller, length // smaller


def residue_transform(outer: int) -> Floats:
    """Return real and imaginary rows of w^(B a r) for the residues r in 0..A/2: [2 * residues, A]."""
    phase = 2 * np.pi * np.outer(np.arange(outer // 2 + 1), np.arange(outer)) / outer
    return np.stack([np.cos(phase), -np.sin(phase)], axis=1).reshape(-1, outer)


def bin_transforms(outer: int, inner: int) -> Floats:
    """Return, per residue r, the complex matrix w^(b k) for the bins k = r + A q as a real one: [residues, 2B, 2B].

    Rows are the real, then the imaginary parts of the sums over a; columns those of the bins.
    """
    phase = 2 * np.pi * np.arange(inner)[:, None] * _bins(outer, inner)[:, None, :] / (outer * inner)
    cosine, sine = np.cos(phase), np.sin(phase)
    return np.block([[cosine, -sine], [sine, cosine]])


def spread_filters(filters: Floats, outer: int, inner: int) -> Floats:
    """Return the rows of mel filters in the order of the squares: [residues * 2 * B, mels].

    A bin that occurs twice, as k and as K - k, counts the first time only.

    Args:
        filters: mel filters, float64 [bins, mels].
        outer: the outer factor of the transform's length.
        inner: the inner factor.
    """
    bins = _bins(outer, inner)
    folded = np.minimum(bins, outer * inner - bins).ravel()
    first = np.zeros(folded.size, bool)
    first[np.unique(folded, return_index=True)[1]] = True
    rows = (filters[folded] * first[:, None]).reshape(*bins.shape, -1)
    return np.concatenate([rows, rows], axis=1).reshape(-1, filters.shape[1])


def _bins(outer: int, inner: int) -> npt.NDArray[np.int64]:
    """Return the bins k = r + A q, [residues, B]."""
    return np.arange(outer // 2 + 1)[:, None] + outer * np.arange(inner)[None, :]


def window_of(basis: Floats) -> Floats | None:
    """Return the window of a windowed DFT, [2 * bins, K]: its row of frequency 0; None if not all others follow.

    It is None, too, where the length cannot be factored well.
    """
    length = basis.shape[1]
    bins = length // 2 + 1
    if basis.shape[0] != 2 * bins or factors(length)[0] < _SMALLEST_FACTOR:
        return None
    phase = 2 * np.pi * np.outer(np.arange(bins), np.arange(length)) / length
    cosine, sine = np.cos(phase) * basis[0], np.sin(phase) * basis[0]
    errors = (np.abs(np.concatenate([cosine, sign * sine]) - basis).max() for sign in (1, -1))
    return basis[0] if min(errors) <= _BASIS_TOLERANCE * np.abs(basis).max() else None
