"""A steady stream, picture and text unchanged: a step of sound costs what the timings of its stages predict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

import edgefuse
from benchmarks.soak.line import Line, Setting
from edgefuse.runtime.backends.backend import Array, Session
from edgefuse.runtime.cache import CachedSession
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream

RECIPES = ("digits/recipe.toml", "assistant/recipe.toml")
TARGETS = ("onnx", "tflite")

HOP_S = 0.1
MOST_BEYOND = 0.1
_ROUNDS, _WARM, _HOPS = 60, 5, 14  # a round is so many hops: whole chunks for `digits`, too
_TEXT = "seven"


def run(setting: Setting) -> Line:
    """Compare the processor time of a step with the sum of its stages', and report how soon answers come."""
    figures: dict[str, Any] = {}
    ok = True
    for recipe in RECIPES:
        for target in TARGETS:
            with edgefuse.load(setting.bundle(recipe, target)) as pipeline:
                found = measured(pipeline)
            name = f"{pipeline.manifest.model.name}_{target}"
            figures |= {f"{name}_{what}": value for what, value in found.items()}
            ok &= found["beyond"] <= MOST_BEYOND
    return Line(line="steady", figures=figures, ok=bool(ok))


def measured(pipeline: Pipeline) -> dict[str, float]:
    """Time hops of a stream and its stages in turns, so that both see the same machine.

    The processor time of this thread is compared, of runtimes with one thread: medians over rounds. Answers are timed
    by the clock, from the last sample of a hop to the answer.

    Args:
        pipeline: with the modalities image, audio and text.
    """
    sounds, stages = _Sounds(pipeline), _stages(pipeline)
    steps, predictions, latencies = [], [], []
    with pipeline.stream(hop_s=HOP_S, clock="audio", feeds={"image": _FOREVER, "text": _FOREVER}) as stream:
        stream.push("image", _picture(pipeline), 0.0)
        stream.push("text", _TEXT, 0.0)
        for number in range(_WARM + _ROUNDS):
            chunks = [sounds.values(HOP_S) for _ in range(_HOPS)]
            begun = time.thread_time_ns()
            answers = [answer for chunk in chunks for answer in sounds.pushed(stream, chunk)]
            stepped = time.thread_time_ns()
            _run(stages)
            predicted = time.thread_time_ns()
            if number >= _WARM:
                steps.append((stepped - begun) / _HOPS / 1e6)
                predictions.append((predicted - stepped) / _HOPS / 1e6)
                latencies += [answer.latency_s for answer in answers]
    step, stage = float(np.median(steps)), float(np.median(predictions))
    told = {f"end_to_answer_p{q}_ms": round(1e3 * float(np.percentile(latencies, q)), 3) for q in (50, 90, 99)}
    return {"step_ms": round(step, 4), "stages_ms": round(stage, 4), "beyond": round(step / stage - 1, 3), **told}


def _run(stages: Mapping[str, tuple[Callable[[], object], Fraction]]) -> None:
    """Run the stages of some hops in the order of a stream: what runs in between leaves caches as cold as there."""
    due = dict.fromkeys(stages, Fraction(0))
    for _ in range(_HOPS):
        for name, (call, runs) in stages.items():
            due[name] += runs
            while due[name] >= 1:
                due[name] -= 1
                call()


_FOREVER = Feed(max_age_s=1e9)


def _picture(pipeline: Pipeline) -> npt.NDArray[np.uint8]:
    shape = pipeline.manifest.model.modality("image").tensors[0].max_shape
    return np.random.default_rng(0).integers(0, 256, shape[1:]).astype(np.uint8)


class _Sounds:
    """Noise for a stream, hop by hop.

    Args:
        pipeline: that the stream is over.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        audio = pipeline.manifest.model.modality("audio")
        self.window_s = audio.tensors[0].max_shape[1] / audio.preprocess.sample_rate_hz  # type: ignore[union-attr]
        self.rate_hz = int(audio.preprocess.sample_rate_hz)  # type: ignore[union-attr] # it is sound
        self._rng, self._number = np.random.default_rng(1), count()

    def values(self, seconds: float) -> npt.NDArray[np.float32]:
        """Return as much sound."""
        return (0.1 * self._rng.standard_normal(round(seconds * self.rate_hz))).clip(-1, 1).astype(np.float32)

    def pushed(self, stream: Stream, chunk: npt.NDArray[np.float32]) -> Iterator[Answer]:
        """Push the next hop, and yield the answers that are due with it."""
        stream.push("audio", chunk, next(self._number) * HOP_S)
        while (answer := stream.poll()) is not None:
            yield answer


def _stages(pipeline: Pipeline) -> dict[str, tuple[Callable[[], object], Fraction]]:
    """Return what runs at a hop, by name: a call of it alone, and how often it runs at one."""
    sounds = _Sounds(pipeline)
    raw = {"image": _picture(pipeline), "text": _TEXT, "audio": sounds.values(sounds.window_s)}
    with _recorded(pipeline) as fed:
        pipeline.infer(pipeline.preprocess(**raw))
    sessions = {name: session for name, session in _sessions(pipeline).items() if _is_run(pipeline, name)}
    found = {name: (_alone(session, fed[name]), Fraction(1)) for name, session in sessions.items()}
    if "audio" in pipeline.streaming:
        heard = pipeline.incremental("audio")
        heard.push(sounds.values(2 * sounds.window_s))
        runs = Fraction(round(HOP_S * sounds.rate_hz), heard.chunk)
        chunk = sounds.values(heard.chunk / sounds.rate_hz)[None]
        others = {name: one for name, one in found.items() if _modality(pipeline, name) != "audio"}
        found = {"audio_steps": (_steps(heard, chunk), runs), **others}
    return found


def _alone(session: Session, feeds: Mapping[str, Array]) -> Callable[[], object]:
    return lambda: session.run(feeds)


def _steps(heard: Incremental, chunk: npt.NDArray[np.float32]) -> Callable[[], object]:
    """Return a call that runs the steps of an encoder on a chunk, and nothing else."""

    def call() -> None:
        given: Array = chunk
        for step in heard._steps:
            given = step.run(given)[step.feature]

    return call


def _is_run(pipeline: Pipeline, stage: str) -> bool:
    """Tell whether a stage runs at each hop: of the sound, or of all."""
    return _modality(pipeline, stage) in ("audio", "")


def _modality(pipeline: Pipeline, stage: str) -> str:
    return next(one.modality for one in pipeline.manifest.stages if one.name == stage)


def _sessions(pipeline: Pipeline) -> dict[str, Any]:
    with pipeline._calling() as graph:
        return {
            name: session.session if isinstance(session, CachedSession) else session
            for name, session in graph._sessions.items()
        }


class _Recorder:
    """Runs a session, and keeps what it was fed with."""

    def __init__(self, session: Session, fed: dict[str, Any], name: str) -> None:
        self._session, self._fed, self._name = session, fed, name

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._fed[self._name] = {port: value.copy() for port, value in feeds.items()}
        return self._session.run(feeds)


@contextmanager
def _recorded(pipeline: Pipeline) -> Iterator[dict[str, Any]]:
    """Give what each stage is fed with, by name."""
    fed: dict[str, Any] = {}
    with pipeline._calling() as graph:
        before = graph._sessions
        graph._sessions = {name: _Recorder(session, fed, name) for name, session in before.items()}
    try:
        yield fed
    finally:
        graph._sessions = before
