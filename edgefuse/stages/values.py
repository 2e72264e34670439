"""What the inputs of a model look like: found in calibration samples, so that generated inputs look alike.

Only ranges are kept, never a sample: generated inputs travel in bundles, and are no person's voice or picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgefuse.stages.stage import Array, InputValues, TorchStage

_MOST_COLUMNS = 512
"""Beyond so many, places along the last axis are moments of a signal and not columns of a table."""

_FEWEST_SAMPLES = 8
"""Below it the mean of a column would tell a sample."""

_MOST_ORDERED = 8
"""Columns of a box and the like; of more, too many pairs would seem to be in order by chance."""

_FEWEST_ORDERED = 32
"""Rows in which one column is never more than another: half of them would be if there were no order."""

_PATCH = 8
"""Pixels of a generated picture that have one grey level: white noise has no edges, which networks look for."""


def observed(samples: Sequence[Mapping[str, Array]]) -> tuple[InputValues, ...]:
    """Return what the values under each key look like.

    Args:
        samples: arrays by key, batch first; what is absent in a sample is left out of it.
    """
    keys = dict.fromkeys(key for sample in samples for key in sample)
    return tuple(_of(key, [sample[key] for sample in samples if key in sample]) for key in keys)


def with_values(stages: Sequence[TorchStage], values: tuple[InputValues, ...]) -> tuple[TorchStage, ...]:
    """Return stages that know what their inputs look like."""
    return tuple(
        replace(stage, values=tuple(v for v in values if v.key in {port.source.key for port in stage.spec.inputs}))
        for stage in stages
    )


def generated(values: InputValues, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    """Return an array that looks like what was observed.

    Args:
        values: what was.
        shape: of the array, batch first.
        dtype: its type.
        rng: of the noise.
    """
    low, high, mean, deviation = (
        np.broadcast_to(_fitting(getattr(values, name), shape), shape) for name in ("low", "high", "mean", "deviation")
    )
    if dtype == "uint8" and len(shape) in (4, 5):
        picture = _picture((1, *shape[-3:]), float(low.min()), float(high.max()), rng)
        return picture if len(shape) == 4 else _panned(picture, shape[1])
    if values.whole:
        drawn = rng.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True).astype(dtype)
    else:
        drawn = np.clip(mean + deviation * rng.standard_normal(shape), low, high).astype(dtype)
    return _in_order(drawn, values.ordered)


def _of(key: str, arrays: Sequence[npt.NDArray[np.generic]]) -> InputValues:
    steps = [array.shape[1] if array.ndim > 1 else 1 for array in arrays]
    width = arrays[0].shape[-1] if arrays[0].ndim > 1 else 0
    if arrays[0].ndim == 5 and arrays[0].dtype == np.uint8:  # of a clip one frame tells enough, and all take gigabytes
        arrays = [array[:, :1] for array in arrays]
    columns = len(arrays) >= _FEWEST_SAMPLES and 1 < width <= _MOST_COLUMNS
    columns = columns and len({array.shape[-1] for array in arrays}) == 1
    flat = np.concatenate([array.reshape(-1, width if columns else 1).astype(np.float64) for array in arrays])
    return InputValues(
        key=key,
        low=tuple(flat.min(axis=0).tolist()),
        high=tuple(flat.max(axis=0).tolist()),
        mean=tuple(flat.mean(axis=0).tolist()),
        deviation=tuple(flat.std(axis=0).tolist()),
        whole=bool((flat == np.round(flat)).all()),
        steps=(min(steps), max(steps)),
        ordered=_order(flat) if columns else (),
    )


def _order(rows: npt.NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of columns that are in order in every row, though their ranges alone do not say so."""
    count, width = rows.shape
    if count < _FEWEST_ORDERED or width > _MOST_ORDERED:
        return ()
    low, high = rows.min(axis=0), rows.max(axis=0)
    pairs = ((first, second) for first in range(width) for second in range(width) if first != second)
    return tuple(
        (first, second)
        for first, second in pairs
        if high[first] > low[second] and (rows[:, first] <= rows[:, second]).all()
    )


def _in_order(drawn: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """Exchange values of a row until each pair of columns is in order; ranges hold, for those of a pair overlap so."""
    for _ in range(_MOST_ORDERED if pairs else 0):
        for first, second in pairs:
            small, large = drawn[..., first].copy(), drawn[..., second].copy()
            drawn[..., first], drawn[..., second] = np.minimum(small, large), np.maximum(small, large)
    return drawn


def _fitting(numbers: tuple[float, ...], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return numbers by column, or one for all where an array has another width than was observed."""
    found = np.array(numbers)
    return found if len(numbers) in (1, shape[-1]) else found.mean(keepdims=True)


def _picture(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> Array:
    _, height, width, channels = shape
    coarse = (-(-height // _PATCH), -(-width // _PATCH), channels)
    grid = rng.uniform(low, high, coarse).repeat(_PATCH, axis=0).repeat(_PATCH, axis=1)[:height, :width]
    noisy = grid + rng.normal(0, 0.02 * (high - low), grid.shape)
    picture: Array = np.clip(noisy, low, high).astype(np.uint8)[None]
    return picture


def _panned(picture: Array, frames: int) -> Array:
    """Return a clip that pans over a picture, uint8 [1, frames, height, width, channels]."""
    return np.stack([np.roll(picture, frame, axis=2) for frame in range(frames)], axis=1)
