from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefuse.compiler import forkserver
from edgefuse.compiler import workers as engines
from edgefuse.compiler.workers import Settings, Workers
from edgefuse.errors import EngineError, MissingExtraError, RecipeError

OWN = Path(__file__).parent / "own"
PARALLEL = (("local", 2), ("ray", 2))


@pytest.fixture(scope="module")
def jobs() -> Iterator[Any]:
    """The module `jobs`, which lies beside a recipe and is not installed."""
    sys.path.insert(0, str(OWN))
    yield importlib.import_module("jobs")
    sys.path.remove(str(OWN))


class Steps(list[tuple[int, int, str]]):
    """The progress that was reported; `then` is called with each step, too."""

    then: Callable[[str], object] = str

    def __call__(self, done: int, total: int, what: str) -> None:
        self.append((done, total, what))
        self.then(what)


def settings(folder: Path, jobs: int, steps: Steps | None = None) -> Settings:
    return Settings(
        shared=folder, jobs=jobs, paths=(str(OWN),), retries=1, progress=Steps() if steps is None else steps
    )


@pytest.fixture(scope="module", params=PARALLEL, ids=[name for name, _ in PARALLEL])
def parallel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workers, Steps]]:
    """An engine with two workers, kept for the tests of this module."""
    name, count = request.param
    steps = Steps()
    with engines.create(name, settings(tmp_path_factory.mktemp("shared"), count, steps)) as engine:
        yield engine, steps


def test_one_job_at_a_time_runs_here(jobs: Any, tmp_path: Path) -> None:
    steps = Steps()
    with engines.create("local", settings(tmp_path, 1, steps)) as engine:
        found = engine.map(jobs.Square(), [3, 4], "square")
    assert found == [(9, os.getpid()), (16, os.getpid())]
    assert steps == [(1, 2, "square"), (2, 2, "square")]


def test_results_come_in_order_from_other_processes(
    parallel: tuple[Workers, Steps], jobs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine, steps = parallel
    del steps[:]
    with caplog.at_level(logging.WARNING):
        found = engine.map(jobs.Square(), range(6), "square")
    assert [square for square, _ in found] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in found}
    told = [record.message for record in caplog.records if record.name == "jobs"]
    assert told == [f"squared {item}" for item in range(6)]
    assert steps[-1] == (6, 6, "square")
    assert len(steps) <= 6


def test_a_job_is_heard_while_it_runs(parallel: tuple[Workers, Steps], jobs: Any, tmp_path: Path) -> None:
    engine, steps = parallel
    del steps[:]
    steps.then = lambda what: (tmp_path / f"heard-{what[-1]}").touch()
    assert engine.map(jobs.Tell(tmp_path), [7, 8, 9], "tell") == [True] * 3  # each of them waited to be heard
    steps.then = str
    heard = [step for step in steps if step[2] != "tell"]
    assert sorted(heard) == [(1, 2, f"job {number} of 3: item {number + 6}") for number in (1, 2, 3)]
    assert steps[-1] == (3, 3, "tell")


def test_a_job_waits_for_nobody_to_hear_it(parallel: tuple[Workers, Steps], jobs: Any, tmp_path: Path) -> None:
    engine, steps = parallel
    del steps[:]
    ended: list[bool] = []
    steps.then = lambda _: ended.append(jobs.waited_for(tmp_path / "said-1") and jobs.waited_for(tmp_path / "said-2"))
    engine.map(jobs.Chatter(tmp_path), [1, 2], "chat")
    steps.then = str
    assert ended[0], "the jobs waited until the first of their reports was heard"
    assert steps[0][2].startswith("job ")


def test_what_is_reported_in_this_process_is_heard_at_once(jobs: Any, tmp_path: Path) -> None:
    steps = Steps()
    steps.then = lambda what: (tmp_path / f"heard-{what[-1]}").touch()
    with engines.create("local", settings(tmp_path, 1, steps)) as engine:
        assert engine.map(jobs.Tell(tmp_path), [3], "tell") == [True]
    assert steps == [(1, 2, "item 3"), (1, 1, "tell")]
    engines.report(1, 2, "nobody")  # outside of a job


def test_a_worker_has_one_thread(parallel: tuple[Workers, Steps], jobs: Any) -> None:
    assert parallel[0].map(jobs.Threads(), [0, 1], "count") == [(1, "1")] * 2


def test_nothing_to_do_is_nothing(parallel: tuple[Workers, Steps], jobs: Any) -> None:
    assert parallel[0].map(jobs.Square(), [], "square") == []


def test_the_first_error_in_order_arrives_as_it_was_raised(parallel: tuple[Workers, Steps], jobs: Any) -> None:
    engine, _ = parallel
    with pytest.raises(MissingExtraError) as caught:
        engine.map(jobs.Fail(), range(5), "fail")
    assert str(caught.value) == (
        "the second item needs the module 'two', which is not installed. Fix: pip install 'edgefuse[second]'."
    )
    assert caught.value.extra == "second"
    assert 'raise MissingExtraError("the second item"' in str(caught.value.__cause__)
    assert engine.map(jobs.DieOnce(OWN), [5], "go on") == [5]


