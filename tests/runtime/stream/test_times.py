"""Times that are not quite right: jitter, any phase, drift, no times at all; and predictions that are late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgefuse
from edgefuse.bundle.writer import write_bundle
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream
from tests import tiny as made
from tests.runtime.stream.pushes import answers, picture

Array = npt.NDArray[Any]

JITTER_S = 0.002
WINDOW = 5
PUSHES = 24


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The tiny bundle, of which nothing is run."""
    path = tmp_path_factory.mktemp("times") / "tiny"
    write_bundle(path, made.manifest(), made.contents())
    with edgefuse.load(path, backend="null") as pipeline:
        yield pipeline


class Recorder:
    """A holder of a pipeline, and that pipeline: what it was fed with is kept."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.fed: list[dict[str, Array]] = []
        self.pipeline: Any = self
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def infer(self, inputs: Inputs) -> dict[str, Array]:
        self.fed.append({key: value.copy() for key, value in inputs.values.items()})
        return self._pipeline.infer(inputs)

    @property
    def windows(self) -> list[list[int]]:
        """The numbers of the steps of each prediction."""
        heard = [fed for fed in self.fed if "motion.values" in fed]
        return [fed["motion.values"][0, : fed["motion.length"].item(), 0].astype(int).tolist() for fed in heard]


def counted(begin: int, steps: int) -> Array:
    """Return a chunk whose steps hold their numbers."""
    return np.repeat(np.arange(begin, begin + steps, dtype=np.float32), 3).reshape(1, steps, 3)


def feeds(rate_hz: float, **more: Any) -> dict[str, Feed]:
    return {"motion": Feed(rate_hz=rate_hz, max_age_s=10, **more), "image": Feed(max_items=PUSHES, max_age_s=10)}


@st.composite
def sensors(draw: st.DrawFn) -> tuple[float, int]:
    """Draw a rate and steps per chunk of which half of a chunk, and the jitter of a feed, are more than the noise."""
    rate_hz = draw(st.sampled_from([10.0, 50.0, 100.0, 220.5, 1000.0]))
    steps = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 20]))
    reach = min(int(0.005 * rate_hz), steps // 2)
    while (reach + 0.49) / rate_hz < 2 * JITTER_S:
        steps *= 2
        reach = min(int(0.005 * rate_hz), steps // 2)
    return rate_hz, steps


Noise = st.lists(st.floats(-JITTER_S, JITTER_S), min_size=PUSHES, max_size=PUSHES)


@settings(max_examples=60)
@given(sensors(), st.floats(0, 1), Noise, st.sampled_from([0.0, 0.02, None]), st.sets(st.integers(0, PUSHES - 1)))
def test_jitter_at_any_phase_costs_no_step_and_predictions_are_the_same_however_late(
    still: Pipeline,
    sensor: tuple[float, int],
    phase: float,
    noise: list[float],
    hop_s: float | None,
    polled: set[int],
) -> None:
    rate_hz, steps = sensor

    def run(asked: set[int]) -> tuple[list[tuple[float, dict[str, float]]], Recorder]:
        recorder = Recorder(still)
        with Stream(recorder, hop_s=hop_s, clock="motion", backlog=10_000, feeds=feeds(rate_hz)) as stream:
            stream.push("text", "go", 1.0)
            found: list[Answer] = []
            for number, late_s in enumerate(noise):
                time_s = 1.01 + (number * steps + phase) / rate_hz
                if number % 3 == 0:  # after what was due before, and before what is due with the chunk
                    stream.push("image", picture(), time_s + steps / rate_hz / 2)
                assert stream.push("motion", counted(number * steps, steps), time_s + late_s)
                if hop_s is None:
                    found.append(stream.predict())
                elif number in asked:
                    found += answers(stream)
            found += answers(stream)
            counts = stream.counts["motion"]
            assert (counts.late, counts.duplicates, counts.lost_s) == (0, 0, 0.0)
            assert counts.dropped == (0 if hop_s == 0 and recorder.fed else counts.dropped)
        began = 1.01 + (1 + phase) / rate_hz + JITTER_S  # a hop may be shorter than a step
        assert all(set(one.ages) == {"text", "image", "motion"} for one in found if one.time_s >= began)
        return [(answer.time_s, dict(answer.ages)) for answer in found], recorder

    at_once, first = run(set(range(PUSHES)))
    late, second = run(polled)
    assert late == at_once
    assert second.windows == first.windows
    for window in first.windows:
        assert window == list(range(window[0], window[0] + len(window)))
        assert len(window) == min(WINDOW, window[-1] + 1), "once it has begun, it is whole"
    if hop_s != 0.02:
        assert len(at_once) == PUSHES
        most = 2 * JITTER_S * rate_hz + 1
        assert all((number + 1) * steps - 1 - window[-1] <= most for number, window in enumerate(first.windows))


@pytest.mark.parametrize("drift", [1e-3, -1e-3])
@pytest.mark.parametrize(("rate_hz", "steps"), [(100, 1), (16_000, 320)])
def test_a_rate_that_is_not_quite_what_it_says_costs_no_step(
    still: Pipeline, rate_hz: int, steps: int, drift: float
) -> None:
    noise = np.random.default_rng(1).uniform(-JITTER_S, JITTER_S, 3000) / 2
    with still.stream(hop_s=None, feeds=feeds(rate_hz)) as stream:
        for number, late_s in enumerate(noise.tolist()):
            time_s = 1 + number * steps / rate_hz * (1 + drift) + late_s
            assert stream.push("motion", counted(number, steps), time_s)
            if number % 100 == 99:
                assert abs(stream.predict(time_s + steps / rate_hz).ages["motion"]) < 0.015
        counts = stream.counts["motion"]
        assert (counts.late, counts.duplicates, counts.lost_s) == (0, 0, 0.0)


@pytest.mark.parametrize(("spread_s", "reorder_s"), [(0.004, 0.1), (0.010, 0.1), (0.030, 0.1), (0.004, 0.0)])
def test_chunks_without_times_follow_on_one_another_however_they_arrive(
    still: Pipeline, spread_s: float, reorder_s: float
) -> None:
    now, late = [0.0], np.random.default_rng(0).uniform(0, spread_s, 300)
    recorder = Recorder(still)
    with Stream(recorder, hop_s=0.02, feeds=feeds(1000, reorder_s=reorder_s), now=lambda: now[0]) as stream:
        for number in range(300):
            now[0] = 1 + number * 0.02 + late[number]
            stream.push("motion", counted(number * 20, 20))
            for answer in answers(stream):
                assert abs(now[0] - answer.time_s) < 0.02 + 2 * spread_s
        counts = stream.counts["motion"]
        assert (counts.late, counts.duplicates, counts.lost_s) == (0, 0, 0.0)
        now[0] += 0.5
        stream.push("motion", counted(6000, 20))
        assert stream.predict().ages["motion"] == pytest.approx(0, abs=1e-3), "after a pause, it waits for nothing"
    assert all(window == list(range(window[0], window[-1] + 1)) for window in recorder.windows)


def test_items_that_come_at_one_moment_without_times_are_no_duplicates(still: Pipeline) -> None:
    with Stream(Recorder(still), hop_s=None, feeds=feeds(100), now=lambda: 7.0) as stream:
        assert all(stream.push("text", words) for words in ("go", "stop"))
        assert all(stream.push("motion", counted(0, 4)) for _ in range(2))
        stream.predict()
        assert [(one.used, one.dropped) for one in (stream.counts["text"], stream.counts["motion"])] == [(1, 1), (2, 0)]


def test_the_window_of_a_prediction_asked_for_in_the_past_is_the_oldest_that_is_whole(still: Pipeline) -> None:
    recorder = Recorder(still)
    with Stream(recorder, hop_s=None, feeds=feeds(100)) as stream:
        for number in range(20):
            stream.push("motion", counted(number, 1), 1 + number / 100)
        for time_s in (1.2, 1.1996, 1.19, 1.0):
            assert stream.predict(time_s).ages == pytest.approx({"motion": time_s - 1.2})
    assert recorder.windows == 4 * [[15, 16, 17, 18, 19]]


def test_windows_are_whole_however_few_chunks_may_wait(still: Pipeline) -> None:
    recorder = Recorder(still)
    with Stream(recorder, hop_s=None, feeds=feeds(100, max_items=2)) as stream:
        for number in range(20):
            stream.push("motion", counted(number, 1), number / 100)
            stream.predict()
        assert (stream.counts["motion"].used, stream.counts["motion"].dropped) == (20, 0)
    assert [len(window) for window in recorder.windows] == [1, 2, 3, 4] + 16 * [5]


def test_which_picture_counts_does_not_depend_on_when_one_asks(still: Pipeline) -> None:
    def ages(at_once: bool) -> list[dict[str, float]]:
        with still.stream(hop_s=0.5, clock="text", feeds={"image": Feed(max_age_s=1.0)}) as stream:
            found: list[Answer] = []
            for modality, chunk, t in (
                ("image", picture(), 0.0),
                ("text", "go", 0.0),
                ("text", "go", 0.6),
                ("image", picture(1), 1.6),
                ("text", "stop", 1.7),
            ):
                stream.push(modality, chunk, t)
                found += answers(stream) if at_once else ()
            found += answers(stream)
            return [dict(answer.ages) for answer in found]

    assert ages(at_once=True) == ages(at_once=False)
    assert ages(at_once=True)[0]["image"] == 0.5


def test_what_waits_for_what_is_missing_waits_as_the_stream_goes_on(still: Pipeline) -> None:
    """Whether someone asks meanwhile changes nothing: it is the times of data that count."""
    outcomes = []
    for asks in (True, False):
        recorder = Recorder(still)
        with Stream(recorder, hop_s=None, feeds=feeds(100)) as stream:
            stream.push("motion", counted(0, 2), 0.0)
            stream.push("motion", counted(4, 2), 0.04)
            stream.push("image", picture(), 0.155)
            if asks:
                stream.predict()
            stream.push("image", picture(1), 0.17)
            if asks:
                stream.predict()
            assert not stream.push("motion", counted(2, 2), 0.02), "it is late"
            stream.predict(0.18)
        outcomes.append(recorder.windows[-1])
    assert outcomes == 2 * [[1, 0, 0, 4, 5]]
