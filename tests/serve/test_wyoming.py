"""What Home Assistant sends is answered as it reads it, while the model is busy, too."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import io
import socket
import stat
import sys
import termios
import time
import types
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
from wyoming.asr import Transcript
from wyoming.client import AsyncClient, AsyncTcpClient, AsyncUnixClient
from wyoming.event import Event, write_event
from wyoming.info import Describe, Info
from wyoming.intent import Intent, Recognize
from wyoming.ping import Ping

import edgefuse
from edgefuse.commands.voice import add_voice_arguments, start_voice
from edgefuse.errors import InputError, MissingExtraError
from edgefuse.serve.queue import Queue
from edgefuse.serve.wyoming.address import address_of
from edgefuse.serve.wyoming.announcement import announced
from edgefuse.serve.wyoming.limits import Limits
from edgefuse.serve.wyoming.service import Wyoming
from edgefuse.serve.wyoming.settings import Settings
from tests.serve.voice import asked, intents, replies, said, serving

CONTEXT = {"conversation_id": "01JDA", "device_id": "7f", "satellite_id": "assist_satellite.kitchen"}


def transcript(text: str) -> Event:
    """What Home Assistant sends to a conversation agent."""
    return Transcript(text, context=CONTEXT, language="en").event()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return intents(tmp_path / "intents.edgefuse")


def test_home_assistant_sets_up_and_asks(bundle: Path) -> None:
    with serving(bundle, Settings(languages=("en", "de"))) as service:
        host, port = "127.0.0.1", int(service.uri.rpartition(":")[2])

        async def describe() -> Info:
            async with AsyncTcpClient(host, port, connect_timeout=30, read_timeout=30) as client:
                await client.write_event(Describe().event())
                event = await client.read_event()
                assert event is not None
                return Info.from_event(event)

        async def converse() -> Event | None:
            async with AsyncTcpClient(host, port) as client:
                await client.write_event(transcript("please go"))
                answer: Event | None = await client.read_event()
                return answer

        info = asyncio.run(describe())
        program = info.intent[0]
        assert (info.asr, info.handle, program.installed) == ([], [], True)
        assert (program.version, program.models[0].languages) == (edgefuse.__version__, ["en", "de"])
        event = asyncio.run(converse())
        assert event is not None
        intent = Intent.from_event(event)
        assert (intent.name, [(one.name, one.value) for one in intent.entities]) == (
            "HassTurnOn",
            [("area", "kitchen")],
        )
        assert intent.text is None
        assert asyncio.run(describe()) == info


def test_other_clients_recognize_and_ping(bundle: Path) -> None:
    with serving(bundle) as service:
        (event,) = asked(service.uri, Recognize("stop now").event())
        assert (event.type, event.data["name"]) == ("intent", "HassTurnOff")
        assert event.data["entities"] == [{"name": "area", "value": "hall"}]
        (pong,) = asked(service.uri, Event("select-program", {"name": "edgefuse"}), Ping("here").event())
        assert (pong.type, pong.data) == ("pong", {"text": "here"})


def test_what_names_no_intent_is_not_recognized(bundle: Path) -> None:
    with serving(bundle) as service:
        for text in ("wait", "not"):  # the label that says so; no label above the threshold
            (event,) = asked(service.uri, transcript(text))
            assert (event.type, "text" in event.data) == ("not-recognized", False)


def test_bad_requests_are_told_why_and_the_next_is_answered(bundle: Path) -> None:
    with serving(bundle) as service:

        async def both(bad: Event) -> list[Event]:
            async with AsyncClient.from_uri(service.uri, read_timeout=30) as client:
                return [*await said(client, bad), *await said(client, transcript("go"))]

        for bad, why in (
            (Event("transcript", {"language": "en"}), "is not complete"),
            (Event("recognize", {"text": 5}), "is not complete"),
        ):
            error, answer = asyncio.run(both(bad))
            assert (error.type, error.data["code"], answer.type) == ("error", "input", "intent")
            assert why in error.data["text"]


def test_describe_is_answered_while_the_model_is_busy(bundle: Path) -> None:
    with serving(bundle) as service, ThreadPoolExecutor() as threads:
        with service.busy():
            waiting = {threads.submit(asked, service.uri, transcript("go")) for _ in range(5)}
            refused = next(as_completed(waiting)).result()[0]
            assert (refused.type, refused.data["code"]) == ("error", "full")
            assert [event.type for event in asked(service.uri, Describe().event())] == ["info"]
            assert not all(one.done() for one in waiting)
        events = [one.result()[0] for one in waiting]
        assert {event.type for event in events} == {"intent", "error"}
        assert asked(service.uri, transcript("go"))[0].type == "intent"


def test_an_answer_that_takes_too_long_is_given_up(bundle: Path) -> None:
    with serving(bundle, Settings(limits=Limits(answer_s=0.05))) as service, service.busy():
        (error,) = asked(service.uri, transcript("go"))
        assert (error.type, error.data["code"]) == ("error", "timeout")


def test_what_was_asked_is_answered_before_the_end(bundle: Path) -> None:
    with serving(bundle) as service, ThreadPoolExecutor() as threads:
        with service.busy():
            waiting = threads.submit(asked, service.uri, transcript("go"))
            service.queue.taken.acquire()
            ending = threads.submit(service.running.close, 30.0)
            while not service.running._closing.is_set():
                time.sleep(0.01)
        assert waiting.result()[0].type == "intent"
        ending.result()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            asked(service.uri, Describe().event())


@pytest.mark.skipif(not hasattr(termios, "TIOCOUTQ"), reason="the system does not tell what has arrived")
def test_what_has_come_before_the_end_is_answered(bundle: Path) -> None:
    async def go(live: edgefuse.Live, queue: Queue) -> bytes:
        service = Wyoming("tcp://127.0.0.1:0", queue, live)
        await service.start()
        host, _, port = service.uri.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as peer:  # the service does not run meanwhile
            peer.sendall(_bytes(transcript("go")))
            while int.from_bytes(fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
                time.sleep(0.001)
            await service.stop()
            with peer.makefile("rb") as answer:
                return answer.read()

    with edgefuse.Live(bundle) as live:
        queue = Queue(live, 2)
        try:
            assert b'"type": "intent"' in asyncio.run(go(live, queue))
        finally:
            queue.close()


def _bytes(event: Event) -> bytes:
    """Return the bytes of an event, as the library writes them."""
    written = io.BytesIO()
    write_event(event, written)
    return written.getvalue()


def test_a_reply_comes_in_parts_and_as_a_whole(tmp_path: Path) -> None:
    with serving(replies(tmp_path / "replies.edgefuse")) as service:
        (info,) = asked(service.uri, Describe().event())
        assert info.data["handle"][0]["supports_handled_streaming"]
        assert not info.data["intent"]
        events = asked(service.uri, transcript("please go"), until=("handled-stop",))
        assert [event.type for event in events] == ["handled-start", *["handled-chunk"] * 4, "handled", "handled-stop"]
        assert "".join(event.data["text"] for event in events[1:5]) == events[5].data["text"] == "turn on the light"
        assert [event.type for event in asked(service.uri, transcript("wait"))] == ["not-handled"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets")
def test_a_unix_socket_is_for_its_user_alone(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "voice.sock"
    with serving(bundle, uri=f"unix://{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        async def ask() -> list[Event]:
            async with AsyncUnixClient(path) as client:
                return await said(client, transcript("stop"))

        assert asyncio.run(ask())[0].data["name"] == "HassTurnOff"
        with pytest.raises(InputError, match="another process listens at"), serving(bundle, uri=f"unix://{path}"):
            pass
    assert not path.exists()


@pytest.mark.parametrize("uri", ["tcp://0.0.0.0:10400", "tcp://[::]:10400", "tcp://kitchen.local:10400"])
def test_others_reach_it_only_if_they_are_to(uri: str) -> None:
    with pytest.raises(InputError, match="no password and no encryption"):
        address_of(uri, exposed=False)
    assert not address_of(uri, exposed=True).local


@pytest.mark.parametrize(
    "uri", ["", "stdio://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "unix://a", "http://[", "x:1", "tcp://a..b:1"]
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="no address to listen at"):
        address_of(uri, exposed=True)


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with (
        serving(bundle) as first,
        pytest.raises(InputError, match="nothing can listen at"),
        serving(bundle, uri=first.uri),
    ):
        pass


def test_models_that_cannot_answer_are_refused(tiny_bundle: Path, bundle: Path) -> None:
    with serving(tiny_bundle) as service:  # its other modalities may be absent
        assert asked(service.uri, transcript("stop"))[0].type in ("intent", "not-recognized")
    for settings, why in (
        ({"languages": ()}, "needs a language"),
        ({"threshold": 1.5}, "no probability"),
        ({"recogniser": "tcp://127.0.0.1"}, "no address of a speech recogniser"),
        ({"announced": "kitchen"}, "only this machine can reach"),
    ):
        with pytest.raises(InputError, match=why), serving(bundle, Settings(**settings)):
            pass


def test_the_network_is_told_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class TakenError(Exception):
        """Somebody has the name already."""

    class AsyncZeroconf:
        async def async_register_service(self, info: object) -> None:
            if calls:
                raise TakenError
            calls.append(info)

        async def async_unregister_all_services(self) -> None:
            calls.append("unregistered")

        async def async_close(self) -> None:
            calls.append("closed")

    async def tell() -> None:
        async with announced(address_of("tcp://192.0.2.7:10400", exposed=True), "kitchen"):
            calls.append("running")

    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(MissingExtraError, match=r"edgefuse\[zeroconf\]"):
        asyncio.run(tell())
    library = types.ModuleType("zeroconf.asyncio")
    vars(library).update(AsyncZeroconf=AsyncZeroconf, AsyncServiceInfo=lambda *names, **told: (names, told))
    found = types.ModuleType("zeroconf")
    vars(found).update(Error=TakenError)
    monkeypatch.setitem(sys.modules, "zeroconf", found)
    monkeypatch.setitem(sys.modules, "zeroconf.asyncio", library)
    asyncio.run(tell())
    names, told = calls[0]
    assert names == ("_wyoming._tcp.local.", "kitchen._wyoming._tcp.local.")
    assert told == {"addresses": [b"\xc0\x00\x02\x07"], "port": 10400}
    assert calls[1:] == ["running", "unregistered", "closed"]
    with pytest.raises(InputError, match=r"told of the service: got kitchen at tcp://192.0.2.7:10400 \(TakenError"):
        asyncio.run(tell())
    assert calls[4:] == ["unregistered", "closed"]


def test_the_command_starts_what_its_arguments_ask_for(bundle: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wyoming")
    add_voice_arguments(parser)
    given = parser.parse_args(
        ["--wyoming", "tcp://127.0.0.1:0", "--asr", "tcp://127.0.0.1:9", "--language", "de", "--threshold", "0.99999"]
    )
    given.timeout = 7.0
    with edgefuse.Live(bundle) as live:
        queue = Queue(live, depth=2)
        with start_voice(given, queue, live) as service:
            assert service._service._limits.answer_s == 7
            (info,) = asked(service.uri, Describe().event())
            assert info.data["asr"][0]["models"][0]["languages"] == ["de"]
            assert asked(service.uri, transcript("not not not not not go"))[0].type == "not-recognized"
        queue.close()
