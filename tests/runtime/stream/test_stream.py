"""Streams: equal to calls, in order, bounded in age and size, told apart."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.pushes import MOTION, RATE_HZ, SAMPLES, Held, assert_same, in_chunks, motion, picture, sound


@pytest.mark.parametrize("lengths", [[1], [2, 5, 1], [16, 20]])
def test_each_prediction_is_that_of_a_call_with_the_same_window(tiny: Pipeline, lengths: list[int]) -> None:
    values = motion()
    with tiny.stream(hop_s=0.02, backlog=10, feeds=MOTION) as stream:
        stream.push("image", picture(), 0.0)
        stream.push("text", "please stop now", 0.0)
        found = list(in_chunks(stream, "motion", values[0], 100, lengths))
        assert [round(answer.time_s * 100) for answer in found] == list(range(2, 61, 2))
        for answer in found:
            at = round(answer.time_s * 100)
            window = values[:, max(0, at - 5) : at]
            assert_same(answer, tiny, image=picture(), text="please stop now", motion=window)
            assert answer.ages == pytest.approx({"image": answer.time_s, "text": answer.time_s, "motion": 0}, abs=1e-6)
        assert stream.predictions == 30


def test_sound_is_predicted_from_its_last_window(hearing: Pipeline) -> None:
    heard = sound(0.5)
    with hearing.stream(hop_s=0.05) as stream:
        found = list(in_chunks(stream, "sound", heard, RATE_HZ, [160, 700, 33]))
        assert len(found) == 10
        for answer in found:
            at = round(answer.time_s * RATE_HZ)
            assert_same(answer, hearing, sound=heard[max(0, at - SAMPLES) : at])
    with hearing.stream(hop_s=0.05) as stream:
        pcm = (heard * 32767).astype(np.int16)
        *_, last = in_chunks(stream, "sound", pcm, RATE_HZ, [800])
        assert_same(last, hearing, sound=pcm[-SAMPLES:])


def test_sound_at_another_rate_is_resampled_as_one(hearing: Pipeline) -> None:
    soxr = pytest.importorskip("soxr")
    heard = sound(0.6, 44_100)
    whole = soxr.resample(heard, 44_100, RATE_HZ, quality="HQ")
    with hearing.stream(hop_s=0.05, feeds={"sound": Feed(rate_hz=44_100)}) as stream:
        found = list(in_chunks(stream, "sound", heard, 44_100, [441, 1000]))
        assert len(found) >= 10
        for answer in found:
            at = round(answer.time_s * RATE_HZ)
            expected = hearing(sound=whole[max(0, at - SAMPLES) : at])
            assert answer.scores == pytest.approx(expected.scores, abs=1e-5)


def test_what_comes_out_of_order_is_put_in_order_and_what_was_lost_is_silence(hearing: Pipeline) -> None:
    heard = sound(0.3)
    parts = {start: heard[start : start + 480] for start in range(0, len(heard), 480)}
    with hearing.stream(hop_s=None) as stream:
        for start in (0, 960, 480, 1440, 1920, 1920, 2880, 3360, 3840, 4320, 2400):
            stream.push("sound", parts[start], start / RATE_HZ)
        answer = stream.predict()
        counts = stream.counts["sound"]
        lost = heard.copy()
        lost[2400:2880] = 0
        assert (counts.used, counts.dropped, counts.late, counts.duplicates) == (4, 7, 0, 1), "the window holds four"
        assert_same(answer, hearing, sound=heard[4800 - SAMPLES : 4800])
    with hearing.stream(hop_s=None, feeds={"sound": Feed(reorder_s=0.05)}) as stream:
        for start in (0, 480, 960, 1440, 1920, 2880, 3360, 3840, 2400):
            stream.push("sound", parts[start], start / RATE_HZ)
        assert stream.counts["sound"].late == 1
        assert stream.counts["sound"].lost_s == pytest.approx(0.03)
        assert_same(stream.predict(), hearing, sound=lost[4320 - SAMPLES : 4320])


def test_a_modality_that_is_too_old_is_absent(tiny: Pipeline) -> None:
    feeds = {"image": Feed(max_age_s=0.3), "motion": Feed(rate_hz=100, max_age_s=0.1)}
    values = motion(5)
    with tiny.stream(hop_s=None, feeds=feeds) as stream:
        stream.push("image", picture(), 1.0)
        stream.push("motion", values, 1.0)
        stream.push("text", "go", 1.0)
        answer = stream.predict(1.1)
        assert answer.ages == pytest.approx({"image": 0.1, "text": 0.1, "motion": 0.05})
        assert_same(stream.predict(1.25), tiny, image=picture(), text="go")
        assert_same(stream.predict(1.5), tiny, text="go")
        stream.push("image", picture(1), 2.0)
        stream.push("text", "stop", 2.5)
        assert set(stream.predict().ages) == {"text"}
        assert (stream.counts["image"].used, stream.counts["image"].stale) == (1, 1)


def test_a_late_picture_is_dropped_and_an_early_one_waits(tiny: Pipeline) -> None:
    with tiny.stream(hop_s=None) as stream:
        assert stream.push("image", picture(0), 1.0)
        assert stream.push("image", picture(2), 1.2)
        assert stream.push("image", picture(1), 1.15)
        assert not stream.push("image", picture(3), 1.05)
        assert not stream.push("image", picture(1), 1.15)
        for time_s, seed in ((1.1, 0), (1.16, 1), (1.3, 2)):
            assert_same(stream.predict(time_s), tiny, image=picture(seed))
        counts = stream.counts["image"]
        assert (counts.pushed, counts.used, counts.late, counts.duplicates, counts.waiting) == (5, 3, 1, 1, 0)


def test_the_features_of_an_unchanged_picture_are_reused(tiny: Pipeline) -> None:
    def runs(stream: Stream, steps: int) -> int:
        before = tiny.cache.misses + tiny.cache.hits
        for _ in range(steps):
            stream.push("motion", motion(2), t := next(times))
            stream.predict(t + 0.02)
        return tiny.cache.misses + tiny.cache.hits - before

    times = iter(np.arange(1, 9, 0.02).tolist())
    with tiny.stream(hop_s=None, feeds=MOTION) as stream:
        stream.push("image", picture(), 1.0)
        assert runs(stream, 1) == 3, "image frontend, image and motion encoder"
        assert runs(stream, 5) == 5, "the motion encoder alone; nothing of the image is even compared"
        stream.push("image", picture(), 1.11)
        assert runs(stream, 1) == 3


def test_clocks_of_their_own_and_clocks_that_jump(tiny: Pipeline) -> None:
    now = [0.0]
    with Stream(Held(tiny), hop_s=None, feeds=MOTION, now=lambda: now[0]) as stream:
        stream.push("motion", motion(4), 50.0)
        stream.push("image", picture(), 7_000.0)
        assert stream.predict().ages == pytest.approx({"image": 0.0, "motion": 0.0})
        for step in range(20):
            now[0] += 0.04
            stream.push("motion", motion(4), (50.04 if step < 10 else 3.0) + 0.04 * step)
            stream.push("image", picture(step), 7_000.04 + 0.04 * step)
        answer = stream.predict()
        assert answer.ages == pytest.approx({"image": 0.0, "motion": 0.0}, abs=0.1)
        counts = stream.counts
        assert (counts["motion"].jumps, counts["motion"].late) == (1, 1)
        assert (counts["image"].jumps, counts["image"].late) == (0, 0)


def test_without_times_the_clock_of_the_machine_counts(hearing: Pipeline) -> None:
    now = [5.0]
    with Stream(Held(hearing), hop_s=None, now=lambda: now[0]) as stream:
        stream.push("sound", sound(0.1))
        assert stream.predict().time_s == pytest.approx(5.0)


def test_queues_are_bounded_by_count_and_bytes(tiny: Pipeline) -> None:
    feeds = {"motion": Feed(rate_hz=100, max_items=4), "image": Feed(max_bytes=200, max_age_s=100)}
    with tiny.stream(hop_s=None, feeds=feeds) as stream:
        for step in range(50):
            stream.push("motion", motion(1), 0.02 * step)  # every other step is missing
            stream.push("image", picture(step), 0.02 * step)
        counts = stream.counts
        assert counts["image"].waiting == 3, "of 64 bytes each"
        assert counts["motion"].waiting <= 8, "four that wait for what is missing, four in the window"
        assert stream.size_bytes < 1_000
    assert all(one.waiting == 0 for one in stream.counts.values())


def test_what_waits_for_slow_hops_is_bounded_by_bytes(hearing: Pipeline) -> None:
    with hearing.stream(hop_s=1e6, feeds={"sound": Feed(max_bytes=1_000)}) as stream:
        assert stream.size_bytes == 2 * (4 * SAMPLES + 1_000), "twice the window and what waits"
