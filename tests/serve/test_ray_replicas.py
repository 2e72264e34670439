"""What is asked again when replicas of Ray Serve die, and what is not; without a cluster."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.serve import context as serve_context

from edgefuse.cli import main
from edgefuse.cluster import _sweep, connected
from edgefuse.errors import BackendError, BundleError, EngineError, InputError
from edgefuse.serve.ray import replica as process
from edgefuse.serve.ray import replicas as module
from edgefuse.serve.ray import service
from edgefuse.serve.ray.application import replicated
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, Asked, Replica, asking
from edgefuse.serve.ray.replicas import Replicas
from edgefuse.serve.ray.service import not_started, serving

POISON = b"poison"


class Handle:
    """Stands for a deployment: what is asked of it brings down one replica after the other, or is answered."""

    def __init__(self, *errors: RayActorError) -> None:
        self.errors, self.seen, self.answer = list(errors), [], self
        self._numbers = count()

    seen: list[list[bytes]]

    async def remote(self, asked: list[Asked]) -> list[Answered]:
        self.seen.append([one.body for one in asked])
        if any(one.body == POISON for one in asked):
            raise died(f"replica {next(self._numbers)}")
        if self.errors:
            raise self.errors.pop(0)
        return [Answered(200, {}, one.body) for one in asked]


def died(actor: str) -> ActorDiedError:
    error = ActorDiedError()
    error.actor_id = actor
    return error


def answers(handle: Handle, *bodies: bytes) -> list[Answered]:
    replicas: Any = Replicas(handle, Options())  # type: ignore[arg-type]
    return asyncio.run(replicas._hand_over([Asked("POST", "/", "", {}, body) for body in bodies]))


def test_what_died_with_a_replica_is_asked_again() -> None:
    handle = Handle(died("a"), ActorUnavailableError("a moment", None), died("a"), died("b"))
    assert [one.body for one in answers(handle, b"1")] == [b"1"]
    assert len(handle.seen) == 5


def test_what_brings_down_every_replica_is_given_up_alone() -> None:
    handle = Handle()
    first, second, third = answers(handle, b"1", POISON, b"3")
    assert (first.body, third.body) == (b"1", b"3")
    assert second.status == 500
    assert "every replica" in json.loads(second.body)["error"]["message"]
    assert sum(POISON in bodies for bodies in handle.seen) == 3


def test_what_is_no_death_is_not_asked_again() -> None:
    class Broken(Handle):
        async def remote(self, asked: list[Asked]) -> list[Answered]:
            self.seen.append([])
            raise ValueError("a bug")

    handle = Broken()
    with pytest.raises(ValueError, match="a bug"):
        answers(handle, b"1")
    assert len(handle.seen) == 1


class Busy(Handle):
    """Answers nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def remote(self, asked: list[Asked]) -> list[Answered]:
        self.seen.append([one.body for one in asked])
        await self.let.wait()
        return [Answered(200, {}, one.body) for one in asked]


def sizes(monkeypatch: pytest.MonkeyPatch, together_s: float, gone: int = 0, **options: Any) -> list[int]:
    """Return how many requests were handed over at a time, of ten that came one after the other.

    Args:
        together_s: that the first of a batch may wait for the last.
        gone: of them were given up before a replica was free.
        options: of the replicas.
    """
    monkeypatch.setattr(module, "_TOGETHER_S", together_s)

    async def scenario() -> list[int]:
        handle = Busy()
        replicas = Replicas(handle, Options(**options))  # type: ignore[arg-type]
        asking = []
        for number in range(10):
            asking.append(asyncio.ensure_future(replicas.ask(Asked("POST", "/", "", {}, b"%d" % number))))
            for _ in range(5):  # each comes in a moment of its own
                await asyncio.sleep(0)
        for one in asking[10 - gone :]:
            one.cancel()
        handle.let.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        kept = [one.body for one in answers[: 10 - gone] if isinstance(one, Answered)]
        assert kept == [b"%d" % number for number in range(10 - gone)]
        return [len(bodies) for bodies in handle.seen]

    return asyncio.run(scenario())


