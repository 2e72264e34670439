"""Small voice models as bundles, made without torch, and a service over one of them.

`intents` takes text and, optionally, a sound of eight samples: "stop" and "go" name an intent, "wait" none; "please"
and "now" name an area. A sound whose mean is 1 says "go", louder than any text. `replies` says "turn on the light" to
every text, and nothing to "wait".
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from wyoming.asr import Transcript
from wyoming.client import AsyncClient
from wyoming.event import Event, async_read_event, async_write_event

import edgefuse
from edgefuse.bundle.manifest import Candidate, Manifest, Provenance, Rung, Tolerance
from edgefuse.bundle.spec import (
    ClassOutput,
    ModelSpec,
    Output,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    TokensOutput,
    audio,
    subset_name,
    text,
)
from edgefuse.bundle.writer import write_bundle
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.queue import Queue
from edgefuse.serve.wyoming.background import Background
from edgefuse.serve.wyoming.service import closed
from edgefuse.serve.wyoming.settings import Settings
from tests import tiny

RATE_HZ, SAMPLES = 16_000, 8
INTENTS, AREAS = ("HassTurnOff", "HassTurnOn", "none"), ("kitchen", "hall", "none")
WORDS = ("<", ">", "turn", "on", "the", "light")
T = TypeVar("T")

_FUSION = """
    here = MatMul(present, spread)
    both = Concat<axis = 1>(text, audio)
    kept = Mul(both, here)
    logits = MatMul(kept, intents)
    area = MatMul(kept, areas)"""
_DECODER = """
    following = Gather(table, token)
    heard = MatMul(feature, weight)
    tokens = Add(following, heard)"""


def _feature(stage: str, name: str, size: int) -> StageInput:
    source = Source(kind="stage", owner=stage, tensor="feature")
    return StageInput(tensor=TensorSpec(name=name, shape=(1, size)), source=source)


def _raw(spec: ModelSpec, owner: str) -> StageInput:
    tensor = spec.modality(owner).tensors[0]
    return StageInput(tensor=tensor, source=Source(kind="modality", owner=owner, tensor=tensor.name))


def _text_encoder(spec: ModelSpec) -> tuple[StageSpec, str, dict[str, npt.NDArray[Any]]]:
    length = TensorSpec(name="length", dtype="int32", shape=(1,))
    stage = StageSpec(
        name="text_encoder",
        role="encoder",
        modality="text",
        inputs=(_raw(spec, "text"), StageInput(tensor=length, source=Source(kind="length", owner="text"))),
        outputs=(StageOutput(tensor=tiny.FEATURE),),
    )
    constants = tiny._weights("text_encoder") | {"table": 60 * np.eye(8, dtype=np.float32)}
    return stage, tiny.GRAPHS["text_encoder"], constants


def _result(name: str, size: int) -> StageOutput:
    return StageOutput(tensor=TensorSpec(name=name, shape=(1, size)), kind="result")


def _spec(name: str, *outputs: Output, hears: bool) -> ModelSpec:
    heard = (audio("audio", sample_rate_hz=RATE_HZ, samples=SAMPLES, optional=True),) if hears else ()
    said = text("text", tokenizer="tokenizer.json", max_length=6)
    return ModelSpec(name=name, metric="", modalities=(said, *heard), outputs=outputs)


def intents(path: Path) -> Path:
    """Write the bundle of the model that names intents."""
    spec = _spec("intents", ClassOutput(labels=INTENTS), ClassOutput(name="area", labels=AREAS), hears=True)
    listening = StageSpec(
        name="audio_encoder",
        role="encoder",
        modality="audio",
        inputs=(_raw(spec, "audio"),),
        outputs=(StageOutput(tensor=TensorSpec(name="feature", shape=(1, 1))),),
    )
    present = StageInput(tensor=TensorSpec(name="present", shape=(1, 2)), source=Source(kind="present"))
    fusion = StageSpec(
        name="fusion",
        role="fusion",
        inputs=(_feature("text_encoder", "text", 8), _feature("audio_encoder", "audio", 1), present),
        outputs=(_result("logits", 3), _result("area", 3)),
    )
    spread, named, placed = (np.zeros(shape, np.float32) for shape in ((2, 9), (9, 3), (9, 3)))
    spread[0, :8] = spread[1, 8] = 1
    for word, label in (("stop", 0), ("go", 1), ("wait", 2)):
        named[tiny.VOCABULARY.index(word), label] = 1
    for word, label in (("please", 0), ("now", 1)):
        placed[tiny.VOCABULARY.index(word), label] = 1
    named[8, 1] = 1000
    mean = {"axes": np.array([1])}
    weights = {"spread": spread, "intents": named, "areas": placed}
    return _written(
        path,
        spec,
        _text_encoder(spec),
        (listening, "\n    feature = ReduceMean<keepdims = 1>(samples, axes)", mean),
        (fusion, _FUSION, weights),
    )


def replies(path: Path) -> Path:
    """Write the bundle of the model that says what is done."""
    output = TokensOutput(steps=6, labels=WORDS, separator=" ", start=0, end=1)
    spec = _spec("replies", output, hears=False)
    token = StageInput(tensor=TensorSpec(name="token", dtype="int32", shape=(1,)), source=Source(kind="token"))
    decoder = StageSpec(
        name="decoder",
        role="decoder",
        inputs=(token, _feature("text_encoder", "feature", 8)),
        outputs=(_result("tokens", len(WORDS)),),
    )
    following, weight = np.zeros((len(WORDS), len(WORDS)), np.float32), np.zeros((8, len(WORDS)), np.float32)
    for word, after in zip((0, 2, 3, 4, 5), (2, 3, 4, 5, 1), strict=True):
        following[word, after] = 1
    weight[tiny.VOCABULARY.index("wait"), 1] = 1
    return _written(path, spec, _text_encoder(spec), (decoder, _DECODER, {"table": following, "weight": weight}))


def _written(path: Path, spec: ModelSpec, *parts: tuple[StageSpec, str, dict[str, npt.NDArray[Any]]]) -> Path:
    files, candidates = {"assets/tokenizer.json": tiny.tokenizer()}, []
    for stage, body, constants in parts:
        data, file = tiny._onnx_file(stage, body, constants), f"stages/{stage.name}.float.onnx"
        files[file] = data
        candidates.append(
            Candidate(
                id=f"{stage.name}.float",
                stage=stage.name,
                target="onnx",
                backend="onnx",
                scheme="float",
                file=file,
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
                inputs=tiny._bindings(stage.inputs),
                outputs=tiny._bindings(stage.outputs),
                opset="20",
                tolerance=Tolerance(),
            )
        )
    subsets = [subset_name(subset) for subset in spec.subsets()]
    rung = Rung(
        name="float",
        objective="float",
        candidates={one.stage: one.id for one in candidates},
        accuracy=dict.fromkeys(subsets, 0.5),
        drop_ci95=dict.fromkeys(subsets, (0.0, 0.0)),
        within_budget=True,
        size_bytes=sum(one.size_bytes for one in candidates),
    )
    manifest = Manifest(
        target="onnx",
        model=spec,
        stages=tuple(stage for stage, _, _ in parts),
        candidates=tuple(sorted(candidates, key=lambda one: one.id)),
        rungs=(rung,),
        default_rung="float",
        golden=(),
        files=(),
        provenance=Provenance(weights_sha256="0" * 64, data_sha256="1" * 64, recipe_sha256="2" * 64, tools={}),
    )
    write_bundle(path, manifest, files)
    return path


class Counted(Queue):
    """A queue of two that says when it has taken a call."""

    def __init__(self, live: edgefuse.Live) -> None:
        super().__init__(live, depth=2)
        self.taken = threading.Semaphore(0)

    def submit(self, call: Callable[[Pipeline], T]) -> Future[T]:
        future = super().submit(call)
        self.taken.release()
        return future


class Service:
    """A service that runs, and its queue, whose one worker may be kept busy."""

    def __init__(self, running: Background, queue: Counted) -> None:
        self.running, self.queue, self.uri = running, queue, running.uri

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the model from answering."""
        begun, ended = threading.Event(), threading.Event()

        def wait(_: object) -> None:
            begun.set()
            ended.wait()

        done = self.queue.submit(wait)
        begun.wait()
        self.queue.taken.acquire()
        try:
            yield
        finally:
            ended.set()
            done.result()


