"""Sound goes to another recogniser and its transcript back; the utterance is fused with its own text alone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe

from edgefuse.serve.wyoming.address import recogniser_at
from edgefuse.serve.wyoming.hearing import Hearing
from edgefuse.serve.wyoming.limits import Limits
from edgefuse.serve.wyoming.recogniser import Recogniser, RecogniserError
from edgefuse.serve.wyoming.settings import Settings
from edgefuse.serve.wyoming.sound import Format, samples_of
from edgefuse.serve.wyoming.utterances import Utterances
from tests.serve.voice import Service, asked, intents, recognising, said, serving

LOUD = np.full(1600, 32767, np.int16).tobytes()
TRANSCRIBE = Transcribe(language="en").event()
START = AudioStart(16000, 2, 1, timestamp=0).event()
CHUNK = AudioChunk(16000, 2, 1, LOUD, timestamp=0).event()
STOP = AudioStop(timestamp=100).event()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return intents(tmp_path / "intents.edgefuse")


@pytest.fixture
def service(bundle: Path) -> Iterator[Service]:
    with recognising("stop") as uri, serving(bundle, Settings(recogniser=uri, keep_s=60)) as running:
        yield running


def understood(service: Service, text: str = "stop") -> tuple[str, list[str]]:
    """What an intent service says to a text, and of which modalities."""
    (event,) = asked(service.uri, Transcript(text, language="en", context={"conversation_id": "1"}).event())
    return event.data["name"], event.data["context"]["modalities"]


def heard(service: Service, *chunks: Event) -> str:
    """Speak as Home Assistant does; return the transcript."""
    (event,) = asked(service.uri, TRANSCRIBE, START, *(chunks or (CHUNK, CHUNK)), STOP)
    assert event.type == "transcript"
    return str(event.data["text"])


def test_the_sound_of_an_utterance_is_fused_with_its_text_once(service: Service) -> None:
    (info,) = asked(service.uri, Describe().event())
    assert [one["installed"] for one in (*info.data["asr"], *info.data["intent"])] == [True, True]
    assert understood(service) == ("HassTurnOff", ["text"])
    assert heard(service) == "stop"
    assert understood(service) == ("HassTurnOn", ["audio", "text"])
    assert understood(service) == ("HassTurnOff", ["text"])


@pytest.mark.parametrize(("rate_hz", "width", "channels"), [(8000, 1, 2), (44100, 3, 1), (48000, 4, 2)])
def test_sound_of_another_format_is_converted(service: Service, rate_hz: int, width: int, channels: int) -> None:
    loud = (b"\xff" * (width - 1) + (b"\xff" if width == 1 else b"\x7f")) * channels * (rate_hz // 5)
    start, chunk = (
        kind.event() for kind in (AudioStart(rate_hz, width, channels), AudioChunk(rate_hz, width, channels, loud))
    )
    assert asked(service.uri, TRANSCRIBE, start, chunk, STOP)[0].type == "transcript"
    assert understood(service) == ("HassTurnOn", ["audio", "text"])


def test_sound_is_not_fused_with_what_was_typed_meanwhile(service: Service) -> None:
    heard(service)
    assert understood(service, "please stop")[1] == ["text"]
    assert understood(service)[1] == ["audio", "text"]


def test_sound_is_forgotten_after_its_time(bundle: Path) -> None:
    with recognising("stop") as uri, serving(bundle, Settings(recogniser=uri, keep_s=0.05)) as service:
        heard(service)
        utterances = service.running._service._shared.utterances
        while utterances._kept is not None:  # by itself: nobody asks
            time.sleep(0.01)
        assert understood(service)[1] == ["text"]


def test_who_has_to_ask_again_finds_the_sound(service: Service) -> None:
    heard(service)
    with ThreadPoolExecutor() as threads, service.busy():
        threads.submit(asked, service.uri, Transcript("go").event())
        service.queue.taken.acquire()
        (error,) = asked(service.uri, Transcript("stop").event())
        assert error.data["code"] == "full"
    assert understood(service)[1] == ["audio", "text"]


def test_streams_that_overlap_are_not_fused(service: Service) -> None:
    async def overlap() -> list[str]:
        async with AsyncClient.from_uri(service.uri) as one, AsyncClient.from_uri(service.uri) as other:
            for client in (one, other):
                for event in (TRANSCRIBE, START, CHUNK, Event("ping")):
                    await client.write_event(event)
                assert (await client.read_event() or STOP).type == "pong"  # it was taken
            return [(await said(client, STOP))[0].type for client in (one, other)]

    heard(service)
    assert asyncio.run(overlap()) == ["transcript", "transcript"]
    assert understood(service)[1] == ["text"]


def test_two_utterances_of_the_same_text_are_not_fused(service: Service) -> None:
    heard(service)
    heard(service)
    assert understood(service)[1] == ["text"]


@pytest.mark.parametrize("sent", range(5))
def test_whoever_goes_at_any_point_leaves_nothing(
    service: Service, sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        async with AsyncClient.from_uri(service.uri) as client:
            for event in (TRANSCRIBE, START, CHUNK, CHUNK, STOP)[: sent + 1]:
                await client.write_event(event)

    asyncio.run(go())
    shared = service.running._service
    while shared._connections:
        time.sleep(0.01)
    assert shared._shared.utterances.streams == 0
    assert heard(service) == "stop"
    assert not caplog.records


def test_a_recogniser_may_answer_before_the_sound_ends(bundle: Path) -> None:
    async def early(events: list[Event]) -> str | None:
        return "go" if len(events) == 3 else None

    async def speak(uri: str) -> list[Event]:
        async with AsyncClient.from_uri(uri, read_timeout=30) as client:
            first = await said(client, TRANSCRIBE, START, CHUNK)
            return [*first, *await said(client, CHUNK, STOP, Event("ping"))]

    with recognising(early) as uri, serving(bundle, Settings(recogniser=uri)) as service:
        assert [event.type for event in asyncio.run(speak(service.uri))] == ["transcript", "pong"]
        assert understood(service, "go")[1] == ["audio", "text"]


def test_the_recogniser_hears_what_was_sent(bundle: Path) -> None:
    heard_there: list[Event] = []

    async def listen(events: list[Event]) -> str | None:
        heard_there[:] = events
        return "go" if events[-1].type == "audio-stop" else None

    with recognising(listen) as uri, serving(bundle, Settings(recogniser=uri)) as service:
        assert heard(service) == "go"
    assert [event.type for event in heard_there] == [one.type for one in (TRANSCRIBE, START, CHUNK, CHUNK, STOP)]
    assert (heard_there[0].data, heard_there[2].payload) == (TRANSCRIBE.data, LOUD)


@pytest.mark.parametrize("steps", range(4))
def test_a_recogniser_is_let_go_of_however_early_closing_is_given_up(steps: int) -> None:
    """`stop` cancels a connection at any point, and cancels what does not end at once a second time."""

    async def give_up() -> bool:
        hearing = Hearing(recogniser, Utterances(1), 0, Limits(), lambda event: asyncio.sleep(0))
        await hearing.start(TRANSCRIBE, START)
        closing = asyncio.create_task(hearing.close())
        for _ in range(steps + 1):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert recogniser._writer is not None
        return recogniser._writer.is_closing()

    with recognising("stop") as uri:
        recogniser = Recogniser(recogniser_at(uri), Limits())
        assert asyncio.run(give_up())


def test_a_recogniser_that_does_not_read_is_let_go_of() -> None:
    async def go(uri: str) -> None:
        recogniser = Recogniser(recogniser_at(uri), Limits())
        await recogniser.open()
        recogniser._limits = Limits(event_s=0.1)  # to be reached, it has its time
        with pytest.raises(RecogniserError, match="does not listen any more"):
            await recogniser.write(Event("audio-chunk", {}, bytes(64 << 20)))
        assert recogniser._writer is not None
        assert recogniser._writer.transport.get_write_buffer_size()
        await recogniser.close()
        assert not recogniser._writer.transport.get_write_buffer_size()

    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody looks who comes
        asyncio.run(go(f"tcp://127.0.0.1:{listener.getsockname()[1]}"))


@pytest.mark.parametrize("fault", ["none", "silent", "error", "gone"])
def test_a_recogniser_that_fails_is_told_and_text_goes_on(bundle: Path, fault: str) -> None:
    async def fail(events: list[Event]) -> str | None:
        if fault == "silent" or events[-1].type != "audio-chunk":
            return None
        raise ConnectionError

    limits = Limits(answer_s=2 if fault == "silent" else 30, linger_s=30)
    with recognising(fail) as uri:
        there = "tcp://127.0.0.1:9" if fault == "none" else uri
        with serving(bundle, Settings(recogniser=there, limits=limits)) as service:
            (error,) = asked(service.uri, TRANSCRIBE, START, CHUNK, STOP)
            assert (error.type, error.data["code"]) == ("error", "recogniser")
            assert there not in error.data["text"]
            assert understood(service)[1] == ["text"]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((CHUNK,), "came before 'audio-start'"),
        ((AudioStart(3, 2, 1).event(),), "sound of this format is not taken: got 3 Hz"),
        ((AudioStart(16000, 2, 9).event(),), "1 or 2 channels"),
        ((Event("audio-start", {"rate": 16000, "width": "2", "channels": 1}),), "is not complete"),
        ((START, AudioChunk(8000, 2, 1, LOUD).event()), "changes within an utterance"),
        ((START, AudioChunk(16000, 2, 1, LOUD[:-1]).event()), "does not end with a sample"),
        ((START, *[CHUNK] * 6), "an utterance is too long"),
    ],
    ids=range(7),
)
def test_sound_that_is_not_taken_is_refused(bundle: Path, events: tuple[Event, ...], why: str) -> None:
    limits = Limits(utterance_s=0.5, linger_s=30)
    with recognising("stop") as uri, serving(bundle, Settings(recogniser=uri, limits=limits)) as service:
        (error,) = asked(service.uri, *events)
        assert (error.type, error.data["code"]) == ("error", "input")
        assert why in error.data["text"]


def test_without_a_recogniser_no_sound_is_taken(bundle: Path) -> None:
    with serving(bundle) as service:
        (error,) = asked(service.uri, TRANSCRIBE, START)
        assert "this service takes no sound" in error.data["text"]


def test_too_many_streams_are_refused(bundle: Path) -> None:
    with recognising("stop") as uri, serving(bundle, Settings(recogniser=uri, limits=Limits(streams=1))) as service:
        began, ended = threading.Event(), threading.Event()

        async def hold() -> None:
            async with AsyncClient.from_uri(service.uri) as client:
                await said(client, TRANSCRIBE, START, Event("ping"))
                began.set()
                await asyncio.to_thread(ended.wait)

        holding = threading.Thread(target=lambda: asyncio.run(hold()))
        holding.start()
        try:
            assert began.wait(60)
            assert asked(service.uri, TRANSCRIBE, START)[0].data["code"] == "full"
        finally:
            ended.set()
            holding.join()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_any_width_are_the_same_sound(width: int) -> None:
    values = np.array([[0.5, -0.5], [0.25, 0]])
    if width == 1:
        data = (values * 128 + 128).astype(np.uint8).tobytes()
    else:
        whole = (values * 2 ** (8 * width - 1)).astype("<i4")
        data = np.frombuffer(whole.tobytes(), np.uint8).reshape(-1, 4)[:, :width].tobytes()
    samples, rate_hz = samples_of(data, Format(8000, width, 2))
    scale = 32768 if samples.dtype == np.int16 else 1
    assert rate_hz == 8000
    np.testing.assert_array_equal(samples / scale, values)
