"""Calibration samples at hand, without labels and without a digest: their content identifies them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefuse.bundle.spec import ModelSpec, TextPreprocess
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.samples import read_sample
from edgefuse.datasets.sample import MadeSamples, Sample, Splits
from edgefuse.errors import DataError
from edgefuse.files import read_regular

_MAX_FILE_BYTES = 2**31 - 1


@dataclass(frozen=True)
class _Unlabelled(MadeSamples):
    """Samples, or their inputs alone; a label is not read."""

    given: Sequence[Any]

    def __len__(self) -> int:
        return len(self.given)

    def _sample(self, index: int) -> Sample:
        one = self.given[index]
        inputs = one.inputs if isinstance(one, Sample) else one
        return Sample(inputs) if isinstance(inputs, Mapping) else one


def calibration_of(call: Path, samples: object, spec: object) -> Splits:
    """Return calibration samples as the splits of a model, of which the others are empty.

    Args:
        call: what they were given to.
        samples: a sequence of samples, or of their raw inputs by modality.
        spec: of the model; nothing is read if it is something else.

    Raises:
        DataError: if they are no sequence, or one cannot be read or does not fit the model.
    """
    if not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        raise DataError(
            f"the argument 'calibration' of {call} is of another type",
            got=type(samples).__name__,
            expected="a sequence of samples, or of their inputs by modality",
            fix="make a list of it",
        )
    if not isinstance(spec, ModelSpec):
        return Splits((), (), (), "none")
    unlabelled = _Unlabelled(samples)  # type: ignore[arg-type] # what can be indexed will do
    return Splits(unlabelled, (), (), _digest(unlabelled, spec))


def _digest(samples: Sequence[Sample], spec: ModelSpec) -> str:
    """Return a hash of all inputs: of arrays, texts and the content of files."""
    texts = {modality.name for modality in spec.modalities if isinstance(modality.preprocess, TextPreprocess)}
    hashes = []
    for index in range(len(samples)):
        inputs = read_sample("calibration", index, samples, spec).inputs
        hashes.append(
            fingerprint.of_value({name: raw if name in texts else _content(raw) for name, raw in inputs.items()})
        )
    return fingerprint.of_bytes(" ".join(hashes).encode())


def _content(raw: Any) -> Any:
    """Return the content of a file, if one is named; what is wrong with it is said when it is read for good."""
    if not isinstance(raw, str | os.PathLike):
        return raw
    try:
        return read_regular(Path(raw), _MAX_FILE_BYTES)
    except (OSError, ValueError):
        return raw
