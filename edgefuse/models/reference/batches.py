"""Batches of a training: samples as tensors, with the code that a device runs, and the subsets they are fused under."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgefuse.bundle.spec import ModelSpec
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError
from edgefuse.runtime.preprocess import Preprocessor

Prepare = Callable[[Sample], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Batch:
    """Prepared samples.

    Attributes:
        inputs: `"<modality>.<tensor>"` to a tensor with the batch first, as `FusionModel.encode` takes them.
        targets: int64 [B].
    """

    inputs: Mapping[str, Tensor]
    targets: Tensor


class Described(Protocol):
    """What a model says of its inputs."""

    @property
    def spec(self) -> ModelSpec:
        """The modalities and the outputs."""

    @property
    def assets(self) -> Mapping[str, bytes]:
        """Files that preprocessing needs, by name."""


class Preprocess:
    """Turn samples into the tensors of a model's modalities, with the code that a device runs."""

    def __init__(self, model: Described) -> None:
        self._readers = {m.name: Preprocessor(m, model.assets.__getitem__) for m in model.spec.modalities}

    def __call__(self, sample: Sample) -> dict[str, npt.NDArray[Any]]:
        """Return every tensor, a batch of one, under `"<modality>.<tensor>"` or `"<modality>.length"`."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        for name, read in self._readers.items():
            tensors.update(read(sample.inputs[name]))
        return tensors


def stacked(samples: Sequence[Sample], prepare: Prepare) -> dict[str, Tensor]:
    """Return the inputs of samples, stacked; `prepare` gives arrays with a batch of one first.

    Raises:
        DataError: there are no samples.
    """
    if not samples:
        raise DataError("a batch has no samples", got="none", expected="at least one")
    prepared = [prepare(sample) for sample in samples]
    return {name: torch.from_numpy(np.concatenate([item[name] for item in prepared])) for name in prepared[0]}


def collate(samples: Sequence[Sample], prepare: Prepare) -> Batch:
    """Return samples as a batch; see `stacked`."""
    return Batch(stacked(samples, prepare), torch.tensor([sample.target for sample in samples], dtype=torch.int64))


def subset_rows(spec: ModelSpec) -> Tensor:
    """Return a row of `present` for every admissible subset of the modalities, float32 [subsets, modalities]."""
    names = [modality.name for modality in spec.modalities]
    return torch.tensor([[float(name in subset) for name in names] for subset in spec.subsets()])
