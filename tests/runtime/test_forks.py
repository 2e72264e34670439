"""A process that forks while other threads predict: the child neither hangs nor predicts with what it inherited."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import edgefuse
from edgefuse.errors import BackendError
from edgefuse.runtime import forks
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.processor import available_processors

# Wherever there are two processors, a pool that has a thread of its own to lose.
THREADS = min(2, available_processors())


@pytest.fixture(params=["onnx", "tflite"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """The tiny bundle for either runtime."""
    found: Path = request.getfixturevalue({"onnx": "tiny_bundle", "tflite": "tflite_bundle"}[request.param])
    return found


@contextmanager
def predicting(pipelines: list[Pipeline], raw: dict[str, Any]) -> Iterator[None]:
    """Predict with each of these in a thread of its own within the block."""
    ended = threading.Event()

    def predict(pipeline: Pipeline) -> None:
        while not ended.is_set():
            pipeline(**raw)

    threads = [threading.Thread(target=predict, args=(pipeline,)) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def in_child(action: Callable[[], object]) -> str:
    """Return what an action says in a forked child: its result, or its error; or that it hung."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        try:
            said = str(action())
        except BaseException as error:  # noqa: BLE001 - must not get into the tests' own code
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return "it hung" if os.WIFSIGNALED(status) else said


def test_what_a_child_inherited_says_so_and_a_child_may_open_its_own(bundle: Path, tiny_raw: dict[str, Any]) -> None:
    def reopened() -> str:
        with edgefuse.load(bundle, threads=THREADS) as own:
            return str(own(**tiny_raw).label)

    pipelines = [edgefuse.load(bundle, threads=THREADS, cache=False) for _ in range(2)]
    idle = edgefuse.load(bundle, threads=THREADS)
    label = idle(**tiny_raw).label
    with predicting(pipelines, tiny_raw):
        for pipeline in (*pipelines, idle) * 3:
            said = in_child(lambda pipeline=pipeline: pipeline(**tiny_raw))  # type: ignore[misc]
            assert said.startswith("BackendError: this pipeline was opened before a fork, which inference libraries do")
            assert said.endswith(
                "open the bundle again in the child, or start processes with multiprocessing's 'spawn'."
            )
            assert in_child(reopened) == label
    assert idle(**tiny_raw).label == label, "the parent goes on"


def test_closing_and_freeing_in_the_child_does_not_wait_for_lost_threads(
    bundle: Path, tiny_raw: dict[str, Any]
) -> None:
    pipelines = [edgefuse.load(bundle, threads=THREADS, cache=False) for _ in range(2)]

    def close() -> str:
        for pipeline in pipelines:
            pipeline.close()
        pipelines.clear()
        return "closed"

    with predicting(pipelines, tiny_raw):
        for _ in range(2):
            assert in_child(close) == "closed"


def test_both_halves_of_a_call_are_refused(tiny_bundle: Path, tiny_raw: dict[str, Any]) -> None:
    with edgefuse.load(tiny_bundle) as pipeline:
        inputs = pipeline.preprocess(**tiny_raw)
        assert "opened before a fork" in in_child(lambda: pipeline.infer(inputs))
        assert "opened before a fork" in in_child(lambda: pipeline.preprocess(**tiny_raw))


def test_a_child_ends_as_any_process_does(bundle: Path) -> None:
    code = (
        "import os, sys, edgefuse\n"
        f"pipeline = edgefuse.load({str(bundle)!r}, threads={THREADS})\n"
        "if os.fork(): sys.exit(os.wait()[1])\n"
        "sys.exit(0)  # frees everything, in the child\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0


def test_a_fork_waits_for_calls_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_SECONDS", 0.2)
    busy, idle = forks.Guard(), forks.Guard()
    started, ended = threading.Event(), threading.Event()

    def call() -> None:
        with busy.lock:
            started.set()
            ended.wait(30)

    thread = threading.Thread(target=call)
    thread.start()
    started.wait(30)
    began = time.monotonic()
    assert in_child(lambda: busy.lock.acquire(timeout=0) and idle.lock.acquire(timeout=0)) == "True"
    assert time.monotonic() - began >= 0.2
    ended.set()
    thread.join()
    for guard in (busy, idle):
        assert not guard.inherited
        assert guard.lock.acquire(timeout=0), "the parent's are free again"
        guard.check()


def test_a_fork_in_the_middle_of_an_own_call_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_SECONDS", 600.0)
    guard = forks.Guard()
    began = time.monotonic()
    with guard.lock:
        assert "opened before a fork" in in_child(guard.check)
    assert time.monotonic() - began < forks.PATIENCE_SECONDS


def test_what_was_freed_is_forgotten() -> None:
    guard, opened = forks.Guard(), threading.Event()
    forks.outlive(opened)
    places: list[tuple[dict[int, Any], int]] = [(forks._guards, id(guard)), (forks._opened, id(opened))]
    kept = [registry[key] for registry, key in places]
    assert [reference() for reference in kept] == [guard, opened]
    del guard, opened
    gc.collect()
    for reference, (registry, key) in zip(kept, places, strict=True):
        assert registry.get(key) is not reference


def test_the_error_is_one_of_the_tree() -> None:
    guard = forks.Guard()
    guard.inherited = True
    with pytest.raises(BackendError, match=r"got a call in the child process \d+\. Fix: open the bundle again"):
        guard.check()
