"""What torch answers to samples: whether it can, whether that is finite, and whether the metric can judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgefuse.compiler.check.data import Probe
from edgefuse.compiler.model.data_checks import answered, judge
from edgefuse.compiler.model.subject import Model
from edgefuse.errors import DataError, EdgefuseError, MeasureError
from edgefuse.stages.silence import first_words
from edgefuse.stages.stage import Array


def unanswered(model: Model, samples: Sequence[Probe]) -> Iterator[EdgefuseError]:
    """Yield why torch cannot answer samples, or the metric cannot judge what it answers.

    Args:
        model: taken apart.
        samples: a few of the data, the extreme ones among them.
    """
    judged: list[tuple[Mapping[str, Array], Array]] = []
    for sample in samples:
        try:
            results = answered(model.stages, model.spec, sample.values, sample.present)
        except EdgefuseError as error:
            yield DataError(
                f"the model fails on sample {sample.index} of '{sample.split}'",
                got=first_words(error),
                expected="an answer to every sample",
                fix="check the sample against what the model was trained on: ids beyond a table, a length of 0",
            )
            return
        if sample.split == "validation" and len(sample.present) == len(model.spec.modalities):
            judged.append((results, sample.target))
        elif not all(np.isfinite(result).all() for result in results.values()):
            yield DataError(
                f"the model's answer to sample {sample.index} of '{sample.split}' is not finite",
                got="NaN or infinity",
                expected="finite numbers",
                fix="check logarithms and divisions by zero; the sample is an extreme one (black, silent, short)",
            )
            return
    try:
        if judged:
            targets = np.stack([target for _, target in judged])
            judge(model.spec, [results for results, _ in judged], targets[:, 0] if targets.shape[1] == 1 else targets)
    except MeasureError as error:
        yield error
