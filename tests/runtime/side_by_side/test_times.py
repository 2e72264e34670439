"""When encoders run side by side: where it was measured to be faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.spec import StageOutput, TensorSpec
from edgefuse.errors import BackendError
from edgefuse.runtime import side_by_side
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.runtime.side_by_side import Times, separate
from tests.runtime.side_by_side.calls import BOTH, NAMES, NARROW, Raw, logits, raws
from tests.runtime.test_opened import towers


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
