"""The metric of answers, and its drop against the reference, in every subset of the modalities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefuse.bundle.spec import ClassOutput, Output, subset_name
from edgefuse.compiler.evaluation.evaluator import Outputs
from edgefuse.compiler.evaluation.runners import Array
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search.figures import SubsetDrop
from edgefuse.measure.metrics import Metric


def drops(subject: Subject, split: str, reference: Outputs, candidate: Outputs) -> dict[str, SubsetDrop]:
    """Return the paired drop of the metric in every subset.

    Args:
        subject: the model and its data.
        split: the name of one.
        reference: outputs of the reference by subset: float32 [items, width].
        candidate: the same of a candidate.
    """
    metric = Metric(subject.spec.metric)
    found = {
        name: metric.drop(reference[name], candidate[name], targets)
        for name, targets in subset_targets(subject, split).items()
    }
    return {name: SubsetDrop(drop=d.drop, low=d.low, high=d.high) for name, d in found.items()}


def accuracy(subject: Subject, split: str, outputs: Outputs) -> dict[str, float]:
    """Return the metric in every subset.

    Args:
        subject: the model and its data.
        split: the name of one.
        outputs: by subset: float32 [items, width].
    """
    metric = Metric(subject.spec.metric)
    return {name: metric.aggregate(outputs[name], targets) for name, targets in subset_targets(subject, split).items()}


def differences(
    subject: Subject, reference: Mapping[str, Outputs], candidate: Mapping[str, Outputs]
) -> dict[str, float]:
    """Return how far the outputs after the first, which have no targets, are from the reference's: see `difference`.

    Args:
        subject: the model and its data.
        reference: by output and subset: float32 [items, width].
        candidate: the same of a candidate.
    """
    outputs = {output.name: output for output in subject.spec.outputs}
    return {
        name: max(difference(outputs[name], found[subset], candidate[name][subset]) for subset in found)
        for name, found in reference.items()
    }


def difference(output: Output, reference: Array, candidate: Array) -> float:
    """Return the share of items with another class, or the error of other values as a share of their size.

    Args:
        output: what both are.
        reference: float32 [items, width].
        candidate: of the same items.
    """
    if isinstance(output, ClassOutput):
        return float((reference.argmax(-1) != candidate.argmax(-1)).mean())
    wanted, found = (np.asarray(one, np.float64) for one in (reference, candidate))
    error, size = np.linalg.norm(found - wanted), np.linalg.norm(wanted)
    return float(error / size) if size else float(error > 0)


def subset_targets(subject: Subject, split: str) -> dict[str, Array]:
    """Return the targets of the items that have a subset's modalities, by subset."""
    data = subject.splits[split]
    return {subset_name(s): data.targets[data.with_subset(subject.columns(s))] for s in subject.subsets}
