"""Whether a sample fits the model: found out when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgefuse.bundle.spec import ClassOutput, Modality, ModelSpec, TensorPreprocess
from edgefuse.bundle.wiring import width
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError, cited
from edgefuse.stages.stage import Array


def read_sample(name: str, index: int, samples: Sequence[Any], spec: ModelSpec) -> Sample:
    """Return a sample of the split `name` as the user's code gives it, if it fits the model: see `checked_sample`.

    Args:
        name: of the split.
        index: of the sample in it.
        samples: the split.
        spec: of the model.

    Raises:
        DataError: if it cannot be read, or does not fit.
    """
    with users_code(f"sample {index} of '{name}' cannot be read", DataError):
        given = samples[index]
    return checked_sample(name, index, given, spec)


def checked_sample(name: str, index: int, sample: Any, spec: ModelSpec) -> Sample:
    """Return a sample of the split `name` if it has modalities of the model, and all that the model requires.

    Args:
        name: of the split.
        index: of the sample in it.
        sample: as the data set gave it.
        spec: of the model.

    Raises:
        DataError: if it has not.
    """
    where = f"sample {index} of '{name}'"
    if not isinstance(sample, Sample) or not isinstance(sample.inputs, Mapping):
        raise DataError(
            f"{where} has the wrong type",
            got=type(sample).__name__,
            expected="edgefuse.datasets.Sample(inputs, target)",
        )
    known = [modality.name for modality in spec.modalities]
    for modality in sample.inputs:
        if modality not in known:
            raise DataError(f"{where} has an unknown modality", got=repr(modality), expected=" or ".join(known))
    for required in spec.modalities:
        if not required.optional and required.name not in sample.inputs:
            raise DataError(f"{where} lacks the required modality '{required.name}'")
    return replace(sample, inputs={name: _narrowed(spec.modality(name), raw) for name, raw in sample.inputs.items()})


def _narrowed(modality: Modality, raw: Any) -> Any:
    """Return int64 arrays, as torch has them, and truth values as the int32 of files, as far as every number fits."""
    if not isinstance(modality.preprocess, TensorPreprocess):
        return raw
    if isinstance(raw, Mapping):
        types = {tensor.name: tensor.dtype for tensor in modality.tensors}
        return {name: _as_int32(value) if types.get(name) == "int32" else value for name, value in raw.items()}
    return _as_int32(raw) if modality.tensors[0].dtype == "int32" else raw


def _as_int32(value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.int64, np.bool_):
        return value
    limits = np.iinfo(np.int32)
    fits = not value.size or value.dtype == np.bool_ or (value.min() >= limits.min and value.max() <= limits.max)
    return value.astype(np.int32) if fits else value


def checked_target(name: str, index: int, target: Any, spec: ModelSpec) -> Array:
    """Return the target of a sample as an array: int64 [1] for a class, float64 [values] otherwise.

    One type for all samples: whether a number of the user's is written `1` or `1.0` means nothing.

    Args:
        name: of the split.
        index: of the sample in it.
        target: as the data set gave it.
        spec: of the model.

    Raises:
        DataError: if it is no class of the model, or not as many finite numbers as the first output has.
    """
    output = spec.outputs[0]
    wrong = f"the target of sample {index} of '{name}' does not fit the model's output"
    if isinstance(output, ClassOutput):
        expected = f"a class from 0 to {len(output.labels) - 1}"
    else:
        expected = f"{width(output)} finite number" + "s" * (width(output) > 1)
    try:
        value = np.atleast_1d(np.asarray(target))
    except Exception as error:  # a list of unequal lists, a tensor that learns; what is not numpy's may raise anything
        got = f"{type(target).__name__}, which is no array ({cited(error)})"
        raise DataError(wrong, got=got, expected=expected) from error
    if isinstance(output, ClassOutput):
        if value.dtype.kind not in "iu" or value.shape != (1,) or not 0 <= value[0] < len(output.labels):
            raise DataError(wrong, got=repr(target), expected=expected)
        return value.astype(np.int64)
    if value.dtype.kind not in "iuf" or value.shape != (width(output),) or not np.isfinite(value).all():
        raise DataError(wrong, got=" ".join(repr(target).split()), expected=expected)
    return value.astype(np.float64)