@contextmanager
def serving(bundle: Path, settings: Settings | None = None, uri: str = "tcp://127.0.0.1:0") -> Iterator[Service]:
    """Serve a bundle."""
    with edgefuse.Live(bundle) as live:
        queue = Counted(live)
        try:
            with Background(uri, queue, live, settings) as running:
                yield Service(running, queue)
        finally:
            queue.close()


def asked(uri: str, *events: Event, until: tuple[str, ...] = ()) -> list[Event]:
    """Send events over a connection of its own; return what comes back up to one of a type, or the connection's end."""

    async def ask() -> list[Event]:
        async with AsyncClient.from_uri(uri, read_timeout=30) as client:
            return await said(client, *events, until=until)

    return asyncio.run(ask())


async def said(client: AsyncClient, *events: Event, until: tuple[str, ...] = ()) -> list[Event]:
    """Send events over a connection that is open."""
    for event in events:
        await client.write_event(event)
    found = []
    while (came := await client.read_event()) is not None:
        found.append(came)
        if came.type in (until or ANSWERS):
            break
    return found


ANSWERS = ("info", "pong", "transcript", "intent", "intents-stop", "not-recognized", "handled", "not-handled", "error")
"""What Home Assistant reads up to, whatever it asked for."""


@contextmanager
def recognising(answer: Callable[[list[Event]], Awaitable[str | None]] | str) -> Iterator[str]:
    """Run a speech recogniser that says one text, or what a function makes of the events so far; give its URI."""
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard: list[Event] = []
        try:
            while (event := await async_read_event(reader)) is not None:
                heard.append(event)
                if isinstance(answer, str):
                    found = answer if event.type == "audio-stop" else None
                else:
                    found = await answer(heard)
                if found is not None:
                    await async_write_event(Transcript(found).event(), writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks[loop.create_task(serve(reader, writer))] = writer

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0)

    async def end() -> None:
        await closed(server)
        for task, writer in tasks.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
