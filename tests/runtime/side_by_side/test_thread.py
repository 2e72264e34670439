"""The thread of an open bundle: when there is one, and that it never outlives its bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgefuse
from tests.runtime.side_by_side.calls import BOTH, NARROW, helpers, logits, raws
from tests.runtime.test_forks import in_child


def test_the_thread_ends_with_the_last_pipeline(tiny_bundle: Path, measuring: Callable[[float], Any]) -> None:
    measuring(NARROW)
    before = helpers()
    pipeline = edgefuse.load(tiny_bundle, threads=2)
    assert set(helpers()) <= set(before), "there was nothing to do yet"
    pipeline(**raws(1)[0])
    (thread,) = set(helpers()) - set(before)
    other = pipeline.at("small")
    pipeline.close()
    other(**raws(1)[0])
    assert thread.is_alive()
    other.close()
    other.close()
    assert not thread.is_alive()


def test_the_thread_ends_when_the_pipeline_is_let_go_of(tiny_bundle: Path, measuring: Callable[[float], Any]) -> None:
    measuring(NARROW)
    before = helpers()
    pipeline = edgefuse.load(tiny_bundle, threads=2)
    pipeline(**raws(1)[0])
    (thread,) = set(helpers()) - set(before)
    del pipeline
    thread.join(30)
    assert not thread.is_alive()


def test_one_thread_has_no_helper(tiny_bundle: Path, measuring: Callable[[float], list[object]]) -> None:
    asked, before = measuring(NARROW), helpers()
    with edgefuse.load(tiny_bundle) as pipeline:
        pipeline(**raws(1)[0])
        assert pipeline._opened is not None
        assert pipeline._opened.helper is None
    assert not asked
    assert set(helpers()) <= set(before)


def test_a_live_bundle_is_swapped(tiny_bundle: Path, measuring: Callable[[float], Any]) -> None:
    measuring(BOTH)
    before, raw = helpers(), raws(1)[0]
    with edgefuse.Live(tiny_bundle, threads=2) as live:
        expected = logits(live.pipeline, raw)
        for _ in range(3):
            live.swap()
            np.testing.assert_array_equal(logits(live.pipeline, raw), expected)
        left = set(helpers()) - set(before)
    for thread in left:
        thread.join(30)
    assert set(helpers()) <= set(before)


def test_a_fork_waits_for_the_helper_and_a_child_makes_its_own(bundle: Path, measuring: Callable[[float], Any]) -> None:
    measuring(BOTH)
    raw = raws(1)[0]
    with edgefuse.load(bundle, threads=2, cache=False) as pipeline:
        expected = str(logits(pipeline, raw).tolist())
        ended = threading.Event()

        def call() -> None:
            while not ended.is_set():
                pipeline(**raw)

        def reopened() -> str:
            with edgefuse.load(bundle, threads=2, cache=False) as own:
                return str(logits(own, raw).tolist())

        caller = threading.Thread(target=call)
        caller.start()
        try:
            for _ in range(3):
                assert in_child(lambda: pipeline(**raw)).startswith(
                    "BackendError: this pipeline was opened before a fork"
                )
                assert in_child(reopened) == expected
                assert in_child(pipeline.close) == "None"
        finally:
            ended.set()
            caller.join()
        assert str(logits(pipeline, raw).tolist()) == expected
