"""Checks of a data set against the model, before any long work."""

from __future__ import annotations

from itertools import islice

import numpy as np

from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.errors import DataError, MeasureError
from edgefuse.measure.metrics import Metric
from edgefuse.runtime.graph import constants_of, zeros_of_tensor
from edgefuse.stages.examples import run_torch
from edgefuse.stages.stage import Array

_TRIED = 8


def check_data(subject: Subject) -> None:
    """Check that every split has samples of every modality and subset, and that the metric can judge the answers.

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
    answers = np.concatenate([_answers(subject, int(item))[spec.outputs[0].name] for item in items])
    try:
        found = Metric(spec.metric).aggregate(answers, data.targets[items])
    except MeasureError as error:
        raise MeasureError(f"the metric '{spec.metric}' cannot judge '{spec.name}': {error}") from error
    if not np.isfinite(found):
        raise MeasureError(
            f"the metric '{spec.metric}' of '{spec.name}' over {len(items)} samples is not finite",
            got=found,
            expected="a finite number",
        )


def _answers(subject: Subject, item: int) -> dict[str, Array]:
    """Return the results of one sample through the model in torch, by name."""
    stages = {stage.spec.name: stage for stage in subject.stages}
    plan = subject.graph.plan([modality.name for modality in subject.spec.modalities])
    values = subject.splits["validation"].values[item] | constants_of(plan)
    results, _ = subject.graph.run(
        plan, lambda stage, feeds: run_torch(stages[stage.name], feeds), values, subject.graph.initial(zeros_of_tensor)
    )
    return results
