"""Encoders in two threads: equal answers, whatever is there or kept, and a thread that never outlives its bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.spec import StageOutput, StageSpec, TensorSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError
from edgefuse.runtime import side_by_side
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.runtime.graph import Graph
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.side_by_side import Helper, Times, separate
from tests.runtime.test_forks import in_child
from tests.runtime.test_opened import towers

Raw = dict[str, Any]

NAMES = ("image", "text", "motion")
SUBSETS = list(chain.from_iterable(combinations(NAMES, size) for size in (1, 2, 3)))
NARROW, BOTH = 1.0, 0.5
"""Seconds of an encoder with all threads; with half of them one second: as fast, or slower."""


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take two threads wherever the tests run."""
    monkeypatch.setattr("edgefuse.runtime.backends.backend.checked_threads", lambda threads: threads)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[object]]:
    """Make side by side faster from here on, and write down when it is measured."""

    def measure(full_s: float) -> list[object]:
        asked: list[object] = []

        def measured(stages: object, plans: Mapping[str, object], *_: object, **__: object) -> Any:
            asked.append(stages)
            return Times(dict.fromkeys(plans, full_s), dict.fromkeys(plans, 1.0), 0.1), []

        monkeypatch.setattr(side_by_side, "measured", measured)
        return asked

    return measure