def test_what_waits_for_a_replica_is_handed_over_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls are out for each replica; the others wait until one comes back, and then go at a time."""
    assert sizes(monkeypatch, 1e6) == [1, 1, 8]
    assert sizes(monkeypatch, 1e6, batch=3) == [1, 1, 3, 3, 2]
    assert sizes(monkeypatch, 1e6, replicas=2, batch=3) == [1, 1, 1, 1, 3, 3]
    assert sizes(monkeypatch, 1e6, wait_ms=1e6, batch=5) == [5, 5]


def test_what_takes_long_is_handed_over_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of a batch come back together: of slow ones, the first would wait for all others."""
    assert sizes(monkeypatch, 0.0) == 10 * [1]


def test_what_nobody_waits_for_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes(monkeypatch, 1e6, gone=5) == [1, 1, 3]
    assert sizes(monkeypatch, 1e6, gone=9) == [1, 1]


def test_who_waits_for_others_waits_no_longer_than_may_be() -> None:
    async def scenario() -> Answered:
        handle = Busy()
        handle.let.set()
        return await Replicas(handle, Options(wait_ms=20)).ask(Asked("POST", "/", "", {}, b"1"))  # type: ignore[arg-type]

    assert asyncio.run(scenario()).body == b"1"


def test_a_call_belongs_to_no_request() -> None:
    """Ray ends what was called for a request whose client went away, by its context; others wait for that call, too."""
    seen: list[object] = []

    class Watched(Handle):
        async def remote(self, asked: list[Asked]) -> list[Answered]:
            seen.append(serve_context._serve_request_context.get())
            return [Answered(200, {}, b"")]

    async def scenario() -> None:
        serve_context._get_serve_request_context()  # which sets it
        await Replicas(Watched(), Options()).ask(Asked("POST", "/", "", {}, b""))  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert seen == [None]


