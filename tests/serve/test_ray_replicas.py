"""What is asked again when replicas of Ray Serve die, and what is not; without a cluster."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from edgefuse.cli import main
from edgefuse.errors import BundleError, InputError
from edgefuse.serve.ray.application import replicated
from edgefuse.serve.ray.options import Options
from edgefuse.serve.ray.replica import Answered, Asked, Replica, asking
from edgefuse.serve.ray.replicas import Replicas
from edgefuse.serve.ray.service import serving

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


def test_a_replica_answers_in_order_and_says_when_it_hangs(tiny_bundle: Path) -> None:
    from edgefuse.bundle.reader import open_bundle

    with open_bundle(tiny_bundle) as bundle:
        digest = bundle.digest
    replica = Replica(str(tiny_bundle), digest, Options())
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
