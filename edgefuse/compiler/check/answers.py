"""What torch answers to samples: whether it can, whether that is finite, and whether the metric can judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgefuse.bundle.spec import ModelSpec, StageSpec
from edgefuse.compiler.check.data import Probe
from edgefuse.compiler.evaluation.runners import TorchRunner, session_of
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.model.targets import column, stacked
from edgefuse.errors import DataError, EdgefuseError, MeasureError
from edgefuse.graph import StageGraph
from edgefuse.runtime.decoding import NO_TOKENS, TOKEN
from edgefuse.runtime.graph import constants_of, zeros_of_tensor
from edgefuse.stages.silence import first_words
from edgefuse.stages.stage import Array, TorchStage


def unanswered(model: Model, samples: Sequence[Probe]) -> Iterator[EdgefuseError]:
    """Yield why torch cannot answer samples, or the metric cannot judge what it answers.

    Args:
        model: taken apart.
        samples: a few of the data, the extreme ones among them.
    """
    judged: list[tuple[Mapping[str, Array], Mapping[str, Array]]] = []
    for sample in samples:
        try:
            results = _answered(model.stages, model.spec, sample.values, sample.present)
        except EdgefuseError as error:
            yield DataError(
                f"the model fails on sample {sample.index} of '{sample.split}'",
                got=first_words(error),
                expected="an answer to every sample",
                fix="check the sample against what the model was trained on: ids beyond a table, a length of 0",
            )
            return
        if sample.split == "validation" and len(sample.present) == len(model.spec.modalities):
            judged.append((results, sample.targets))
        elif not all(np.isfinite(result).all() for result in results.values()):
            yield DataError(
                f"the model's answer to sample {sample.index} of '{sample.split}' is not finite",
                got="NaN or infinity",
                expected="finite numbers",
                fix="check logarithms and divisions by zero; the sample is an extreme one (black, silent, short)",
            )
            return
    try:
        for output, metric in model.metrics.items():
            there = [one for one in judged if one[1][column(output)].size or not metric.needs_targets]
            if there:
                _judge(model.spec, metric, output, there)
    except MeasureError as error:
        yield error


def _judge(
    spec: ModelSpec, metric: Metric, output: str, answers: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]
) -> None:
    """Let the metric of an output judge answers.

    Args:
        spec: of the model.
        metric: of the output.
        output: its name.
        answers: the results by name, and the targets by key, one sample after the other.

    Raises:
        MeasureError: if the metric does not fit the outputs, or an output or the metric is not finite.
    """
    found, against = (
        np.concatenate([results[name] for results, _ in answers])
        for name in (output, getattr(metric.asked.output, "pair", "") or output)
    )
    if metric.needs_targets:
        against = stacked([targets[column(output)] for _, targets in answers])
    whose = f"'{spec.name}'" if output == spec.outputs[0].name else f"the output '{output}' of '{spec.name}'"
    try:
        figure = metric.aggregate(found, against)
    except MeasureError as error:
        if metric.against == "index":  # so few may have nothing to find
            return
        raise MeasureError(f"the metric '{metric.name}' cannot judge {whose}: {error}") from error
    if not np.isfinite(figure) and metric.figure_of is None:  # a figure over all may need more than these
        raise MeasureError(
            f"the metric '{metric.name}' of {whose} over {len(answers)} samples is not finite",
            got=figure,
            expected="a finite number",
        )


def _answered(
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
    values = {TOKEN: NO_TOKENS, **sample, **constants_of(plan)}

    def run_stage(stage: StageSpec, feeds: dict[str, Array]) -> dict[str, Array]:
        return session_of(stage, TorchRunner(by_name[stage.name]), spec).run(feeds)

    return graph.run(plan, run_stage, values, graph.initial(zeros_of_tensor))[0]
