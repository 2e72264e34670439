"""What the reference's own posterior expects a candidate to lose, held to what is really lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.bundle.spec import EmbeddingOutput
from edgefuse.compiler.evaluation.correction import Correction
from edgefuse.compiler.evaluation.drops import Judgement
from edgefuse.compiler.evaluation.expected_drop import Posterior, corrected, expected_drop
from edgefuse.compiler.metrics.named import metric_of
from edgefuse.compiler.search.figures import SubsetDrop
from edgefuse.measure.statistics import Z95, Drop, paired_drop

Array: TypeAlias = npt.NDArray[Any]

THINGS, EACH, OTHERS, CLASSES = 80, 8, 400, 6


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def drawn(rng: np.random.Generator, things: int, each: int, sure: float, noise: float) -> tuple[Array, ...]:
    """Draw logits of a reference and a candidate, targets and groups: recordings of a thing are nearly alike.

    The reference is `sure` times surer than it has reason to be.
    """
    of_thing = rng.normal(0, 2, (things, CLASSES))
    targets = np.array([rng.choice(CLASSES, p=p) for p in softmax(of_thing)])
    groups = np.repeat(np.arange(things), each)
    logits = of_thing[groups]
    moved = noise * (rng.normal(size=of_thing.shape)[groups] + 0.5 * rng.normal(size=logits.shape))
    return sure * logits, sure * (logits + moved), targets[groups], groups


def right(logits: Array, targets: Array) -> Array:
    result: Array = np.equal(logits.argmax(axis=1), targets).astype(np.float64)
    return result


def estimates(rng: np.random.Generator, noise: float) -> tuple[Drop, Drop]:
    """Return the labelled difference, and what becomes of it with unlabelled items."""
    reference, candidate, targets, groups = drawn(rng, THINGS, EACH, 3.0, noise)
    labelled = paired_drop(right(reference, targets), right(candidate, targets), groups)
    more = drawn(rng, OTHERS, 2, 3.0, noise)
    posterior = Posterior.fitted(reference, targets)
    joined = [np.concatenate(pair) for pair in ((reference, more[0]), (candidate, more[1]), (groups, more[3] + THINGS))]
    return labelled, corrected(labelled, *expected_drop(posterior, joined[0], joined[1], joined[2], len(reference)))


@pytest.fixture(scope="module", params=[0.1, 0.4])
def trials(request: pytest.FixtureRequest) -> tuple[float, list[tuple[Drop, Drop]]]:
    noise = float(request.param)
    rng = np.random.default_rng(5)
    reference, candidate, targets, _ = drawn(rng, 60_000, 1, 3.0, noise)
    truth = float((right(reference, targets) - right(candidate, targets)).mean())
    # The expectation of the loss has less variance than the loss, and the posterior of what was drawn is known.
    p, rows = softmax(reference / 3.0), np.arange(len(reference))
    expected = float((p[rows, reference.argmax(1)] - p[rows, candidate.argmax(1)]).mean())
    assert expected == pytest.approx(truth, abs=0.004)
    return expected, [estimates(rng, noise) for _ in range(100)]


def test_the_corrected_drop_is_nearer_the_truth(trials: tuple[float, list[tuple[Drop, Drop]]]) -> None:
    truth, found = trials
    error = {
        name: float(np.sqrt(np.mean([(pair[place].drop - truth) ** 2 for pair in found])))
        for place, name in enumerate(("labelled", "corrected"))
    }
    assert error["corrected"] < 0.6 * error["labelled"]


def test_the_interval_of_the_corrected_drop_covers_the_truth(trials: tuple[float, list[tuple[Drop, Drop]]]) -> None:
    truth, found = trials
    covered = sum(drop.low <= truth <= drop.high for _, drop in found)
    assert covered >= 0.82 * len(found)  # 90 to 94 of 100 trials, with more of them: few flips make a skewed mean
    widths = [[drop.high - drop.low for drop in pair] for pair in found]
    assert np.median([corrected / labelled for labelled, corrected in widths]) < 0.5


def test_the_temperature_is_the_one_that_was_drawn() -> None:
    reference, _, targets, _ = drawn(np.random.default_rng(1), 20_000, 1, 4.0, 0.0)
    assert Posterior.fitted(reference, targets).sharpness == pytest.approx(1 / 4.0, rel=0.03)


@pytest.mark.parametrize("k", [1, 3])
def test_the_derivative_is_that_of_the_losses(k: int) -> None:
    reference, candidate, targets, _ = drawn(np.random.default_rng(2), 300, 1, 1.0, 1.0)
    fitted = Posterior.fitted(reference, targets)
    _, slopes = fitted.losses(reference, candidate, k)
    step = 1e-5
    above, below = (Posterior(fitted.sharpness * np.exp(s), fitted.influence) for s in (step, -step))
    numeric = (above.losses(reference, candidate, k)[0] - below.losses(reference, candidate, k)[0]) / (2 * step)
    assert slopes == pytest.approx(numeric, abs=1e-6)


def test_the_influence_is_that_of_leaving_an_item_out() -> None:
    reference, _, targets, _ = drawn(np.random.default_rng(3), 400, 1, 1.0, 0.0)
    fitted = Posterior.fitted(reference, targets)
    for item in (0, 7, 100):
        without = Posterior.fitted(np.delete(reference, item, 0), np.delete(targets, item))
        moved = np.log(fitted.sharpness / without.sharpness)
        assert fitted.influence[item] == pytest.approx(moved, abs=1e-3)


def extremes() -> Iterator[tuple[str, Array, Array]]:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(50, 3)).astype(np.float32)
    yield "its own answers", logits, logits.argmax(axis=1)
    yield "the contrary", logits, logits.argmin(axis=1)
    yield "always the same", np.zeros((50, 3), np.float32), rng.integers(0, 3, 50)


@pytest.mark.parametrize(("logits", "targets"), [pytest.param(a, b, id=name) for name, a, b in extremes()])
def test_targets_that_fit_no_temperature_have_an_end_of_the_range(logits: Array, targets: Array) -> None:
    posterior = Posterior.fitted(logits, targets)
    assert np.isfinite(posterior.sharpness)
    assert posterior.sharpness > 0
    other = np.roll(logits, 1, axis=1)
    drop, error = expected_drop(posterior, logits, other, np.arange(50), 50)
    if (targets == logits.argmax(axis=1)).all():  # every answer that differs is lost
        assert drop == pytest.approx((logits.argmax(1) != other.argmax(1)).mean())
    assert np.isfinite(error)


def test_labelled_items_have_a_veto() -> None:
    labelled = Drop(0.05, 0.03, 0.07)
    assert corrected(labelled, 0.045, 0.001).drop == 0.045
    moved = corrected(labelled, 0.01, 0.001)
    assert moved.drop == pytest.approx(0.05 - 0.02 / Z95)
    assert moved.high - moved.drop == pytest.approx(1.96 * (moved.drop - 0.01), rel=0.01)  # what it was moved by
    assert corrected(labelled, 0.09, 0.001).drop == pytest.approx(0.05 + 0.02 / Z95)


def test_of_several_answers_all_count() -> None:
    reference, candidate = np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[0.0, 3.0, 2.0, 1.0]])
    (p,) = softmax(reference)
    for k, lost in ((1, p[0] - p[1]), (2, p[0] - p[2]), (3, p[0] - p[3]), (4, 0.0)):
        assert Posterior(1.0, np.zeros(1)).losses(reference, candidate, k)[0] == pytest.approx([lost])


PICTURE = EmbeddingOutput(name="picture", size=12, pair="caption")


def retrieved(rng: np.random.Generator, noise: float) -> tuple[Drop, Drop]:
    """Return the labelled difference of recall among ten of 200 pairs, and what becomes of it."""
    captions = rng.normal(size=(200, 12))
    pictures = captions + 2.0 * rng.normal(size=captions.shape)
    answers = [
        {"picture": {"both": one}, "caption": {"both": captions}}
        for one in (pictures, pictures + noise * rng.normal(size=captions.shape))
    ]
    metric = metric_of(PICTURE)
    one = Judgement(PICTURE, "both", metric, np.arange(200), np.arange(200))
    labelled = metric.drop(one.rows(answers[0], answers[0]), one.rows(answers[1], answers[0]))
    correction = Correction.of(None, {"both": one}, answers[0], {})  # type: ignore[arg-type] # asked for the unlabelled
    seen = {"both": SubsetDrop(drop=labelled.drop, low=labelled.low, high=labelled.high)}
    found = correction.of_drops(seen, answers[1], {})["both"]
    return labelled, Drop(found.drop, found.low, found.high)


def test_what_is_lost_of_recall_is_told_by_far_fewer_pairs() -> None:
    rng = np.random.default_rng(6)
    assert retrieved(rng, 0.0)[1] == Drop(0.0, 0.0, 0.0)
    trials = [retrieved(rng, 0.5) for _ in range(80)]
    labelled, found = (np.array([pair[place].drop for pair in trials]) for place in (0, 1))
    assert found.mean() == pytest.approx(labelled.mean(), abs=3 * labelled.std() / np.sqrt(80))
    assert found.std() < 0.5 * labelled.std()


def test_of_very_many_pairs_the_labels_say_enough() -> None:
    many = np.arange(3000)
    one = Judgement(PICTURE, "both", metric_of(PICTURE), many, many)
    assert not Correction.of(None, {"both": one}, {}, {}).expectations  # type: ignore[arg-type]
