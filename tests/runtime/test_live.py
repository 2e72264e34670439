"""A bundle or a rung that takes the place of another in a running process, and what never does."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt
import pytest

import edgefuse
from benchmarks.swaps import Callers, counted
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BackendError, BundleError, InputError
from edgefuse.measure import golden
from edgefuse.runtime.pipeline import Pipeline
from tests.runtime.second import WRONG, second
from tests.runtime.test_forks import in_child
from tests.runtime.test_opened import towers

Raw = dict[str, Any]
CHANGES = 200


@pytest.fixture
def first(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]) -> Path:
    """The tiny bundle as one file."""
    write_bundle(tmp_path / "first.edgefuse", tiny_manifest, tiny_contents)
    return tmp_path / "first.edgefuse"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A bundle of the same model that answers otherwise."""
    return second(tmp_path / "second.edgefuse")


def logits(pipeline: Pipeline, raw: Raw) -> npt.NDArray[np.float32]:
    return np.asarray(pipeline(**raw).outputs["logits"], np.float32)


def answers(raw: Raw, *paths: Path) -> list[npt.NDArray[np.float32]]:
    """Return what the bundles answer alone at their rungs, `float` first."""
    found = []
    for path in paths:
        with edgefuse.load(path) as alone, alone.at("small") as small:
            found += [logits(alone, raw), logits(small, raw)]
    return found


def digest_of(path: Path) -> str:
    with open_bundle(path) as bundle:
        return bundle.digest


def test_another_bundle_takes_the_place(
    first: Path, other: Path, tiny_raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    before, _, after, small = answers(tiny_raw, first, other)
    assert not np.array_equal(before, after)
    with edgefuse.Live(first) as live, caplog.at_level(logging.INFO, "edgefuse.runtime.live"):
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), before)
        held = live.pipeline
        live.swap(other)
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), after)
        np.testing.assert_array_equal(logits(held, tiny_raw), before)  # a call that is under way ends on the old one
        assert (live.path, live.digest) == (other, digest_of(other))
        live.at("small")
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), small)
    assert [record.getMessage() for record in caplog.records] == [
        f"{other} (digest {digest_of(other)[:12]}, rung 'float') takes the place of "
        f"{first} (digest {digest_of(first)[:12]}, rung 'float')",
        f"{other} (digest {digest_of(other)[:12]}, rung 'small') takes the place of rung 'float'",
    ]


def test_a_rung_may_be_assigned_as_to_any_attribute(first: Path, other: Path, tmp_path: Path) -> None:
    with edgefuse.Live(first) as live:
        small = live.pipeline.at("small")
        live.pipeline = small
        assert live.pipeline.rung.name == "small"
        live.at(None)
        live.swap(other)  # in between
        live.pipeline = small
        assert (live.path, live.pipeline.rung.name) == (other, "small")


def test_without_a_path_the_same_one_is_opened_again(first: Path, other: Path, tiny_raw: Raw) -> None:
    (after, _) = answers(tiny_raw, other)
    with edgefuse.Live(first) as live:
        other.replace(first)
        live.swap()
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), after)


def test_the_rung_that_was_asked_for_stays_where_there_is_one(first: Path, other: Path, tmp_path: Path) -> None:
    with edgefuse.Live(first, rung="small") as live:
        live.swap(other)
        assert live.pipeline.rung.name == "small"
        live.at(None)
        live.swap(first)
        assert live.pipeline.rung.name == "float"
    write_bundle(tmp_path / "towers", *towers())
    with pytest.raises(BundleError, match="no such rung"):
        edgefuse.Live(tmp_path / "towers", rung="small")


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_and_the_old_one_stays(
    kind: str, first: Path, tmp_path: Path, tiny_raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    make, says = WRONG[kind]
    path = make(tmp_path / "wrong.edgefuse")
    before, _ = answers(tiny_raw, first)
    with edgefuse.Live(first) as live:
        held, files = ref(live.pipeline), counted()
        for _ in range(3):
            with pytest.raises(BundleError, match=says):
                live.swap(path)
        assert live.pipeline is held()
        assert live.path == first
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), before)
        gc.collect()
        assert max(counted(files)) <= 0  # what tests before left behind may end meanwhile
    assert f"{first} (digest {digest_of(first)[:12]}, rung 'float') goes on: the bundle" in caplog.text


def test_another_model_is_refused_by_its_modalities(first: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "towers", *towers())
    with (
        edgefuse.Live(first) as live,
        pytest.raises(BundleError, match=r"its modalities are not as .*: got a, b, expected image, text, motion\. Fix"),
    ):
        live.swap(tmp_path / "towers")


def test_a_pin_stays_until_another_is_named(first: Path, other: Path) -> None:
    mine, yours = digest_of(first), digest_of(other)
    with pytest.raises(BundleError, match="not the pinned one"):
        edgefuse.Live(first, digest=yours)
    with edgefuse.Live(first, mine) as live:
        for wrong in (None, mine, "", "0" * 64):
            with pytest.raises(BundleError, match=f"its digest is not the pinned one: got {yours}"):
                live.swap(other, wrong)
        live.swap(other, yours)
        with pytest.raises(BundleError, match="its digest is not the pinned one"):
            live.swap(first)
        live.swap()
        assert live.digest == yours


