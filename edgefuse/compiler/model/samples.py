"""Whether a sample fits the model: found out when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgefuse.bundle.spec import Modality, ModelSpec, TensorPreprocess
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
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


def group_number(name: str, index: int, group: object) -> Array:
    """Return a number for the group of a sample, int64 [1]: the same for the same group in all splits.

    Args:
        name: of the split.
        index: of the sample in it.
        group: as the data set gave it; None is a group of its own.

    Raises:
        DataError: if it is no name, number or None.
    """
    if not isinstance(group, str | int | np.integer | None):
        raise DataError(
            f"the group of sample {index} of '{name}' is of another type",
            got=type(group).__name__,
            expected="a name or a number, the same for items of the same thing, or None",
        )
    own = f"{name} {index}" if group is None else f"{'s' if isinstance(group, str) else 'n'}:{group}"
    digest = hashlib.blake2b(own.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.frombuffer(digest, np.int64)
