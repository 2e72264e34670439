from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.errors import MeasureError
from edgefuse.measure import statistics
from edgefuse.measure.statistics import Floats, bootstrap, paired_drop, percentile


@pytest.mark.parametrize(("fraction", "runs"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_needs_as_many_runs_as_in_mlperf(fraction: float, runs: int) -> None:
    assert percentile(np.arange(runs - 1.0), fraction) is None
    assert percentile(np.arange(float(runs)), fraction) == runs - 1


def test_a_percentile_discards_what_loadgen_discards() -> None:
    # LoadGen 6.0.17 on 1135 queries: the p90 estimate discards the 89 largest.
    assert percentile(np.arange(1135.0), 0.9) == 1135 - 90


def test_a_p90_estimate_bounds_the_true_p90_in_99_of_100_runs() -> None:
    rng = np.random.default_rng(0)
    below = sum((percentile(rng.random(500), 0.9) or 0) < 0.9 for _ in range(1000))
    assert below <= 20


def test_the_bootstrap_covers_the_median() -> None:
    rng = np.random.default_rng(1)
    samples = (rng.lognormal(0.0, 0.5, 60) for _ in range(200))
    covered = sum(i.low <= 1.0 <= i.high for i in (bootstrap(s, resamples=300) for s in samples))
    assert 0.88 <= covered / 200 <= 0.99


def test_the_bootstrap_repeats_itself_with_its_seed() -> None:
    values = np.random.default_rng(2).random(50)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_blocks_widen_the_interval_of_an_autocorrelated_series() -> None:
    rng = np.random.default_rng(5)
    series = np.zeros(600)
    for step in range(1, 600):
        series[step] = 0.9 * series[step - 1] + rng.normal()
    block = statistics.block_length(series)
    assert block > 10
    plain, blocks = (bootstrap(series, statistics.mean, block=b) for b in (1, block))
    assert blocks.high - blocks.low > 2 * (plain.high - plain.low)


def test_independent_and_constant_series_need_no_blocks() -> None:
    assert statistics.block_length(np.random.default_rng(6).random(500)) == 1
    assert statistics.block_length(np.ones(500)) == 1


def test_intervals_of_load_that_comes_and_goes_cover_what_a_long_run_says() -> None:
    rng = np.random.default_rng(9)
    covered, plainly = 0, 0
    for _ in range(200):
        load = np.zeros(150)
        busy = rng.random() < 0.3
        for step in range(150):  # bursts of five rounds, three tenths of the time
            busy = rng.random() >= 0.2 if busy else rng.random() < 0.3 / 0.7 / 5
            load[step] = busy
        ratios = 3 + 0.05 * rng.normal(size=150) + 0.3 * load
        for block in (1, statistics.block_length(ratios)):
            interval = bootstrap(ratios, resamples=400, block=block)
            holds = interval.low <= 3.029 <= interval.high  # the median of a million rounds
            covered += holds and block > 1
            plainly += holds and block == 1
    assert plainly < 165
    assert covered > 175


def test_few_blocks_need_a_wider_interval() -> None:
    rng = np.random.default_rng(10)
    samples = [rng.normal(size=15) for _ in range(300)]
    covered = sum(i.low <= 0 <= i.high for i in (bootstrap(s, statistics.mean, resamples=400) for s in samples))
    assert covered >= 0.93 * 300


def test_an_interval_reaches_to_other_estimates() -> None:
    interval = statistics.Interval(2.0, 1.9, 2.1)
    assert interval.reaching(1.5, 2.05) == statistics.Interval(2.0, 1.5, 2.1)
    assert interval.reaching() == interval
    assert not interval.marked


def test_no_disagreement_is_not_certainty() -> None:
    drop = paired_drop(np.ones(100), np.ones(100))
    assert drop.drop == 0
    assert drop.low < 0 < drop.high
    assert drop.high < 0.04


def test_the_interval_without_disagreement_is_that_of_the_score_test() -> None:
    # With nothing discordant, Tango's equation is solved by z^2 / (n + z^2).
    z2 = 1.959963984540054**2
    assert paired_drop(np.zeros(44), np.zeros(44)).high == pytest.approx(z2 / (44 + z2), rel=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
def test_the_interval_of_a_drop_covers_the_truth(rate: float) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        reference = rng.random(300) < 0.9
        candidate = reference & (rng.random(300) >= rate)
        drop = paired_drop(reference.astype(float), candidate.astype(float))
        covered += drop.low <= 0.9 * rate <= drop.high
    assert covered >= 0.93 * 400


def test_a_drop_of_values_is_their_mean_difference() -> None:
    reference = np.random.default_rng(8).normal(size=400)
    drop = paired_drop(reference, reference - 0.5 + 0.01 * np.sin(np.arange(400)))
    assert drop.drop == pytest.approx(0.5, abs=1e-3)
    assert drop.low < drop.drop < drop.high


def test_copies_of_an_item_make_no_drop_surer() -> None:
    rng = np.random.default_rng(3)
    lost = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.02, 0.94, 0.04])
    groups, alone = np.repeat(np.arange(300), 5), paired_drop(lost, np.zeros(300))
    for factor in (1.0, 0.3):  # right or wrong, and values
        single = paired_drop(factor * lost, np.zeros(300))
        copied = paired_drop(factor * np.repeat(lost, 5), np.zeros(1500), groups)
        assert (copied.low, copied.high) == pytest.approx((single.low, single.high), abs=1e-4)
        assert paired_drop(factor * np.repeat(lost, 5), np.zeros(1500)).high < single.high - 0.005 * factor
    assert paired_drop(lost, np.zeros(300), np.arange(300)) == alone


@pytest.mark.parametrize("alike", [0.2, 0.9])
def test_the_interval_of_a_drop_by_group_covers_the_truth(alike: float) -> None:
    rng = np.random.default_rng(7)
    groups, covered, alone = np.repeat(np.arange(100), 8), 0, 0
    for _ in range(300):
        of_group = rng.choice([-1.0, 0.0, 1.0], 100, p=[0.03, 0.91, 0.06])[groups]
        own = rng.choice([-1.0, 0.0, 1.0], 800, p=[0.03, 0.91, 0.06])
        lost = np.where(rng.random(800) < alike, of_group, own)
        drop, plain = paired_drop(lost, np.zeros(800), groups), paired_drop(lost, np.zeros(800))
        covered += drop.low <= 0.03 <= drop.high
        alone += plain.low <= 0.03 <= plain.high
    assert covered >= 0.92 * 300
    assert alike < 0.5 or alone < 0.7 * 300


def test_a_bootstrap_sample_has_whole_groups() -> None:
    groups = np.array([7, 3, 7, 7, 9])
    for chosen in statistics.draws(5, groups, 20, np.random.default_rng(0)):
        assert len(chosen)
        times = np.bincount(chosen, minlength=5)
        assert times[0] == times[2] == times[3]
        assert times[0] + times[1] + times[4] == 3


scores = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(scores)
@settings(deadline=None)
def test_the_interval_of_a_drop_holds_the_drop_and_stays_in_range(pairs: list[tuple[bool, bool]]) -> None:
    reference, candidate = np.array(pairs, float).T
    drop = paired_drop(reference, candidate)
    assert -1 <= drop.low <= drop.drop <= drop.high <= 1
    mirrored = paired_drop(candidate, reference)
    assert math.isclose(mirrored.low, -drop.high, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (np.ones(3), np.ones(4), r"the scores of the same items: got \(4,\) scores, expected \(3,\)"),
        (np.ones(0), np.ones(0), r"needs a series of values: got an array of shape \(0,\)"),
        (np.ones(2), np.array([1, math.nan]), "needs finite values: got nan"),
        (np.array([0.5]), np.array([0.25]), "needs at least two items"),
    ],
)
def test_a_drop_says_what_it_needs(reference: Floats, candidate: Floats, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        paired_drop(reference, candidate)
