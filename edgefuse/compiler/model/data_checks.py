"""Checks of a data set against the model, before any long work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ModelSpec, subset_name
from edgefuse.compiler.model.subject import Subject
from edgefuse.errors import DataError, MeasureError
from edgefuse.graph import StageGraph
from edgefuse.measure.metrics import Metric
from edgefuse.runtime.graph import constants_of, zeros_of_tensor
from edgefuse.stages.examples import run_torch
from edgefuse.stages.stage import Array, TorchStage

TRIED = 8
"""Validation samples that the metric judges before anything else is done."""


def check_data(subject: Subject) -> None:
    """Check that every split has samples of every modality and subset, and that the metric can judge the answers.

    Raises:
        DataError: if no sample of a split has a modality, or those of a subset that is judged.
        MeasureError: if the metric does not fit the outputs, or an output or the metric is not finite.
    """
    for name, data in subject.splits.items():
        for fault in coverage_faults(name, data.present, subject.spec):
            raise fault
    _check_metric(subject)


def coverage_faults(name: str, present: npt.NDArray[np.bool_], spec: ModelSpec) -> Iterator[DataError]:
    """Yield what no sample of a split has.

    Args:
        name: of the split.
        present: [items, modalities], which modalities each sample has.
        spec: of the model.
    """
    for modality, count in zip(spec.modalities, present.sum(axis=0), strict=True):
        if not count:
            yield DataError(
                f"no sample of the split '{name}' has the modality '{modality.name}'",
                got=f"0 of {len(present)}",
                expected="at least one",
                fix="check how the modalities are paired: edgefuse.datasets.samples pairs columns",
            )
    names = [modality.name for modality in spec.modalities]
    for subset in spec.subsets() if name in ("validation", "test") else ():
        if not present[:, [names.index(one) for one in subset]].all(axis=1).any():
            yield DataError(
                f"no sample of the split '{name}' has all of {subset_name(subset)}, which is judged",
                got=f"0 of {len(present)}",
                expected="at least one",
            )


def _check_metric(subject: Subject) -> None:
    """Judge what torch answers to the first few validation samples that have every modality."""
    data = subject.splits["validation"]
    items = list(islice(data.with_subset(subject.columns(subject.subsets[0])), TRIED))
    names = subject.subsets[0]
    answers = [answered(subject.stages, subject.spec, data.values[int(item)], names) for item in items]
    judge(subject.spec, answers, data.targets[items])


def judge(spec: ModelSpec, answers: Sequence[Mapping[str, Array]], targets: Array) -> None:
    """Let the metric of a model judge answers.

    Args:
        spec: of the model.
        answers: the results by name, one after the other.
        targets: of the same samples.

    Raises:
        MeasureError: if the metric does not fit the outputs, or an output or the metric is not finite.
    """
    try:
        found = Metric(spec.metric).aggregate(np.concatenate([one[spec.outputs[0].name] for one in answers]), targets)
    except MeasureError as error:
        raise MeasureError(f"the metric '{spec.metric}' cannot judge '{spec.name}': {error}") from error
    if not np.isfinite(found):
        raise MeasureError(
            f"the metric '{spec.metric}' of '{spec.name}' over {len(answers)} samples is not finite",
            got=found,
            expected="a finite number",
        )


def answered(
    stages: Sequence[TorchStage], spec: ModelSpec, sample: Mapping[str, Array], present: Sequence[str]
) -> dict[str, Array]:
    """Return the results of one sample through the model in torch, by name.

    Args:
        stages: of the model.
        spec: of the model.
        sample: its tensors by key, of every modality.
        present: the names of the modalities that it has.
    """
    by_name = {stage.spec.name: stage for stage in stages}
    graph = StageGraph(tuple(stage.spec for stage in stages), spec.modalities)
    plan = graph.plan(present)
    values = {**sample, **constants_of(plan)}
    results, _ = graph.run(
        plan, lambda stage, feeds: run_torch(by_name[stage.name], feeds), values, graph.initial(zeros_of_tensor)
    )
    return results
