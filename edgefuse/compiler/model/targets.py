"""The targets of samples: checked against what judges each output, kept beside the inputs, and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, LabelsOutput, Output, TokensOutput
from edgefuse.compiler.cache.arrays import ArrayStore
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.metrics.tokens import FILLING
from edgefuse.errors import DataError, cited
from edgefuse.stages.stage import Array

_TEXT = -1
"""What stands before the code points of a text, and is no id."""


@dataclass(frozen=True)
class Targets:
    """The targets of one output in a split.

    Attributes:
        items: the indices of the samples that have one, ascending, [n].
        values: the targets: class indices or groups, int [n]; numbers, [n, ...]; truths, [n, labels]; ids,
            int [n, steps], filled up with -100; or text, [n].
    """

    items: npt.NDArray[np.intp]
    values: Array

    def of(self, items: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], Array]:
        """Return which of some items, ascending, have a target, as places among them, and these targets."""
        there = np.isin(self.items, items)
        return np.searchsorted(items, self.items[there]), self.values[there]


def column(output: str) -> str:
    """Return the key under which the targets of an output are kept; no value of a pipeline is called so."""
    return f"#target.{output}"


def columns(where: str, target: Any, metrics: Mapping[str, Metric]) -> dict[str, Array]:
    """Return the targets of a sample as arrays to be kept; what it has none for is an array of nothing.

    Args:
        where: the sample is, for errors: "sample 3 of 'test'".
        target: as the data set gave it: that of the first output, or targets by output; None where there is none.
        metrics: what judges each output, the first one first.

    Raises:
        DataError: if a target does not fit its output.
    """
    first = next(iter(metrics))
    given = dict(target) if isinstance(target, Mapping) else {first: target}
    for name in given:
        if name not in metrics:
            raise DataError(
                f"{where} has a target for an unknown output", got=repr(name), expected=" or ".join(metrics)
            )
    return {
        column(name): _nothing(metric) if given.get(name) is None else checked(where, given[name], metric)
        for name, metric in metrics.items()
    }


def read(values: ArrayStore, metrics: Mapping[str, Metric]) -> dict[str, Targets]:
    """Return the targets of a split by output, of those that any sample has a target for.

    Args:
        values: of the split, with what `columns` returned for each sample.
        metrics: what judges each output.
    """
    found = {}
    for name in metrics:
        arrays = [values.get(column(name), index) for index in range(len(values))]
        items = [index for index, array in enumerate(arrays) if array.size]
        if items:
            found[name] = Targets(np.array(items, np.intp), stacked([arrays[index] for index in items]))
    return found


def missing(counts: Mapping[str, Mapping[str, int]], metrics: Mapping[str, Metric]) -> Iterator[DataError]:
    """Yield which outputs lack targets: the first one must have some, another in both splits or in none.

    Args:
        counts: by split, of those that are judged, and output: of the samples that have a target.
        metrics: what judges each output, the first one first.
    """
    first = next(iter(metrics))
    for output in (name for name, metric in metrics.items() if metric.needs_targets):
        lacking = [split for split, by_output in counts.items() if not by_output.get(output)]
        if lacking and (output == first or len(lacking) < len(counts)):
            yield DataError(
                f"no sample of '{lacking[0]}' has a target for the output '{output}', "
                f"which '{metrics[output].name}' is to judge",
                fix="give samples targets"
                + (", or name a metric that needs none" if output == first else f", or leave those of '{output}' out"),
            )


def checked(where: str, target: Any, metric: Metric) -> Array:
    """Return the target of a sample as an array that is never empty, of one type for all samples.

    Whether a number of the user's is written `1` or `1.0` means nothing.

    Args:
        where: the sample is, for errors.
        target: of one output, as the data set gave it.
        metric: of that output.

    Raises:
        DataError: if it does not fit the output, or what judges that.
    """
    output = metric.asked.output
    if not metric.needs_targets:
        what = f"'{getattr(output, 'pair', '')}'" if metric.against == "pair" else "the reference"
        raise DataError(
            f"the target of {where} is for the output '{output.name}', which is held against {what}",
            got=_shown(target),
            expected="no target for it",
        )
    form, expected = _form(output, metric)
    wrong = f"the target of {where} does not fit the model's output"
    if isinstance(target, str) and isinstance(output, TokensOutput):
        value = np.array(target)
    else:
        try:
            value = np.atleast_1d(np.asarray(target))
        except Exception as error:  # a list of unequal lists, a tensor that learns: what is not numpy's raises anything
            got = f"{type(target).__name__}, which is no array ({cited(error)})"
            raise DataError(wrong, got=got, expected=expected) from error
    found = form(value, output)
    if found is None:
        raise DataError(wrong, got=_shown(target), expected=expected)
    return found


def stacked(arrays: Sequence[Array]) -> Array:
    """Return the targets of samples, as `checked` returned each, as a metric takes them: see `Targets.values`.

    Raises:
        DataError: if some are text, and some are ids.
    """
    is_text = [array.ravel()[0] == _TEXT and array.dtype == np.int64 for array in arrays]
    if all(is_text):
        return np.array(["".join(map(chr, array[1:].tolist())) for array in arrays])
    if any(is_text):
        raise DataError("some targets are text, and some are ids", expected="one of both for all samples")
    whole = np.stack(arrays)
    single = whole.ndim == 2 and whole.shape[1] == 1 and whole.dtype != np.uint8  # truths keep their labels
    return whole[:, 0] if single else whole


Form: TypeAlias = Callable[[Array, Any], "Array | None"]
"""Takes a target and its output, and returns what is kept; None if it is no such target."""


def _form(output: Output, metric: Metric) -> tuple[Form, str]:
    """Return what reads the targets of an output, and what they are expected to be, in words."""
    if metric.against == "index":
        return _index, "the index of a group, 0 or more"
    if metric.against == "text":
        return _text, "text, or the ids of its tokens"
    if isinstance(output, ClassOutput):
        return _class, f"a class from 0 to {len(output.labels) - 1}"
    if isinstance(output, LabelsOutput):
        return _truths, f"{len(output.labels)} times 0 or 1"
    if isinstance(output, TokensOutput):
        ids = f"up to {output.steps} ids from 0 to {len(output.labels) - 1}"
        return (_ids_or_text, f"text, or {ids}") if ":" in metric.name else (_ids, ids)
    if isinstance(output, EmbeddingOutput) and ":" in metric.name:
        return _index_or_numbers, f"an index, or {output.size} finite numbers"
    numbers = " x ".join(map(str, output.shape)) + " finite number" + "s" * (output.shape != (1,))
    return _numbers, numbers


def _class(value: Array, output: ClassOutput) -> Array | None:
    fits = value.dtype.kind in "iu" and value.shape == (1,) and 0 <= value[0] < len(output.labels)
    return value.astype(np.int64) if fits else None


def _index(value: Array, _: Output) -> Array | None:
    fits = value.dtype.kind in "iu" and value.shape == (1,) and value[0] >= 0
    return value.astype(np.int64) if fits else None


def _truths(value: Array, output: LabelsOutput) -> Array | None:
    fits = value.dtype.kind in "biuf" and value.shape == output.shape and np.isin(value, (0, 1)).all()
    return value.astype(np.uint8) if fits else None


def _numbers(value: Array, output: Output) -> Array | None:
    fits = value.dtype.kind in "iuf" and value.shape == output.shape and np.isfinite(value).all()
    return value.astype(np.float64) if fits else None


def _index_or_numbers(value: Array, output: EmbeddingOutput) -> Array | None:
    index = _index(value, output)
    return _numbers(value, output) if index is None else index.astype(np.float64)


def _ids(value: Array, output: TokensOutput) -> Array | None:
    fits = value.dtype.kind in "iu" and value.ndim == 1 and 0 < value.size <= output.steps
    inside = fits and value.min() >= 0 and value.max() < len(output.labels)
    return np.pad(value.astype(np.int64), (0, output.steps - value.size), constant_values=FILLING) if inside else None


def _text(value: Array, output: TokensOutput) -> Array | None:
    """Return text as code points; one of nothing has the mark that stands before each."""
    if value.dtype.kind != "U":
        ids = _ids(value, output)
        if ids is None:
            return None
        value = np.array(output.text(ids[ids != FILLING].tolist()))
    if value.ndim:
        return None
    return np.array([_TEXT, *map(ord, str(value))], np.int64)


def _ids_or_text(value: Array, output: TokensOutput) -> Array | None:
    return _text(value, output) if value.dtype.kind == "U" else _ids(value, output)


def _nothing(metric: Metric) -> Array:
    """Return an array of nothing, of the type that the others have."""
    output = metric.asked.output
    if metric.against != "targets" or isinstance(output, ClassOutput | TokensOutput):
        return np.empty(0, np.int64)
    return np.empty(0, np.uint8 if isinstance(output, LabelsOutput) else np.float64)


def _shown(target: Any) -> str:
    return " ".join(repr(target).split())
