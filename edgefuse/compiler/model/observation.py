"""What the inputs of a model look like: read from a few samples, before the model is taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgefuse.bundle.spec import ModelSpec
from edgefuse.compiler.model.samples import read_sample
from edgefuse.compiler.model.splits import preprocessors_of
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.datasets.sample import Splits
from edgefuse.errors import DataError, EdgefuseError
from edgefuse.stages.stage import Array, InputValues
from edgefuse.stages.values import observed

_OBSERVED = 32
"""Samples that ranges are found in."""


def input_values(spec: ModelSpec, assets: Mapping[str, bytes], data: Splits) -> tuple[InputValues, ...]:
    """Return what the inputs of a model look like in its first calibration samples; nothing of what cannot be read.

    Args:
        spec: of the model.
        assets: files that preprocessing needs, by name.
        data: of the recipe.
    """
    try:
        return observed(list(_readable(spec, assets, data)))
    except (EdgefuseError, KeyError):  # a tokenizer that is missing or damaged, a split that is none
        return ()


def _readable(spec: ModelSpec, assets: Mapping[str, bytes], data: Splits) -> Iterator[dict[str, Array]]:
    """Yield the tensors by key of each sample that fits the model."""
    preprocessors = preprocessors_of(spec, assets)
    with users_code("the calibration split has no length", DataError):
        count = min(len(data.calibration), _OBSERVED)
    for index in range(count):
        try:
            sample = read_sample("calibration", index, data.calibration, spec)
            yield {key: v for name, raw in sample.inputs.items() for key, v in preprocessors[name](raw).items()}
        except EdgefuseError:
            continue
