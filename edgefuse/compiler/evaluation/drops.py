"""What judges the outputs of a model: a metric for each in every subset, and its drop against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ClassOutput, LabelsOutput, Output, TokensOutput, subset_name
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.evaluation.runners import Array
from edgefuse.compiler.metrics.metric import Metric, Rows
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Subject, key_of
from edgefuse.compiler.search.figures import SubsetDrop
from edgefuse.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Judgement:
    """An output in a subset of the modalities, with the items of a split whose answers its metric judges.

    Attributes:
        output: its name.
        subset: the name of the subset.
        metric: of the output.
        places: the items, among those that have the subset's modalities.
        groups: of these items, int64 [items].
        targets: of these items, unless answers are held against other answers.
    """

    output: Output
    subset: str
    metric: Metric
    places: npt.NDArray[np.intp]
    groups: npt.NDArray[np.int64]
    targets: Array | None = None

    def rows(self, answers: Answers, reference: Answers) -> Rows:
        """Return what the metric keeps of answers, item by item.

        Args:
            answers: by output and subset.
            reference: those of the reference, for a metric that holds answers against them.
        """
        found = answers[self.output.name][self.subset][self.places]
        if self.targets is not None:
            return self.metric.rows(found, self.targets)
        name = getattr(self.output, "pair", "") if self.metric.against == "pair" else self.output.name
        against = answers if self.metric.against == "pair" else reference
        return self.metric.rows(found, against[name][self.subset][self.places])


def judgements(subject: Subject, split: str) -> dict[str, Judgement]:
    """Return all that is judged on a split, by `key_of`: the first output's subsets first, the largest of them first.

    Args:
        subject: the model and its data.
        split: the name of one.
    """
    data, found = subject.splits[split], {}
    for output in (one for one in subject.spec.outputs if one.name in subject.judged):
        metric = subject.metrics[output.name]
        for subset in subject.subsets_of(output.name):
            items = data.with_subset(subject.columns(subset))
            places, targets = np.arange(len(items)), None
            name = subset_name(subset)
            if metric.needs_targets:
                places, targets = _targets(data, output.name, items)
            if not len(places):
                raise DataError(
                    f"no sample of '{split}' that has {name} has a target for the output '{output.name}'",
                    expected="at least one",
                )
            groups = data.groups[items][places]
            found[key_of(subject.spec, output.name, name)] = Judgement(output, name, metric, places, groups, targets)
    return found


def _targets(data: SplitData, output: str, items: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], Array | None]:
    targets = data.targets.get(output)
    return targets.of(items) if targets else (np.empty(0, np.intp), None)


class Judge:
    """Judges answers on a split against those of the reference, of which the metrics keep their rows once.

    Args:
        subject: the model and its data.
        split: the name of one.
        reference: answers of the reference, by output and subset.
    """

    def __init__(self, subject: Subject, split: str, reference: Answers) -> None:
        self.judgements = judgements(subject, split)
        self._reference = reference
        self._rows = self.rows(reference)

    def rows(self, answers: Answers) -> dict[str, Rows]:
        """Return what the metrics keep of answers, by `key_of`."""
        return {key: one.rows(answers, self._reference) for key, one in self.judgements.items()}

    def figures(self, rows: Mapping[str, Rows] | None = None) -> dict[str, float]:
        """Return every output's metric in every subset, by `key_of`: of rows, or of the reference."""
        found = self._rows if rows is None else rows
        return {key: one.metric.figure(found[key]) for key, one in self.judgements.items()}

    def drops(self, rows: Mapping[str, Rows]) -> dict[str, SubsetDrop]:
        """Return the paired drop of every output's metric in every subset, by `key_of`."""
        found = {}
        for key, one in self.judgements.items():
            drop = one.metric.drop(self._rows[key], rows[key], one.groups)
            found[key] = SubsetDrop(drop=drop.drop, low=drop.low, high=drop.high)
        return found


def by_subset(subject: Subject, output: str, found: Mapping[str, T]) -> dict[str, T]:
    """Return what was found of an output by subset, of what was found of all by `key_of`.

    Args:
        subject: the model and its data.
        output: the name of one.
        found: figures, drops or limits by key.
    """
    return {subset: found[key] for subset, key in subject.keys_of(output).items() if key in found}


def differences(subject: Subject, reference: Answers, candidate: Answers) -> dict[str, float]:
    """Return how far the outputs that nothing judges are from the reference's: see `difference`.

    Args:
        subject: the model and its data.
        reference: by output and subset: float32 [items, ...].
        candidate: the same of a candidate.
    """
    return {
        output.name: max(
            difference(output, found, candidate[output.name][subset])
            for subset, found in reference[output.name].items()
        )
        for output in subject.spec.outputs
        if output.name not in subject.judged
    }


def difference(output: Output, reference: Array, candidate: Array) -> float:
    """Return the share of items with another class, labels or tokens, or the error of values as a share of their size.

    Args:
        output: what both are.
        reference: float32 [items, ...].
        candidate: of the same items.
    """
    decided = _decided(output, reference), _decided(output, candidate)
    if decided[0] is not None:
        return float((decided[0] != decided[1]).reshape(len(reference), -1).any(axis=1).mean())
    wanted, found = (np.asarray(one, np.float64) for one in (reference, candidate))
    error, size = np.linalg.norm(found - wanted), np.linalg.norm(wanted)
    return float(error / size) if size else float(error > 0)


def _decided(output: Output, answers: Array) -> Array | None:
    """Return what answers come to, for an output that decides."""
    if isinstance(output, ClassOutput | TokensOutput):
        return np.asarray(answers.argmax(axis=-1))
    if isinstance(output, LabelsOutput):
        return np.asarray(answers > np.log(output.threshold / (1 - output.threshold)))
    return None