def test_a_call_that_was_given_up_counts_until_it_ends_and_no_longer(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a replica that is well would be taken for one that hangs."""
    begun, let = threading.Event(), threading.Event()

    def slow(*_: object) -> Answered:
        begun.set()
        let.wait()
        return Answered(200, {}, b"")

    async def scenario() -> int:
        call = asyncio.ensure_future(replica.answer(3 * [asking("/v1/predict", {"text": "stop"})]))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        await asyncio.wait([call])
        running = len(replica._began)
        let.set()
        return running

    replica = made(tiny_bundle)
    monkeypatch.setattr(process, "_called", slow)
    try:
        assert asyncio.run(scenario()) == 1  # and waits for its threads
        assert not replica._began
    finally:
        replica.close()


def made(bundle: Path) -> Replica:
    from edgefuse.bundle.reader import open_bundle

    with open_bundle(bundle) as opened:
        return Replica(str(bundle), opened.digest, Options())


def test_a_replica_answers_in_order_and_says_when_it_hangs(tiny_bundle: Path) -> None:
    replica = made(tiny_bundle)
    try:
        asked = asking("/v1/predict", {"motion": [[[0.5, 0.25, -1.0]]], "text": "stop"})
        first, second = asyncio.run(replica.answer([asked, asked._replace(body=b"{")]))
        assert (first.status, second.status) == (200, 400)
        replica.check_health()
        replica._began[0] = -1e9
        with pytest.raises(Exception, match="a request does not end"):
            replica.check_health()
    finally:
        replica.close()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"replicas": 0}, "the option 'replicas' is too small: got 0, expected 1 or more."),
        ({"batch": 0}, "the option 'batch' is too small: got 0, expected 1 or more."),
        ({"wait_ms": -1.0}, "the option 'wait_ms' is too small: got -1.0, expected 0 or more."),
        ({"answer_s": 0.0}, "the option 'answer_s' is too small: got 0.0, expected more than 0."),
    ],
)
def test_options_that_make_no_sense_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        Options(**option)
    assert str(raised.value) == message


def test_another_bundle_than_was_pinned_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="digest"):
        replicated(tiny_bundle, Options(digest="0" * 64))


def test_what_no_replica_could_open_is_refused_before_they_start(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no such rung: got 'huge'"):
        replicated(tiny_bundle, Options(rung="huge"))
    with pytest.raises(BackendError, match="this bundle is for the backend 'onnx'"):
        replicated(tiny_bundle, Options(backend="tflite"))


def refused(bundle: Path, options: Options | None = None, **others: Any) -> str:
    """Return why a service on this machine does not start: before a cluster does."""
    with pytest.raises(InputError) as raised, serving(bundle, options, **others):
        pass
    return str(raised.value)


def test_what_this_machine_cannot_do_is_refused_before_a_cluster_starts(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "the number of threads does not fit this machine: got 1000" in refused(tiny_bundle, Options(threads=1000))
    assert "this machine has no memory for so many replicas: got 1000000, expected at most " in refused(
        tiny_bundle, Options(replicas=1_000_000)
    )
    missing = tiny_bundle / "no.pem"
    assert "cannot be used" in refused(tiny_bundle, address="127.0.0.1:0", tls=(missing, missing))
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(tiny_bundle, address=address) == (
            f"the replicas cannot listen: got {address} (Address already in use)."
        )


def test_why_a_replica_does_not_start_is_told_in_our_sentence() -> None:
    """Ray hands on a traceback."""
    words = "Deploying failed: Traceback:\n  File x\nedgefuse.errors.BundleError: it is damaged. Fix: copy it again.\n"
    with pytest.raises(EngineError) as raised:
        raise not_started(RuntimeError(words))
    assert str(raised.value) == "the replicas do not start: it is damaged. Fix: copy it again."


def test_why_a_replica_does_not_start_again_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where another bundle took the place of the one that is pinned, and a replica died."""
    asked = threading.Semaphore(0)

    def status() -> str:
        asked.release()
        return "A replica failed:\nedgefuse.errors.BundleError: the bundle is not the one that was pinned.\n"

    monkeypatch.setattr(service, "_status", status)
    monkeypatch.setattr(service, "_WATCH_S", 0.01)
    with service.watched():
        for _ in range(4):
            asked.acquire()
    assert caplog.messages == ["a replica does not start: the bundle is not the one that was pinned."]


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tries for minutes; what the variable names is often of yesterday."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(EngineError, match=r"the Ray cluster '127.0.0.1:1' cannot be used: got ConnectionRefusedError"),
        connected(1),
    ):
        pass


def test_what_a_killed_command_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left, running = tmp_path / "edgefuse-left", tmp_path / "edgefuse-running"
    for folder in (left, running):
        folder.mkdir()
        (folder / "ray.lock").touch()
    with FileLock(running / "ray.lock"):
        _sweep(tmp_path)
        assert (left.exists(), running.exists()) == (False, True)


def test_sigterm_while_replicas_start_ends_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray makes an exit of it, which is no error of the code that is run."""

    @contextmanager
    def starting(*_: object) -> Iterator[dict[str, str]]:
        sys.exit(signal.SIGTERM)
        yield {}

    monkeypatch.setattr("edgefuse.commands.serve.replicated", starting)
    assert main(["serve", str(tiny_bundle), "--replicas", "1"]) == 0
    assert capsys.readouterr() == ("", "")


def test_others_are_served_with_a_token_only(tiny_bundle: Path) -> None:
    with (
        pytest.raises(InputError, match="without a token, only this machine may be served"),
        serving(tiny_bundle, address="0.0.0.0:0"),
    ):
        pass


def test_without_ray_it_says_what_to_install(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgefuse.serve.ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", str(tiny_bundle), "--replicas", "2"]) == 2
    assert "pip install 'edgefuse[replicas]'" in capsys.readouterr().err


def test_replicas_and_a_voice_service_do_not_go_together(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tiny_bundle), "--replicas", "2", "--wyoming", "tcp://127.0.0.1:0"]) == 2
    assert "replicas answer over HTTP alone" in capsys.readouterr().err