def test_the_job_of_a_worker_that_died_is_tried_again(
    parallel: tuple[Workers, Steps], jobs: Any, tmp_path: Path
) -> None:
    assert parallel[0].map(jobs.DieOnce(tmp_path), range(4), "die") == [0, 1, 2, 3]
    assert (tmp_path / "died").exists()


def test_a_job_that_kills_every_worker_is_one_sentence(parallel: tuple[Workers, Steps], jobs: Any) -> None:
    with pytest.raises(EngineError, match=r"^die \(job 3 of 3\): this job crashed its worker 2 times") as caught:
        parallel[0].map(jobs.DieAlways(), range(3), "die")
    assert "\n" not in str(caught.value)


def test_what_cannot_travel_is_one_sentence(parallel: tuple[Workers, Steps], jobs: Any) -> None:
    engine, _ = parallel
    with pytest.raises(EngineError, match=r"square: a job cannot be sent to a worker: got .*lambda.*Fix: define the"):
        engine.map(lambda item: item, [1], "square")
    with pytest.raises(
        EngineError, match="the result of a job cannot be sent from its worker: got a result of type function"
    ):
        engine.map(jobs.Return(), [1], "return")


def test_what_another_process_cannot_make_is_one_sentence() -> None:
    """A class of a notebook travels by its name, which no other process knows."""
    for travelled in (b"c__main__\nNobodyKnowsIt\n.", b"cno_such_module\nNet\n."):
        outcome = pickle.loads(engines.attempt(pickle.dumps(str), travelled))
        with pytest.raises(EngineError, match=r"^a job cannot be made in a worker: got .*Fix: put the classes and fun"):
            outcome.result()


def test_a_ray_worker_that_does_not_see_the_cache_says_so(tmp_path: Path) -> None:
    ray_engine = importlib.import_module("edgefuse.compiler.workers.ray")
    outcome = pickle.loads(ray_engine.run(b"", b"", (), tmp_path / "probe"))
    with pytest.raises(EngineError, match=f"does not see the cache folder {tmp_path}: expected .* Fix: give one with"):
        outcome.result()


def test_a_ray_cluster_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(EngineError, match="the Ray cluster 'nonsense' cannot be used"):
        engines.create("ray", settings(tmp_path, 2)).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("moon", 1, "unknown engine 'moon': expected local or ray."),
        ("local", 0, "the number of jobs is out of range: got 0, expected at least 1."),
    ],
)
def test_an_engine_that_cannot_be_is_one_sentence(name: str, count: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        engines.create(name, settings(tmp_path, count))
    assert str(caught.value) == message


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive), signal.SIGKILL])
def test_no_worker_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    script = f"""
        import signal, sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        sys.path.insert(0, {str(OWN)!r})
        import jobs
        from edgefuse.compiler import workers as engine
        with engine.create("local", engine.Settings(Path({str(tmp_path)!r}), jobs=2, paths=({str(OWN)!r},))) as two:
            two.map(jobs.Sleep(Path({str(tmp_path)!r})), [1, 2], "sleep")
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        process.send_signal(how)
        assert process.stderr is not None
        written = process.stderr.read()  # ends when the workers, too, have closed it
    assert how == signal.SIGKILL or b"KeyboardInterrupt" in written
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    for _ in range(2000):
        if not any(_runs(worker) for worker in workers):
            return
        time.sleep(0.05)
    raise AssertionError("workers are left")


def _runs(process: int) -> bool:
    """Tell whether a process is there and not only waiting for its parent to look at its exit code."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_error_survives_the_way_between_processes() -> None:
    error = RecipeError("what is wrong", got=1, expected=2, fix="do it")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.what, again.fix) == (RecipeError, str(error), error.what, error.fix)


def test_workers_have_the_environment_of_the_moment_and_one_thread(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that they are forked from may have started long before."""
    for value in ("one", "two"):
        monkeypatch.setenv("EDGEFUSE_OF_A_TEST", value)
        with engines.create("local", settings(tmp_path, 2)) as engine:
            found = engine.map(jobs.Variable(), ["EDGEFUSE_OF_A_TEST", "OMP_NUM_THREADS"], "ask")
        assert found == [value, "1"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_what_workers_are_forked_from_has_one_thread() -> None:
    code = "import os, edgefuse.compiler.preloaded as made; print(made.__name__, len(os.listdir('/proc/self/task')))"
    variables = os.environ | forkserver.ONE_THREAD
    made = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert made.stdout == "edgefuse.compiler.preloaded 1\n"
    assert made.stderr == ""
