"""The data of a compile: splits preprocessed by the code that devices run, once, and kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import (
    AudioPreprocess,
    CroppedImagePreprocess,
    ImagePreprocess,
    ModelSpec,
    RepeatedAudioPreprocess,
    TensorPreprocess,
    TextPreprocess,
    VideoPreprocess,
)
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.arrays import ArrayStore, write_arrays
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.model import targets
from edgefuse.compiler.model.given_tokens import GivenTokens
from edgefuse.compiler.model.samples import group_number, read_sample
from edgefuse.compiler.model.targets import Targets
from edgefuse.datasets.cache import Cache
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError, EdgefuseError
from edgefuse.graph.stage_graph import zeros_of
from edgefuse.progress import Progress
from edgefuse.runtime.decoding import TOKEN
from edgefuse.runtime.graph import zeros
from edgefuse.runtime.preprocess import Preprocessor

Array: TypeAlias = npt.NDArray[np.generic]

CALIBRATION = "calibration"
SPLITS = (CALIBRATION, "validation", "test")
TRAIN = "train"
UNLABELLED = "unlabelled"
_SOURCES = (  # no more than that: recoveries that take hours depend on a split
    "runtime/preprocess",
    "runtime/backends/backend.py",
    "runtime/graph.py",
    "compiler/model/splits.py",
    "compiler/model/samples.py",
    "compiler/model/targets.py",
    "compiler/cache/arrays.py",
)
_LIBRARIES = {
    ImagePreprocess: ("pillow",),
    CroppedImagePreprocess: ("pillow",),
    AudioPreprocess: ("soxr", "soundfile"),
    RepeatedAudioPreprocess: ("soxr", "soundfile"),
    TextPreprocess: ("tokenizers",),
    VideoPreprocess: ("av", "pillow"),
    TensorPreprocess: (),
}
"""What decodes, resamples and cuts up, by what a modality asks for: another version gives other tensors."""
_PRESENT, _GROUP = "#present", "#group"  # no value of a pipeline is called so


@dataclass(frozen=True)
class SplitData:
    """One split, preprocessed by the code that the device runs.

    `values` are the tensors of all modalities by key, zeros where absent; `targets` are those of each output that has
    any; `present`, bool [items, modalities], is what each item really has; `groups`, int64 [items], are equal for items
    of one group; `digest` identifies the content.
    """

    values: ArrayStore
    targets: Mapping[str, Targets]
    present: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return len(self.values)

    def with_subset(self, columns: Sequence[int]) -> npt.NDArray[np.intp]:
        """Return the indices of the items that have all of these modalities."""
        return np.flatnonzero(self.present[:, list(columns)].all(axis=1))


def load_split(
    name: str,
    data: Splits,
    spec: ModelSpec,
    metrics: Mapping[str, Metric],
    assets: Mapping[str, bytes],
    cache: Cache,
    progress: Progress,
    tokens: GivenTokens | None = None,
) -> SplitData:
    """Preprocess one split of a data set, or find it in the cache.

    Args:
        name: of the split.
        data: of the recipe.
        spec: of the model.
        metrics: what judges each output.
        assets: files that preprocessing needs, by name.
        cache: that keeps the arrays.
        progress: is told how many samples are done.
        tokens: gives a decoder its tokens, if the model has one.

    Raises:
        DataError: if a sample does not fit the model.
    """
    samples: Sequence[Sample] = getattr(data, name)
    key = [
        "split",
        name,
        data.digest,
        spec,
        {output: metric.name for output, metric in metrics.items()},
        {n: fingerprint.of_bytes(a) for n, a in assets.items()},
        fingerprint.of_source(*_SOURCES),
        _versions(spec),
        *([fingerprint.once(tokens.model)] if tokens else []),
    ]

    def make(folder: Path) -> None:
        write_arrays(folder, _preprocessed(name, samples, spec, metrics, assets, progress, tokens))

    folder = cache.entry("split", key, make)
    values = ArrayStore(folder)
    if not len(values):
        nothing = np.empty((0, len(spec.modalities)), bool)
        return SplitData(values, {}, nothing, np.empty(0, np.int64), folder.name)
    present, groups = values.stacked(_PRESENT).astype(bool), values.stacked(_GROUP)[:, 0].astype(np.int64)
    return SplitData(values, targets.read(values, metrics), present, groups, folder.name)


def _versions(spec: ModelSpec) -> dict[str, str]:
    """Return the versions of the libraries that a model's modalities go through, as far as they are installed."""
    found = {}
    for name in {name for modality in spec.modalities for name in _LIBRARIES[type(modality.preprocess)]}:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _preprocessed(
    name: str,
    samples: Sequence[Sample],
    spec: ModelSpec,
    metrics: Mapping[str, Metric],
    assets: Mapping[str, bytes],
    progress: Progress,
    tokens: GivenTokens | None,
) -> Iterator[dict[str, Array]]:
    preprocessors = preprocessors_of(spec, assets)
    absent = zeros(zero for modality in spec.modalities for zero in zeros_of(modality))
    for index in range(len(samples)):
        sample = read_sample(name, index, samples, spec)
        values = dict(absent)
        for modality, raw in sample.inputs.items():
            try:
                values |= preprocessors[modality](raw)
            except EdgefuseError as error:
                raise DataError(f"sample {index} of '{name}' is wrong: {error}") from error
        where, present = f"sample {index} of '{name}'", np.array([m.name in sample.inputs for m in spec.modalities])
        found = targets.columns(where, sample.target, metrics)
        if tokens:
            values[TOKEN] = tokens.of(where, sample.target, values, present)
        values[_PRESENT] = present.astype(np.uint8)
        values[_GROUP] = group_number(name, index, sample.group)
        yield values | found
        progress(index + 1, len(samples), f"preprocess {name}")


def preprocessors_of(spec: ModelSpec, assets: Mapping[str, bytes]) -> dict[str, Preprocessor]:
    """Return what prepares the raw inputs of each modality, by name."""
    return {modality.name: Preprocessor(modality, assets.__getitem__) for modality in spec.modalities}
