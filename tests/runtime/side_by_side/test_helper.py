"""What two threads do with work, without any model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from edgefuse.errors import BackendError
from edgefuse.runtime.side_by_side import Helper


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


def test_denormal_numbers_are_flushed_in_both_threads(helper: Helper) -> None:
    from edgefuse.runtime.backends.denormals import _THREAD

    meet, flushing = meeting(), dict[bool, bool]()

    def job() -> None:
        flushing[meet()] = _THREAD.flushing

    helper.share([job, job])
    assert flushing[False]