@pytest.fixture(params=["onnx", "tflite"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """The tiny bundle for either runtime."""
    found: Path = request.getfixturevalue({"onnx": "tiny_bundle", "tflite": "tflite_bundle"}[request.param])
    return found


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many modalities each call shares from here on."""
    counts: list[int] = []
    real = Helper.share

    def share(self: Helper, jobs: Any) -> None:
        jobs = list(jobs)
        counts.append(len(jobs))
        real(self, jobs)

    monkeypatch.setattr(Helper, "share", share)
    return counts


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgefuse-encoders"]


def logits(pipeline: Pipeline, raw: Raw) -> npt.NDArray[np.float32]:
    return np.asarray(pipeline(**raw).outputs["logits"], np.float32)


def raws(count: int) -> list[Raw]:
    rng = np.random.default_rng(5)
    return [
        {
            "image": rng.integers(0, 256, (8, 8), dtype=np.uint8),
            "text": " ".join(rng.choice(["stop", "go", "wait", "now"], 3)),
            "motion": rng.normal(size=(1, 3, 3)).astype(np.float32),
        }
        for _ in range(count)
    ]


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


def test_a_rung_is_measured_once(tiny_bundle: Path, measuring: Callable[[float], list[object]]) -> None:
    asked = measuring(NARROW)
    raw = raws(1)[0]
    with edgefuse.load(tiny_bundle, threads=2) as pipeline:
        answers = [logits(pipeline.at("small"), raw) for _ in range(3)]
        assert len(asked) == 2
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.parametrize("full_s", [NARROW, BOTH])
def test_a_file_is_opened_twice_only_where_all_threads_are_faster(
    tiny_bundle: Path, measuring: Callable[[float], Any], full_s: float
) -> None:
    measuring(full_s)
    with edgefuse.load(tiny_bundle, threads=2) as pipeline, pipeline._calling() as graph:
        assert graph._sides is not None
        alone, beside = graph._sessions, graph._sides.sessions
        assert {name for name in beside if alone[name] is beside[name]} == (set(beside) if full_s == NARROW else set())
        assert pipeline._opened is not None
        assert len(pipeline._opened._sessions) == (5 if full_s == NARROW else 9)


def test_what_is_measured_is_opened_a_modality_at_a_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    open_file, times = OnnxBackend.open, iter([[0.5, 1.0], [1.0, 1.0], [0.97, 1.0], [1.1]])

    def noting(self: OnnxBackend, data: bytes, inputs: Any, outputs: Any, options: SessionOptions) -> Any:
        opened.append(options.threads)
        return open_file(self, data, inputs, outputs, options)

    def timed(ways: Sequence[Callable[[], object]], turn: Callable[[], AbstractContextManager[object]]) -> list[float]:
        for way in ways:
            with turn():
                way()
        return next(times)

    monkeypatch.setattr(OnnxBackend, "open", noting)
    monkeypatch.setattr(side_by_side, "_fastest", timed)
    with edgefuse.load(tiny_bundle, threads=2) as pipeline:
        assert opened == [1] * 4 + [2] * 5, "four encoders' files; these, and the fusion"
        with pipeline._calling() as graph:
            assert graph._sides is not None
            assert graph._sides.times.narrow == {"text", "motion"}
        assert pipeline._opened is not None
        assert len(pipeline._opened._sessions) == 4 + 2 + 1


def test_where_it_does_not_pay_all_have_all_threads(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [3.5]])
    monkeypatch.setattr(side_by_side, "_fastest", lambda *_: next(times))
    with edgefuse.load(tiny_bundle, threads=2) as pipeline, pipeline._calling() as graph:
        assert graph._sides is None
        assert pipeline._opened is not None
        assert {key[-1] for key in pipeline._opened._sessions} == {2}
        assert pipeline._opened.open(pipeline.rung)._sides is None


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


# What two threads do with work, without any model.


@pytest.fixture
def helper() -> Any:
    """A helper, ended afterwards."""
    helper = Helper()
    yield helper
    helper.stop()
    helper.join()
    assert helper._thread is None or not helper._thread.is_alive()


def meeting() -> Callable[[], bool]:
    """Return a job for two threads: it waits for the other one, and says whether it is in the thread of the test."""
    barrier, test = threading.Barrier(2, timeout=60), threading.current_thread()

    def meet() -> bool:
        barrier.wait()
        return threading.current_thread() is test

    return meet


def test_two_jobs_run_at_the_same_time_and_what_is_left_goes_to_whoever_is_free(helper: Helper) -> None:
    for _ in range(3):
        meet, done = meeting(), list[int]()
        helper.share([meet, meet, *(partial(done.append, number) for number in range(9))])
        assert sorted(done) == list(range(9))


def test_an_error_of_the_helper_is_told_and_the_next_call_works(helper: Helper) -> None:
    meet = meeting()

    def job() -> None:
        if not meet():
            raise BackendError("a runtime cannot run a stage", got="a fault")

    for _ in range(3):
        with pytest.raises(BackendError, match="got a fault") as caught:
            helper.share([job, job])
        assert caught.value.__traceback__ is not None
    helper.share([meet, meet])


def test_of_two_errors_the_callers_is_told(helper: Helper) -> None:
    meet = meeting()

    def job() -> None:
        raise BackendError("the caller's" if meet() else "the helper's")

    for _ in range(3):
        with pytest.raises(BackendError, match="the caller's"):
            helper.share([job, job])


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError])
def test_an_error_of_the_caller_waits_for_what_the_helper_does_and_drops_the_rest(
    helper: Helper, error: type[BaseException]
) -> None:
    meet, done = meeting(), list[str]()

    def job() -> None:
        if meet():
            raise error("stop")
        for _ in range(1000):
            pass
        done.append("the helper's")

    def never() -> None:
        done.append("dropped") if threading.current_thread() is threading.main_thread() else None

    with pytest.raises(error):
        helper.share([job, job, never])
    assert done == ["the helper's"]


def test_the_caller_does_it_all_where_the_system_gives_no_thread(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    jobs = [lambda: done.append(threading.get_ident())] * 3
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        helper.share(jobs)
    assert done == [threading.get_ident()] * 3
    assert helper._asked.empty()
    meet = meeting()
    helper.share([meet, meet])


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


# When it is done.


def test_it_is_measured_and_the_answers_stay(bundle: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(bundle) as one, edgefuse.load(bundle, threads=2) as two:
        assert two._opened is not None
        (times,) = two._opened._times.values()
        assert set(times.half_s) == set(times.full_s) == set(NAMES)
        assert min(*times.half_s.values(), *times.full_s.values(), times.slowed) > 0
        assert (two.cache.hits, two.cache.misses) == (0, 0)
        np.testing.assert_allclose(logits(two, tiny_raw), logits(one, tiny_raw), atol=1e-6)


def test_a_file_that_does_not_run_is_left_to_the_calls(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Any:
        raise BackendError("a runtime cannot run a stage")

    monkeypatch.setattr("edgefuse.runtime.backends.onnx.session.OnnxSession.run", failing)
    with edgefuse.load(tiny_bundle, threads=2) as pipeline:
        with pytest.raises(BackendError, match="cannot run a stage"):
            pipeline(**raws(1)[0])
        with pipeline._calling() as graph:
            assert graph._sides is None


def test_two_threads_take_the_longest_first() -> None:
    times = Times({"a": 3.0, "b": 5.0, "c": 4.0}, {"a": 3.0, "b": 8.0, "c": 4.0}, 1.5)
    assert times.order(("a", "b", "c")) == ()  # 1.5 * 8 against 3 + 5 + 4
    assert not times.pay
    assert times.narrow == frozenset()
    times = Times(times.full_s, times.half_s, 1.2)
    assert times.order(("a", "b", "c")) == ("b", "c", "a")
    assert times.pay
    assert times.narrow == {"a", "c"}
    assert times.order(("a", "c")) == ("c", "a")
    assert times.order(("a", "b")) == ()
    assert times.order(("b",)) == ()
    assert times.order(()) == ()


def test_what_saves_less_than_waking_a_thread_is_not_shared() -> None:
    assert Times({"a": 40e-6, "b": 40e-6}, {"a": 40e-6, "b": 40e-6}, 1.0).order(("a", "b")) == ()
    assert Times({"a": 60e-6, "b": 60e-6}, {"a": 60e-6, "b": 60e-6}, 1.0).order(("a", "b")) == ("a", "b")


def test_what_shares_a_file_keeps_a_state_or_runs_elsewhere_runs_one_after_the_other(tiny_manifest: Manifest) -> None:
    rung = tiny_manifest.rungs[0]
    assert separate(tiny_manifest, rung) == NAMES
    manifest, _ = towers()
    assert separate(manifest, manifest.rungs[0]) == ()

    def on_gpu(stage: str) -> Manifest:
        return msgspec.structs.replace(
            tiny_manifest,
            candidates=tuple(
                msgspec.structs.replace(one, accelerator="gpu") if one.stage == stage else one
                for one in tiny_manifest.candidates
            ),
        )

    assert separate(on_gpu("text_encoder"), rung) == ("image", "motion")
    state = StageOutput(tensor=TensorSpec(name="next", shape=(1, 8)), kind="state")
    stateful = msgspec.structs.replace(
        tiny_manifest,
        stages=tuple(
            msgspec.structs.replace(one, outputs=(*one.outputs, state)) if one.name == "motion_encoder" else one
            for one in tiny_manifest.stages
        ),
    )
    assert separate(stateful, rung) == ("image", "text")


def test_a_shared_file_answers_as_with_one_thread(
    tmp_path: Path, measuring: Callable[[float], Any], shared: list[int]
) -> None:
    measuring(NARROW)
    write_bundle(tmp_path / "towers", *towers())
    near, far = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    with edgefuse.load(tmp_path / "towers", threads=2) as pipeline:
        assert logits(pipeline, {"a": far, "b": near}).tolist() == [[18, 22, 26]]
    assert not shared


def test_denormal_numbers_are_flushed_in_both_threads(helper: Helper) -> None:
    from edgefuse.runtime.backends.denormals import _THREAD

    meet, flushing = meeting(), dict[bool, bool]()

    def job() -> None:
        flushing[meet()] = _THREAD.flushing

    helper.share([job, job])
    assert flushing[False]
