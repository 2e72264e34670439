"""The data of a model, made ready once: preprocessed, kept on disk, and held to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from edgefuse.bundle.manifest import Provenance
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.data_checks import check_data, coverage_faults
from edgefuse.compiler.model.splits import CALIBRATION, SPLITS, TRAIN, SplitData, load_split
from edgefuse.compiler.model.subject import Model, Subject
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.datasets.cache import Cache
from edgefuse.datasets.sample import Splits
from edgefuse.errors import DataError
from edgefuse.progress import Progress

_OBSERVED = 32
"""Samples that ranges are found in."""


def open_data(model: Model) -> Splits:
    """Return the data of a model, of which only what inputs look like was read.

    Raises:
        DataError: a split that is needed is empty.
    """
    for fault in split_faults(model, model.data):
        raise fault
    return model.data


def prepare(model: Model, data: Splits, cache: Cache, progress: Progress) -> Subject:
    """Preprocess the data of a model (or find them in the cache), and check that they fit it.

    Args:
        model: taken apart.
        data: of the recipe.
        cache: that keeps preprocessed samples.
        progress: is told how many samples are done.

    Raises:
        DataError, MeasureError: model and data do not fit together.
    """
    names = wanted_splits(model.recipe)
    subject = _subject(model, {n: load_split(n, data, model.spec, model.assets, cache, progress) for n in names})
    check_data(subject)
    return subject


def prepare_calibration(model: Model, cache: Cache, progress: Progress) -> Subject:
    """Preprocess the calibration samples of a model, which may be none, and nothing else; see `prepare`.

    Args:
        model: taken apart.
        cache: that keeps preprocessed samples.
        progress: is told how many samples are done.

    Raises:
        DataError: a sample does not fit the model, or no sample has one of the modalities.
    """
    split = load_split(CALIBRATION, model.data, model.spec, model.assets, cache, progress)
    for fault in coverage_faults(CALIBRATION, split.present, model.spec) if len(split) else ():
        raise fault
    return _subject(model, {CALIBRATION: split})


def _subject(model: Model, splits: Mapping[str, SplitData]) -> Subject:
    data = "".join(part.digest for part in splits.values() if len(part))
    provenance = Provenance(
        weights_sha256=fingerprint.once(model.module),
        data_sha256=fingerprint.of_bytes(data.encode()) if data else "",
        recipe_sha256=fingerprint.of_bytes(msgspec.json.encode(model.recipe, order="sorted")),
        tools={},
    )
    found = model.found
    return Subject(
        recipe=model.recipe,
        module=model.module,
        spec=model.spec,
        stages=model.stages,
        assets=model.assets,
        splits=splits,
        provenance=provenance,
        max_drop=model.max_drop,
        share=found.share,
        notes=found.notes,
    )


def wanted_splits(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the splits that a compile reads."""
    return (*SPLITS, TRAIN) if recipe.prune.wanted else SPLITS


def split_faults(model: Model, data: Splits) -> Iterator[DataError]:
    """Yield what is wrong with the splits as such; their samples are not read."""
    path, recipe = model.path, model.recipe
    if not isinstance(data.digest, str) or not data.digest or not data.digest.isprintable():
        yield DataError(
            f"the data of '{recipe.data.factory}' have no digest",
            got=repr(data.digest),
            expected="a string that differs wherever the samples do: results are kept under it",
            fix="set digest= in Splits, to a hash of the files, or a name and a version",
        )
    lengths: dict[str, int] = {}
    for name in (*SPLITS, TRAIN):
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


def _length(name: str, data: Splits, factory: str) -> int:
    with users_code(f"the split '{name}' of '{factory}' has no length", DataError):
        return len(getattr(data, name))
