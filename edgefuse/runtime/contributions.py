"""What each modality added to an answer: the answer with all that was given minus the answer without it.

Leaving out is done by features. Encoders run once, and only what reads several modalities runs again, once for each
modality that is left out and once without all of them: the same files over the same values as in a prediction without
it, so that the two are equal. (Leave-one-out, or occlusion, of whole modalities: Zeiler and Fergus, *Visualizing and
understanding convolutional networks*, ECCV 2014; Covert, Lundberg and Lee, *Explaining by removing*, JMLR 22, 2021.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ClassOutput, LabelsOutput, ModelSpec, Output, ValuesOutput
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.graph import Graph, Inputs, Subset
from edgefuse.runtime.prediction import Contribution, Contributions, chances, is_finite

_Numbers: TypeAlias = npt.NDArray[np.float64]
_Pair: TypeAlias = tuple[Output, _Numbers, _Numbers]


def explained(graph: Graph, inputs: Inputs, model: ModelSpec) -> tuple[dict[str, Array], Contributions]:
    """Return the outputs, and what each modality added to them.

    Args:
        graph: of a pipeline.
        inputs: preprocessed, or encoded already.
        model: whose they are.

    Raises:
        InputError: as for `Graph.run`, or the model makes one token after the other.
        BackendError: a runtime cannot run a stage.
    """
    if graph.decoder is not None:
        raise InputError(
            "what each modality added is not told of a model that makes one token after the other",
            fix="compare what it generates with and without a modality",
        )
    present = inputs.present
    outputs, features = graph.run_with_features(inputs.values, present, inputs.encoded)
    pool = {**inputs.values, **features}

    def without(left_out: Subset) -> Contribution:
        rest = graph.after_encoders.run(pool, tuple(name for name in present if name not in left_out))
        return _difference(list(_pairs(model.outputs, outputs, rest)))

    optional = tuple(one.name for one in model.modalities if one.optional and one.name in present)
    each = {name: without((name,)) for name in optional}
    return outputs, Contributions(each, without(optional) if len(optional) != 1 else each[optional[0]])


def _pairs(spec: tuple[Output, ...], whole: Mapping[str, Array], rest: Mapping[str, Array]) -> Iterator[_Pair]:
    """Yield each output that can be compared, with both of its values, of one item, without the batch."""
    for output in spec:
        if output.name in whole and output.name in rest:
            before, after = (np.asarray(answer[output.name], np.float64) for answer in (whole, rest))
            finite = is_finite(output, before) and is_finite(output, after)
            if finite and before.shape == after.shape and before.shape[:1] == (1,):
                yield output, before[0], after[0]


def _difference(pairs: list[_Pair]) -> Contribution:
    odds = {
        output.name: (_log_odds(before, best), _log_odds(after, best))
        for output, before, after in pairs
        if isinstance(output, ClassOutput)
        for best in [int(before.argmax())]
    }
    values = {
        output.name: dict(zip(output.labels, (_told(output, before) - _told(output, after)).tolist(), strict=True))
        for output, before, after in pairs
        if isinstance(output, LabelsOutput | ValuesOutput)
    }
    return Contribution(
        probability={name: _logistic(with_it) - _logistic(without) for name, (with_it, without) in odds.items()},
        log_odds={name: one - other for name, (one, other) in odds.items() if math.isfinite(one - other)},
        values=values,
        distance={
            output.name: float(np.linalg.norm(before - after))
            for output, before, after in pairs
            if output.name not in odds and output.name not in values
        },
    )


def _log_odds(logits: _Numbers, label: int) -> float:
    """Return log(p / (1 - p)) of a class, in nats: its logit against all others together."""
    return float(logits[label] - np.logaddexp.reduce(np.delete(logits, label)))


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > 0 else (power := math.exp(odds)) / (1 + power)


def _told(output: Output, numbers: _Numbers) -> _Numbers:
    """Return what a prediction tells of an output: of labels, probabilities."""
    return chances(numbers) if isinstance(output, LabelsOutput) else numbers
