"""Honest requests, over HTTP and Wyoming, from one thread."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import time
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from wyoming.event import Event, read_event, write_event

from benchmarks.soak_services.service import Address
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, Modality, TextPreprocess
from edgefuse.errors import MeasureError

JSON = {"Content-Type": "application/json"}
TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """What came back over HTTP: with status 0, nothing did."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def inputs(bundle: Path, text: str, side: int = 64) -> dict[str, str]:
    """Return a file, in base64, for each picture and sound that a model takes, and a text.

    Args:
        bundle: of the model.
        text: for its modality of text.
        side: of a picture, in pixels.

    Raises:
        MeasureError: it takes something else, too.
    """
    with open_bundle(bundle) as opened:
        modalities = opened.manifest.model.modalities
    rng = np.random.default_rng(0)
    return {
        one.name: text if isinstance(one.preprocess, TextPreprocess) else _file(one, side, rng) for one in modalities
    }


def _file(modality: Modality, side: int, rng: np.random.Generator) -> str:
    made, shape = io.BytesIO(), modality.tensors[0].max_shape
    if isinstance(modality.preprocess, ImagePreprocess):
        waves = np.sin(np.arange(side) / 9)
        Image.fromarray(np.uint8(127 + 60 * (waves + waves[:, np.newaxis]))).save(made, "PNG")
    elif isinstance(modality.preprocess, AudioPreprocess):
        with wave.open(made, "wb") as file:
            file.setparams((1, 2, modality.preprocess.sample_rate_hz, 0, "NONE", ""))
            file.writeframes(rng.integers(-3000, 3000, shape[-1], dtype=np.int16).tobytes())
    else:
        raise MeasureError(f"no request can be made for '{modality.name}'", got=type(modality.preprocess).__name__)
    return base64.b64encode(made.getvalue()).decode()


def body(given: Mapping[str, str]) -> bytes:
    """Return the body of a request for a prediction."""
    return json.dumps({"inputs": given}).encode()


class Http:
    """A client that keeps its connection.

    Args:
        address: of the service.
        fields: of every request.
    """

    def __init__(self, address: Address, fields: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
        self._fields = dict(fields or {})

    def ask(self, method: str, path: str, data: bytes | None = None) -> Answer:
        """Ask, and return the answer; an `OSError` or `HTTPException` if none comes."""
        self._connection.request(method, path, data, self._fields | (JSON if data is not None else {}))
        answer = self._connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def predict(self, data: bytes) -> Answer:
        """Ask for a prediction."""
        return self.ask("POST", "/v1/predict", data)

    def figures(self) -> dict[str, float]:
        """Return what the service counts, by name and labels, as Prometheus is told."""
        text = self.ask("GET", "/metrics").body.decode()
        rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def predicted(address: Address, data: bytes) -> Answer:
    """Ask for a prediction over a connection of its own."""
    with Http(address) as client:
        return client.predict(data)


class Wyoming:
    """A client of the Wyoming protocol that keeps its connection; the library's own needs an event loop."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self._reading, self._writing = self._socket.makefile("rb"), self._socket.makefile("wb")

    def ask(self, event: Event) -> Event | None:
        """Send an event, and return what it is answered with; None if the connection ends."""
        write_event(event, self._writing)
        return read_event(self._reading)

    def close(self) -> None:
        """Disconnect."""
        with self._socket, suppress(OSError):  # what was not sent cannot be, where the service has gone
            self._reading.close()
            self._writing.close()

    def __enter__(self) -> Wyoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def asked(address: Address, event: Event) -> Event | None:
    """Send an event over a connection of its own, as Home Assistant does, and return its answer."""
    with Wyoming(address) as client:
        return client.ask(event)


class Timed:
    """How long something took, in seconds; NaN before it has ended."""

    seconds = float("nan")


@contextmanager
def timed() -> Iterator[Timed]:
    """Give what says how long the block took, after it."""
    found, began = Timed(), time.perf_counter()
    yield found
    found.seconds = time.perf_counter() - began


def decoded(answer: Answer) -> Any:
    """Return an answer's JSON."""
    return json.loads(answer.body)
