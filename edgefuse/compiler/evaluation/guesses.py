"""Subsets in which the reference only guesses: what is lost there is chance, and no budget can be held by chance.

A model that cannot tell classes from one modality alone flips its answers there at the slightest rounding, as often for
the better as for the worse. A budget that binds such a subset turns good candidates down by the toss of a coin.
"""

from __future__ import annotations

import numpy as np

from edgefuse.compiler.evaluation.drops import Judgement, judgements
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.model.subject import Guess, Subject


def guesses(subject: Subject, answers: Answers) -> tuple[Guess, ...]:
    """Return the subsets in which the reference is right no more often than one answer for all would be.

    That is told of classes, judged by the share of right answers. The largest subset is never one.

    Args:
        subject: the model and its data.
        answers: of the reference on the validation set.
    """
    found = []
    for key, one in judgements(subject, "validation").items():
        if one.subset != next(iter(subject.keys_of(one.output.name))) and (share := _of_one_answer(one)) is not None:
            reached = one.metric.figure(one.rows(answers, answers))
            if reached <= share:
                found.append(Guess(key, reached, share))
    return tuple(found)


def _of_one_answer(one: Judgement) -> float | None:
    """Return how often the commonest class is right for all items; None where answers are no classes."""
    if one.targets is None or not one.metric.tells_right_from_wrong:
        return None
    return float(np.bincount(one.targets).max() / len(one.targets))
