"""Drops on the validation set, corrected by what the reference's posterior expects: what the search judges by.

That is done for the accuracy of classes, and for the recall of what is to find its like among another output's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.evaluation.drops import Judgement
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.evaluation.expected_drop import Posterior, corrected, expected_drop
from edgefuse.compiler.evaluation.runners import Array
from edgefuse.compiler.metrics.embeddings import unit
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search.figures import SubsetDrop
from edgefuse.measure.statistics import Drop

_MOST_TO_FIND = 2048
"""Of items that are to find each other: the square of them is in memory, and more of them say enough by themselves."""


def is_corrected(metric: Metric, items: int) -> bool:
    """Tell whether drops of a metric are corrected on so many items."""
    return metric.tells_right_from_wrong or (metric.finds_its_like and items <= _MOST_TO_FIND)


@dataclass(frozen=True)
class _Expectation:
    """What is known of an output in a subset; of the items, those that are judged come first.

    The reference's logits are over classes, or over what is to be found; `k` of the likeliest are its answer.
    """

    judgement: Judgement
    posterior: Posterior
    reference: Array
    groups: Array
    k: int = 1


@dataclass(frozen=True)
class Correction:
    """Corrects drops on the validation set, with unlabelled items where there are any: see `expected_drop`.

    Attributes:
        expectations: by `key_of`.
    """

    expectations: Mapping[str, _Expectation]

    @classmethod
    def of(
        cls, subject: Subject, judgements: Mapping[str, Judgement], reference: Answers, unlabelled: Answers
    ) -> Correction:
        """Fit the reference's posterior in every subset.

        Args:
            subject: the model and its data.
            judgements: what is judged on the validation set, by `key_of`.
            reference: its answers there.
            unlabelled: the same on the unlabelled items.
        """
        found = {}
        for key, one in judgements.items():
            if not is_corrected(one.metric, len(one.places)):
                continue
            if one.targets is not None:
                logits = _logits(one, reference, unlabelled)
                posterior = Posterior.fitted(logits[: len(one.places)], one.targets)
                groups = np.concatenate([one.groups, unlabelled_groups(subject, one.subset)])
                found[key] = _Expectation(one, posterior, logits, groups)
            else:
                logits = _logits(one, reference, {})
                posterior = Posterior.fitted(logits, np.arange(len(logits)))
                found[key] = _Expectation(one, posterior, logits, one.groups, one.metric.asked.k)
        return cls(found)

    def of_drops(
        self, drops: Mapping[str, SubsetDrop], candidate: Answers, unlabelled: Answers
    ) -> dict[str, SubsetDrop]:
        """Return drops as far as labelled items do not refute what is expected.

        Args:
            drops: of a candidate on the validation set, by `key_of`.
            candidate: its answers there.
            unlabelled: its answers on the unlabelled items.
        """
        found = dict(drops)
        for key, one in self.expectations.items():
            logits, labelled = _logits(one.judgement, candidate, unlabelled), len(one.judgement.places)
            expected = expected_drop(one.posterior, one.reference, logits, one.groups, labelled, one.k)
            drop = corrected(Drop(drops[key].drop, drops[key].low, drops[key].high), *expected)
            found[key] = SubsetDrop(drop=drop.drop, low=drop.low, high=drop.high)
        return found


def unlabelled_groups(subject: Subject, name: str) -> Array:
    """Return the groups of the unlabelled items that have a subset of the modalities, int64 [items].

    Args:
        subject: the model and its data.
        name: of the subset.
    """
    split = subject.splits.get(UNLABELLED)
    if split is None:
        return np.empty(0, np.int64)
    (subset,) = (names for names in subject.subsets if subset_name(names) == name)
    return split.groups[split.with_subset(subject.columns(subset))]


def _logits(judgement: Judgement, labelled: Answers, unlabelled: Answers) -> Array:
    """Return what was answered to the items that are judged, and then to the unlabelled ones, float [items, classes].

    Of an output that is to find another's answers, they are cosines: its classes are the items, each its own like.
    """
    output, subset = judgement.output.name, judgement.subset
    found = labelled[output][subset][judgement.places]
    if judgement.metric.finds_its_like:
        others = labelled[getattr(judgement.output, "pair", "")][subset][judgement.places]
        return unit(found) @ unit(others).T
    more = unlabelled.get(output, {}).get(subset)
    return found if more is None else np.concatenate([found, more])