def test_golden_vectors_are_asked_for(first: Path, other: Path) -> None:
    with edgefuse.Live(first, check=golden.require) as live:
        with pytest.raises(
            BundleError, match=r"does not meet its golden vectors .*: got fusion\.float: output 'logits'"
        ):
            live.swap(other)
        live.swap(first)


def test_nothing_is_lost_while_bundles_and_rungs_change(
    first: Path, other: Path, tmp_path: Path, tiny_raw: Raw
) -> None:
    right = answers(tiny_raw, first, other)
    wrong = WRONG["truncated"][0](tmp_path / "wrong.edgefuse")
    before = counted()
    live = edgefuse.Live(first)
    callers = Callers(live, live.pipeline.preprocess(**tiny_raw), right)
    turns = cycle(
        (partial(live.swap, other), partial(live.at, "small"), partial(live.swap, first), partial(live.at, None))
    )
    refused = 0
    with callers.calling(threads=2):
        for number, change in enumerate(islice(turns, CHANGES)):
            change()
            if number % 20 == 0:
                with pytest.raises(BundleError):
                    live.swap(wrong)
                refused += 1
    assert (callers.lost, refused) == ([], CHANGES // 20)
    assert callers.answered
    live.close()
    del callers, live, turns, change
    gc.collect()
    assert max(counted(before)) <= 0


def test_what_was_replaced_is_freed(first: Path, other: Path, tiny_raw: Raw) -> None:
    with edgefuse.Live(first) as live:
        live.pipeline(**tiny_raw)
        old = ref(live.pipeline)
        live.swap(other)
        gc.collect()
        assert old() is None


def test_a_rung_that_is_changed_during_a_swap_is_kept(
    first: Path, other: Path, tiny_raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, small = answers(tiny_raw, other)
    entered, go_on = threading.Event(), threading.Event()

    def check(bundle: Any) -> None:
        if bundle.path == other:
            entered.set()
            assert go_on.wait(60)

    with edgefuse.Live(first, check=check) as live:
        swapping = threading.Thread(target=live.swap, args=(other,))
        swapping.start()
        assert entered.wait(60)
        live.at("small")  # does not wait
        assert (live.path, live.pipeline.rung.name) == (first, "small")
        go_on.set()
        swapping.join()
        assert (live.path, live.pipeline.rung.name) == (other, "small")
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), small)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_sighup_opens_the_same_path_again(
    first: Path, other: Path, tiny_raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    (after, _) = answers(tiny_raw, other)
    handler = signal.getsignal(signal.SIGHUP)
    running = counted()
    with edgefuse.Live(first) as live:
        live.on_signal()
        first.with_suffix(".new").write_bytes(b"no bundle")
        first.with_suffix(".new").replace(first)
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: "goes on: the bundle" in caplog.text)
        before, digest = live.pipeline, live.digest
        assert before(**tiny_raw).label
        other.replace(first)
        for _ in range(100):  # also in the middle of a reload, and of a handler
            os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: live.digest != digest)
        np.testing.assert_array_equal(logits(live.pipeline, tiny_raw), after)
        del before
    assert signal.getsignal(signal.SIGHUP) is handler
    gc.collect()
    assert counted(running)[1] <= 0


def test_a_bug_does_not_end_the_thread_that_reloads(
    first: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise ZeroDivisionError

    with edgefuse.Live(first) as live:
        live.on_signal()
        with monkeypatch.context() as patched:
            patched.setattr("edgefuse.runtime.live._check_alike", failing)
            os.kill(os.getpid(), signal.SIGHUP)
            eventually(lambda: "a bug of ours" in caplog.text)
        old = live.pipeline
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: live.pipeline is not old)


def test_signals_need_the_main_thread_and_a_system_that_has_them(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def elsewhere() -> None:
        with pytest.raises(InputError) as caught:
            live.on_signal()
        said.append(str(caught.value))

    with edgefuse.Live(first) as live:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        monkeypatch.setattr(sys, "platform", "win32")
        elsewhere()
    assert said == [
        "signals are handled in the main thread alone. Fix: call on_signal() there.",
        "Windows has no signal SIGHUP. Fix: call live.swap() where the process learns of a bundle.",
    ]


def test_what_is_closed_says_so(first: Path, other: Path, tiny_raw: Raw) -> None:
    with edgefuse.Live(first) as live:
        pass
    live.close()
    socket = first.with_name("closed.sock")
    for action in (
        lambda: live.swap(other),
        lambda: live.at("small"),
        lambda: live.pipeline(**tiny_raw),
        live.on_signal,
        lambda: live.listen(socket),
    ):
        with pytest.raises(InputError, match=r"this .*is closed"):
            action()
    gc.collect()


def test_a_forked_child_swaps_nothing(first: Path, other: Path) -> None:
    with edgefuse.Live(first) as live:
        for action in (lambda: live.swap(other), lambda: live.at("small")):
            assert "opened before a fork" in in_child(action)
        live.swap(other)


def test_a_failing_rung_changes_nothing(first: Path, tiny_raw: Raw) -> None:
    with edgefuse.Live(first) as live:
        before = live.pipeline
        with pytest.raises(BundleError, match="no such rung"):
            live.at("tiny")
        first.write_bytes(bytes(first.stat().st_size))
        with pytest.raises((BundleError, BackendError)):
            live.at("small")
        assert live.pipeline is before
        assert before(**tiny_raw).label
