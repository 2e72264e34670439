"""What a candidate is expected to lose of accuracy, by the reference's own posterior: few labels cannot tell it.

A drop comes from answers that flip. Labels say of each flip whether it lost, won or changed nothing, and a handful of
flips of which half lose is next to no evidence. But the reference says how sure it was: of a flip it expects to lose
p(its own answer) - p(the candidate's), where p is its softmax at a temperature that is fitted on the labelled items
(Guo et al. 2017, arXiv 1706.04599). The mean of that has little variance, and needs no labels: unlabelled items count
like labelled ones.

Retrieval is the same, with the items of the other output for classes, their cosines for logits, and the `k` nearest for
the answer: what the reference holds of its own `k` nearest to be true, less what of the candidate's.

It is right as far as the posterior is, and as far as flips know no more of the truth than the reference does. So the
labelled items have a veto: the estimate is the value nearest to the expected drop within one standard error of the
labelled difference (limited translation, Efron and Morris 1971, doi:10.1080/01621459.1971.10482345). With many labels
it is nearly their difference, with few the expectation. What it had to be moved by counts as its error.

Prediction-powered inference (Angelopoulos et al. 2023, doi:10.1126/science.adi6000) corrects the expectation by the
whole labelled difference instead: without bias, and with nearly all of its variance, since no posterior can tell how a
coin falls that decides a near tie. Decision 106 has both, measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq  # type: ignore[import-untyped]

from edgefuse.compiler.evaluation.runners import Array
from edgefuse.measure.statistics import Z95, Drop, clustered_error

Floats = npt.NDArray[np.float64]

_WIDEST = math.log(1e4)
"""How far the fitted temperature may be from one at which logits differ by one, in its logarithm."""


@dataclass(frozen=True)
class Posterior:
    """What a reference holds to be true of items: the softmax of its logits, at a fitted temperature.

    Attributes:
        sharpness: one over the temperature.
        influence: of each labelled item on the logarithm of the sharpness, [items].
    """

    sharpness: float
    influence: Floats

    @classmethod
    def fitted(cls, logits: Array, targets: Array) -> Posterior:
        """Return the posterior under which the targets are likeliest; at an end of the range if there is no such.

        Args:
            logits: of the reference, float [items, classes].
            targets: int [items].
        """
        values = _centred(logits)
        scale = float(values.std()) or 1.0

        def residuals(log_sharpness: float) -> tuple[Floats, Floats]:
            """Return by item the mean logit less the target's, and the variance of the logits."""
            p = _softmax(values * math.exp(log_sharpness))
            mean = (p * values).sum(axis=1)
            variance = (p * values**2).sum(axis=1) - mean**2
            return mean - values[np.arange(len(values)), targets], variance

        low, high = -math.log(scale) - _WIDEST, -math.log(scale) + _WIDEST
        if residuals(low)[0].mean() >= 0:  # it knows less than nothing
            return cls(math.exp(low), np.zeros(len(values)))
        if residuals(high)[0].mean() <= 0:  # it is never wrong
            return cls(math.exp(high), np.zeros(len(values)))
        found = float(brentq(lambda log_sharpness: residuals(log_sharpness)[0].mean(), low, high, xtol=1e-6))
        first, second = residuals(found)
        return cls(math.exp(found), -first / (math.exp(found) * second.sum()))

    def losses(self, reference: Array, candidate: Array, k: int = 1) -> tuple[Floats, Floats]:
        """Return the expected loss of each item, and its derivative by the logarithm of the sharpness, both [items].

        Args:
            reference: its logits, float [items, classes].
            candidate: those of the same items.
            k: how many of the likeliest classes are an item's answer.
        """
        values = _centred(reference)
        p = _softmax(values * self.sharpness)
        slopes = p * self.sharpness * (values - (p * values).sum(axis=1, keepdims=True))
        ours, theirs = _likeliest(reference, k), _likeliest(candidate, k)
        found = [_sum_of(each, ours) - _sum_of(each, theirs) for each in (p, slopes)]
        return found[0], found[1]


def expected_drop(
    posterior: Posterior, reference: Array, candidate: Array, groups: Array, labelled: int, k: int = 1
) -> tuple[float, float]:
    """Return the expected drop of the share of right answers over all items, and its standard error by group.

    The error has that of the fitted temperature in it (a linear expansion: M-estimation with clustered data).

    Args:
        posterior: of the reference.
        reference: its logits, float [items, classes]; the items that the posterior was fitted on first.
        candidate: logits of the same items.
        groups: int [items]: items of one group count as one draw.
        labelled: how many items the posterior was fitted on.
        k: how many of the likeliest classes are an item's answer.
    """
    losses, slopes = posterior.losses(reference, candidate, k)
    drop = float(losses.mean())
    parts = (losses - drop) / len(losses)
    parts[:labelled] += float(slopes.mean()) * posterior.influence
    return drop, clustered_error(parts, groups)


def corrected(labelled: Drop, expected: float, error: float) -> Drop:
    """Return the value nearest to the expected drop that the labelled difference allows, with its 95 % interval.

    Args:
        labelled: the paired difference over labelled items.
        expected: the expected drop.
        error: its standard error.
    """
    low, high = (labelled.drop + (end - labelled.drop) / Z95 for end in (labelled.low, labelled.high))
    drop = min(max(expected, low), high)
    width = Z95 * math.hypot(error, drop - expected)
    return Drop(drop, drop - width, drop + width)


def _likeliest(logits: Array, k: int) -> npt.NDArray[np.intp]:
    """Return the places of the largest logits of each item, [items, k]; of equals the first."""
    if k == 1:
        return np.asarray(logits.argmax(axis=1))[:, None]
    return np.argsort(-np.asarray(logits, np.float64), axis=1, kind="stable")[:, :k]


def _sum_of(values: Floats, places: npt.NDArray[np.intp]) -> Floats:
    return np.asarray(np.take_along_axis(values, places, axis=1).sum(axis=1))


def _centred(logits: Array) -> Floats:
    """Return logits less their largest, float64 [items, classes]."""
    values = np.asarray(logits, np.float64)
    return np.asarray(values - values.max(axis=1, keepdims=True))


def _softmax(centred: Floats) -> Floats:
    powers = np.exp(centred)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
