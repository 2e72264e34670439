"""A storm of pushes, and several streams over one open bundle."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from benchmarks import streams
from benchmarks.soak.lines import pushes, shares
from edgefuse.bundle.spec import Modality
from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.stream.pushes import Held

PUSHES = 10_000


def test_every_push_of_a_storm_from_several_threads_is_accounted_for(load_tiny: Callable[..., Pipeline]) -> None:
    with load_tiny() as pipeline:
        outcome = streams.storm(pipeline, PUSHES)
    assert outcome.errors == ()
    assert outcome.accounted, outcome
    assert outcome.predictions > 0, "more than wait at the end only if the one that predicts gets its turn"
    assert outcome.peak_bytes < 20_000
    assert all(one.late and one.duplicates for one in outcome.counts.values()), outcome.counts
    assert outcome.counts["motion"].used


def arriving(modality: Modality, seed: int) -> Iterator[tuple[float, str, streams.Push]]:
    for push in streams.Device(modality, seed).pushes():
        yield push.arrives_s, modality.name, push


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_storm_in_step_is_accounted_for_at_any_time(load_tiny: Callable[..., Pipeline], seed: int) -> None:
    now = [0.0]
    with load_tiny(backend="null") as pipeline:
        stream = Stream(Held(pipeline), hop_s=0.05, feeds=streams.feeds(pipeline), now=lambda: now[0])
        sent = [arriving(one, seed) for one in pipeline.manifest.model.modalities]
        refused = 0
        for number, (arrives_s, name, push) in enumerate(islice(heapq.merge(*sent, key=lambda one: one[0]), PUSHES)):
            now[0] = arrives_s
            try:
                stream.push(name, push.chunk, push.t)
            except InputError:
                refused += not push.valid
            while (answer := stream.poll()) is not None:
                assert all(age <= 1 for name, age in answer.ages.items() if name != "text"), answer.ages
            if number % 100 == 0:
                counts = stream.counts
                assert sum(one.pushed for one in counts.values()) == number + 1
                assert all(0 <= one.waiting <= 40 for one in counts.values()), counts
        stream.close()
    counts = stream.counts
    assert all(one.used + one.dropped + one.late == one.pushed for one in counts.values())
    assert sum(one.refused for one in counts.values()) == refused
    assert counts["motion"].used > 0.8 * counts["motion"].pushed, counts["motion"]
    assert stream.predictions > 100


@pytest.mark.timing
def test_eight_streams_get_equal_shares_without_threads_of_their_own(load_tiny: Callable[..., Pipeline]) -> None:
    with load_tiny() as pipeline:
        found = streams.shares(pipeline, 1.0)
    assert min(found.predictions) > 0
    assert found.unfairness < 1.5, found.predictions
    assert found.threads == 0
    assert max(found.size_bytes) < 5_000


def test_the_lines_of_the_soak_run(load_tiny: Callable[..., Pipeline]) -> None:
    with load_tiny() as pipeline:
        pushed = pushes.line(pipeline, 300)
        shared = shares.line(pipeline, 0.3)
    assert pushed.figures["errors"] == []
    assert pushed.figures["pushed"] == 300
    assert len(shared.figures["bytes_of_each"]) == 8
