"""Drops on the validation set, corrected by what the reference's posterior expects: what the search judges by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.evaluation.drops import Judgement
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.evaluation.expected_drop import Posterior, corrected, expected_drop
from edgefuse.compiler.evaluation.runners import Array
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search.figures import SubsetDrop
from edgefuse.measure.statistics import Drop


@dataclass(frozen=True)
class _Expectation:
    """What is known of an output in a subset; of the items, those that are judged come first."""

    judgement: Judgement
    posterior: Posterior
    reference: Array
    groups: Array


@dataclass(frozen=True)
class Correction:
    """Corrects drops of accuracy on the validation set, with unlabelled items where there are any: see `expected_drop`.

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
            if one.metric.tells_right_from_wrong and one.targets is not None:
                answers = _joined(one, reference, unlabelled)
                posterior = Posterior.fitted(answers[: len(one.places)], one.targets)
                groups = np.concatenate([one.groups, unlabelled_groups(subject, one.subset)])
                found[key] = _Expectation(one, posterior, answers, groups)
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
            answers, labelled = _joined(one.judgement, candidate, unlabelled), len(one.judgement.places)
            expected = expected_drop(one.posterior, one.reference, answers, one.groups, labelled)
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


def _joined(judgement: Judgement, labelled: Answers, unlabelled: Answers) -> Array:
    """Return what was answered to the items that are judged, and then to the unlabelled ones."""
    output, subset = judgement.output.name, judgement.subset
    more = unlabelled.get(output, {}).get(subset)
    found = labelled[output][subset][judgement.places]
    return found if more is None else np.concatenate([found, more])
