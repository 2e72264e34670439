"""The data of a model, made ready once: preprocessed, kept on disk, and held to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Provenance
from edgefuse.bundle.spec import ModelSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.given_tokens import given_tokens
from edgefuse.compiler.model.splits import CALIBRATION, SPLITS, TRAIN, UNLABELLED, SplitData, load_split
from edgefuse.compiler.model.subject import Model, Subject
from edgefuse.compiler.model.targets import missing
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.datasets.cache import Cache
from edgefuse.datasets.sample import Splits
from edgefuse.errors import DataError
from edgefuse.progress import Progress


def prepare(model: Model, cache: Cache, progress: Progress) -> Subject:
    """Preprocess the data of a model (or find them in the cache), and check that they fit it.

    Args:
        model: taken apart, with its data.
        cache: that keeps preprocessed samples.
        progress: is told how many samples are done.

    Raises:
        DataError: model and data do not fit together.
    """
    for fault in split_faults(model):
        raise fault
    splits = {name: _loaded(name, model, cache, progress) for name in wanted_splits(model)}
    counts = {name: {output: len(one.items) for output, one in splits[name].targets.items()} for name in SPLITS[1:]}
    for fault in missing(counts, model.metrics):
        raise fault
    return _subject(model, splits)


def prepare_calibration(model: Model, cache: Cache, progress: Progress) -> Subject:
    """Preprocess the calibration samples of a model, which may be none, and nothing else; see `prepare`.

    Args:
        model: taken apart.
        cache: that keeps preprocessed samples.
        progress: is told how many samples are done.

    Raises:
        DataError: a sample does not fit the model, or no sample has one of the modalities.
    """
    return _subject(model, {CALIBRATION: _loaded(CALIBRATION, model, cache, progress)})


def _loaded(name: str, model: Model, cache: Cache, progress: Progress) -> SplitData:
    tokens = given_tokens(model.module, model.spec)
    return load_split(name, model.data, model.spec, model.metrics, model.assets, cache, progress, tokens)


def _subject(model: Model, splits: Mapping[str, SplitData]) -> Subject:
    for name, part in splits.items():
        for fault in coverage_faults(name, part.present, model.spec) if len(part) else ():
            raise fault
    data = "".join(part.digest for part in splits.values() if len(part))
    provenance = Provenance(
        weights_sha256=fingerprint.once(model.module),
        data_sha256=fingerprint.of_bytes(data.encode()) if data else "",
        recipe_sha256=fingerprint.of_bytes(msgspec.json.encode(model.recipe, order="sorted")),
        tools={},
    )
    return Subject(model.recipe, model.found, model.metrics, model.assets, splits, provenance)


def wanted_splits(model: Model) -> tuple[str, ...]:
    """Return the names of the splits that a compile reads: unlabelled items say something about accuracy alone."""
    train = (TRAIN,) if model.recipe.prune.wanted else ()
    of_use = any(metric.tells_right_from_wrong for metric in model.metrics.values())
    return (*SPLITS, *train, *((UNLABELLED,) if of_use and _some_unlabelled(model) else ()))


def _some_unlabelled(model: Model) -> bool:
    try:
        return _length(UNLABELLED, model.data, model.recipe.data.factory) > 0
    except DataError:
        return False  # `split_faults` says so


def split_faults(model: Model) -> Iterator[DataError]:
    """Yield what is wrong with the splits as such; their samples are not read."""
    path, recipe, data = model.path, model.recipe, model.data
    if not isinstance(data.digest, str) or not data.digest or not data.digest.isprintable():
        yield DataError(
            f"the data of '{recipe.data.factory}' have no digest",
            got=repr(data.digest),
            expected="a string that differs wherever the samples do: results are kept under it",
            fix="set digest= in Splits, to a hash of the files, or a name and a version",
        )
    lengths: dict[str, int] = {}
    for name in (*SPLITS, TRAIN, UNLABELLED):
        try:
            lengths[name] = _length(name, data, recipe.data.factory)
        except DataError as error:
            yield error
    for name in SPLITS:
        if lengths.get(name) == 0:
            yield DataError(f"the split '{name}' of '{recipe.data.factory}' is empty", expected="at least one sample")
    if recipe.prune.wanted and lengths.get(TRAIN) == 0:
        yield DataError(
            f"the recipe {path} prunes, but '{recipe.data.factory}' gives no training samples",
            got="an empty `train` in its Splits",
            expected="samples to recover on (labels are not used)",
            fix="fill Splits.train, or leave [prune] out",
        )


def coverage_faults(name: str, present: npt.NDArray[np.bool_], spec: ModelSpec) -> Iterator[DataError]:
    """Yield what no sample of a split has; unlabelled samples may lack whatever they lack.

    Args:
        name: of the split.
        present: [items, modalities], which modalities each sample has.
        spec: of the model.
    """
    if name == UNLABELLED:
        return
    for modality, count in zip(spec.modalities, present.sum(axis=0), strict=True):
        if not count:
            yield DataError(
                f"no sample of the split '{name}' has the modality '{modality.name}'",
                got=f"0 of {len(present)}",
                expected="at least one",
                fix="check how the modalities are paired: edgefuse.datasets.samples pairs columns",
            )
    names = [modality.name for modality in spec.modalities]
    for subset in spec.subsets() if name in SPLITS[1:] else ():
        if not present[:, [names.index(one) for one in subset]].all(axis=1).any():
            yield DataError(
                f"no sample of the split '{name}' has all of {subset_name(subset)}, which is judged",
                got=f"0 of {len(present)}",
                expected="at least one",
            )


def _length(name: str, data: Splits, factory: str) -> int:
    with users_code(f"the split '{name}' of '{factory}' has no length", DataError):
        return len(getattr(data, name))
