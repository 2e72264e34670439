"""What a data set must hold for a model: found out before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefuse.bundle.spec import ClassOutput, ModelSpec, subset_name
from edgefuse.bundle.wiring import width
from edgefuse.datasets.sample import Sample
from edgefuse.errors import DataError, MeasureError
from edgefuse.measure.metrics import Metric
from edgefuse.stages.examples import run_torch
from edgefuse.stages.stage import Array

if TYPE_CHECKING:
    from edgefuse.compiler.model.splits import SplitData
    from edgefuse.compiler.model.subject import Subject

_TRIED = 8


def checked_sample(name: str, index: int, sample: Any, spec: ModelSpec) -> Sample:
    """Return a sample of the split `name` if it has modalities of the model, and all that the model requires.

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
    return sample


def checked_target(name: str, index: int, target: Any, spec: ModelSpec) -> Array:
    """Return the target of a sample as an array: int [1] for a class, [values] otherwise.

    Raises:
        DataError: if it is no class of the model, or not as many finite numbers as the first output has.
    """
    output, value = spec.outputs[0], np.atleast_1d(np.asarray(target))
    where = f"the target of sample {index} of '{name}'"
    if isinstance(output, ClassOutput):
        if value.dtype.kind not in "iu" or value.shape != (1,) or not 0 <= value[0] < len(output.labels):
            raise DataError(where, got=repr(target), expected=f"a class from 0 to {len(output.labels) - 1}")
    elif value.dtype.kind not in "iuf" or value.shape != (width(output),) or not np.isfinite(value).all():
        expected = f"{width(output)} finite number" + "s" * (width(output) > 1)
        raise DataError(where, got=" ".join(repr(target).split()), expected=expected)
    return value


def check_data(subject: Subject) -> None:
    """Check that every split shows what it is there for, and that the metric can judge the model's answers.

    Raises:
        DataError: if no sample of a split has a modality, or those of a subset that is judged.
        MeasureError: if the metric does not fit the outputs, or an output or the metric is not finite.
    """
    for name, data in subject.splits.items():
        _check_coverage(name, data, subject)
    _check_metric(subject)


def _check_coverage(name: str, data: SplitData, subject: Subject) -> None:
    for modality, count in zip(subject.spec.modalities, data.present.sum(axis=0), strict=True):
        if not count:
            raise DataError(
                f"no sample of the split '{name}' has the modality '{modality.name}'",
                got=f"0 of {len(data)}",
                expected="at least one",
                fix="check how the modalities are paired: edgefuse.datasets.samples pairs columns",
            )
    for subset in subject.subsets if name in ("validation", "test") else ():
        if not len(data.with_subset(subject.columns(subset))):
            raise DataError(
                f"no sample of the split '{name}' has all of {subset_name(subset)}, which is judged",
                got=f"0 of {len(data)}",
                expected="at least one",
            )


def _check_metric(subject: Subject) -> None:
    """Judge what torch answers to the first few validation samples that have every modality."""
    data, spec = subject.splits["validation"], subject.spec
    items = list(islice(data.with_subset(subject.columns(subject.subsets[0])), _TRIED))
    last = subject.stages[-1].spec
    port = next(port for port in last.outputs if port.kind == "result")
    answers = np.concatenate([_answers(subject, int(item))[last.key(port.tensor.name)] for item in items])
    try:
        found = Metric(spec.metric).aggregate(answers, data.targets[items])
    except MeasureError as error:
        raise MeasureError(f"the metric '{spec.metric}' cannot judge '{spec.name}': {error}") from error
    if not np.isfinite(found):
        raise MeasureError(
            f"the metric '{spec.metric}' of '{spec.name}' over {len(items)} samples",
            got=found,
            expected="a finite number",
        )


def _answers(subject: Subject, item: int) -> dict[str, Array]:
    """Return all values of one sample through the model in torch, by key."""
    pool: dict[str, Array] = {
        **subject.splits["validation"].values[item],
        "present": np.ones((1, len(subject.spec.modalities)), np.float32),
    }
    for stage in subject.stages:
        feeds = {port.tensor.name: pool[port.source.key] for port in stage.spec.inputs}
        pool |= {stage.spec.key(name): value for name, value in run_torch(stage, feeds).items()}
    return pool
