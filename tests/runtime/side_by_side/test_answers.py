"""Encoders in two threads: equal answers, whatever is there or kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.spec import StageSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError
from edgefuse.runtime.graph import Graph
from tests.runtime.side_by_side.calls import BOTH, NAMES, NARROW, Raw, logits, raws
from tests.runtime.test_opened import towers

SUBSETS = list(chain.from_iterable(combinations(NAMES, size) for size in (1, 2, 3)))


@pytest.mark.parametrize("full_s", [NARROW, BOTH])
@pytest.mark.parametrize("cache", [False, True])
def test_answers_are_those_of_one_after_the_other_for_every_subset(
    bundle: Path, tiny_raw: Raw, measuring: Callable[[float], Any], shared: list[int], full_s: float, cache: bool
) -> None:
    measuring(full_s)
    with edgefuse.load(bundle) as one, edgefuse.load(bundle, threads=2, cache=cache) as two:
        assert not shared
        for subset in (*SUBSETS, *SUBSETS):
            raw = {name: tiny_raw[name] for name in subset}
            np.testing.assert_array_equal(logits(two, raw), logits(one, raw))
        # From the second subset of two on, the features of all are remembered.
        assert shared == ([] if cache else [2, 2, 2, 3] * 2)
        if cache:
            assert (two.cache.hits, two.cache.misses) == (one.cache.hits, one.cache.misses)
        for raw in raws(5):
            np.testing.assert_array_equal(logits(two, raw), logits(one, raw))
        assert shared[-5:] == [3] * 5


def test_what_is_remembered_is_handed_to_no_thread(
    bundle: Path, measuring: Callable[[float], Any], shared: list[int]
) -> None:
    measuring(BOTH)
    first, other = raws(2)
    with edgefuse.load(bundle) as one, edgefuse.load(bundle, threads=2) as two:
        for raw, expected in (
            (first, [3]),
            (first, []),
            (first | {"image": other["image"]}, []),
            (first | {"text": other["text"], "motion": other["motion"]}, [2]),
            (other, []),
        ):
            shared.clear()
            np.testing.assert_array_equal(logits(two, raw), logits(one, raw))
            assert shared == expected
            assert (two.cache.hits, two.cache.misses) == (one.cache.hits, one.cache.misses)


def test_explaining_is_equal(tiny_bundle: Path, measuring: Callable[[float], Any], shared: list[int]) -> None:
    measuring(NARROW)
    raw = raws(1)[0]
    with edgefuse.load(tiny_bundle) as one, edgefuse.load(tiny_bundle, threads=2) as two:
        assert two.explain(**raw).contributions == one.explain(**raw).contributions
    assert shared == [3]


def test_streams_are_equal(tiny_bundle: Path, measuring: Callable[[float], Any], shared: list[int]) -> None:
    measuring(NARROW)

    def answers(threads: int) -> list[npt.NDArray[np.float32]]:
        found = []
        with edgefuse.load(tiny_bundle, threads=threads) as pipeline, pipeline.stream(hop_s=None) as stream:
            for at, raw in enumerate(raws(6)):
                for name in NAMES[: 1 + at % 3] if at else NAMES:  # the others keep what they had
                    stream.push(name, raw[name], float(at))
                found.append(np.asarray(stream.predict().outputs["logits"], np.float32))
        return found

    np.testing.assert_array_equal(answers(2), answers(1))
    assert shared == [3, 2, 3, 2, 3]


def test_callers_in_several_threads_get_their_own_answers(
    bundle: Path, measuring: Callable[[float], Any], shared: list[int]
) -> None:
    measuring(BOTH)
    asked = raws(8)
    with edgefuse.load(bundle, cache=False) as one, edgefuse.load(bundle, threads=2, cache=False) as two:
        expected = [logits(one, raw) for raw in asked]
        answers: dict[tuple[int, int], npt.NDArray[np.float32]] = {}

        def call(number: int) -> None:
            for repeat in range(5):
                answers[number, repeat] = logits(two, asked[number])

        callers = [threading.Thread(target=call, args=(number,)) for number in range(len(asked))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(answers) == 40
    for (number, _), answer in answers.items():
        np.testing.assert_array_equal(answer, expected[number])
    assert shared == [3] * 40


def test_the_error_of_a_stage_is_told_whichever_thread_runs_it(
    tiny_bundle: Path, measuring: Callable[[float], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(NARROW)
    raw, real = raws(1)[0], Graph._run_stage
    with edgefuse.load(tiny_bundle, threads=2, cache=False) as pipeline:
        expected = logits(pipeline, raw)
        for name in NAMES:

            def failing(self: Graph, stage: StageSpec, feeds: Any, *sessions: Any, name: str = name) -> Any:
                if stage.name == f"{name}_encoder":
                    raise BackendError("ONNX Runtime cannot run a stage", got=name)
                return real(self, stage, feeds, *sessions)

            with monkeypatch.context() as patched:
                patched.setattr(Graph, "_run_stage", failing)
                with pytest.raises(BackendError, match=f"cannot run a stage: got {name}"):
                    pipeline(**raw)
            np.testing.assert_array_equal(logits(pipeline, raw), expected)


def test_a_shared_file_answers_as_with_one_thread(
    tmp_path: Path, measuring: Callable[[float], Any], shared: list[int]
) -> None:
    measuring(NARROW)
    write_bundle(tmp_path / "towers", *towers())
    near, far = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    with edgefuse.load(tmp_path / "towers", threads=2) as pipeline:
        assert logits(pipeline, {"a": far, "b": near}).tolist() == [[18, 22, 26]]
    assert not shared
