"""What streams must stand: a storm of pushes, and eight streams over one open bundle.

A *storm* is what devices send on a bad day, pushed by one thread for each modality while another one predicts: a
twentieth is lost, a tenth delayed beyond the order, a twentieth sent twice, a hundredth no valid input; clocks jump by
up to an hour, and modalities vanish for up to twenty seconds. `make soak` has a line for each of the two.
"""

from __future__ import annotations

import heapq
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

import edgefuse
from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, Modality, TensorPreprocess
from edgefuse.runtime.stream.counts import Counts
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream

LOST, DELAYED, TWICE, WRONG, JUMPS, VANISHES = 0.05, 0.1, 0.05, 0.01, 0.001, 0.001
PERIOD_S = 0.02
ARRAY_HZ = 100.0
_POOL = 16


class Push(NamedTuple):
    """One push: when it arrives on the time of the world, what it is, and whether it is a valid input."""

    arrives_s: float
    chunk: object
    t: float
    valid: bool


class Device:
    """What sends one modality: it is seeded, and sends for ever.

    Args:
        modality: that it sends.
        seed: of its weather.
    """

    def __init__(self, modality: Modality, seed: int) -> None:
        self._rng = random.Random(f"{seed} {modality.name}")
        self._make, self._rate_hz = _maker(modality, np.random.default_rng(seed))

    def pushes(self) -> Iterator[Push]:
        """Yield pushes in the order in which they arrive."""
        rng, numbers = self._rng, count()
        waiting: list[tuple[float, int, Push]] = []
        now_s = offset_s = 0.0
        while True:
            if rng.random() < VANISHES:
                now_s += rng.uniform(0.5, 20)
            if rng.random() < JUMPS:
                offset_s += rng.choice((-1, 1)) * rng.uniform(6, 3600)
            chunk, lasts_s = self._sent()
            valid = rng.random() >= WRONG
            for _ in range((rng.random() >= LOST) * (1 + (rng.random() < TWICE))):
                arrives_s = now_s + (rng.uniform(0, 0.3) if rng.random() < DELAYED else 0.01)
                sent = Push(arrives_s, chunk if valid else rng.choice(_WRONG), now_s + offset_s, valid)
                heapq.heappush(waiting, (arrives_s, next(numbers), sent))
            now_s += lasts_s
            while waiting and waiting[0][0] <= now_s:
                yield heapq.heappop(waiting)[2]

    def _sent(self) -> tuple[object, float]:
        """Return a chunk and its seconds, or a whole input and the time to the next."""
        if not self._rate_hz:
            return self._make(self._rng), self._rng.uniform(0.5, 1.5) * 2 * PERIOD_S
        steps = self._rng.randint(1, int(2 * PERIOD_S * self._rate_hz))
        return self._make(self._rng, steps), steps / self._rate_hz


_WRONG: tuple[object, ...] = (
    None,
    np.full((1, 4, 3), np.nan, np.float32),
    np.full(160, np.nan, np.float32),
    np.zeros((2, 3, 4, 5), np.float32),
    np.zeros(0, np.float32),
    np.zeros(8, np.complex64),
)


def _maker(modality: Modality, rng: np.random.Generator) -> tuple[Callable[..., object], float]:
    """Return what makes the inputs of a modality, and the rate of its steps; 0 if it has none."""
    preprocess, shape = modality.preprocess, modality.tensors[0].max_shape
    if isinstance(preprocess, AudioPreprocess):
        sound = rng.normal(0, 0.1, preprocess.sample_rate_hz).astype(np.float32)
        return lambda chance, steps: _part(sound, chance, steps), preprocess.sample_rate_hz
    if isinstance(preprocess, TensorPreprocess):
        values = rng.normal(0, 1, (1, 1000, *shape[2:])).astype(modality.tensors[0].dtype)
        return lambda chance, steps: values[:, : min(steps, 1000)], ARRAY_HZ
    if isinstance(preprocess, ImagePreprocess):
        pictures = [rng.integers(0, 256, shape[1:], dtype=np.uint8) for _ in range(_POOL)]
        return lambda chance: chance.choice(pictures), 0.0
    return lambda chance: " ".join(chance.choice(("stop", "go", "please", "not")) for _ in range(4)), 0.0


def _part(sound: Any, chance: random.Random, steps: int) -> object:
    start = chance.randrange(len(sound) - steps)
    return sound[start : start + steps]


@dataclass(frozen=True)
class Outcome:
    """What became of a storm.

    Attributes:
        pushed: by the devices.
        wrong: of these, no valid inputs.
        refused: pushes that raised an error.
        predictions: made.
        counts: by modality, after the stream was closed.
        peak_bytes: that the stream kept at any time it was looked at.
        errors: that nobody expected.
    """

    pushed: int
    wrong: int
    refused: int
    predictions: int
    counts: Mapping[str, Counts]
    peak_bytes: int
    errors: tuple[str, ...]

    @property
    def accounted(self) -> bool:
        """Whether every push is accounted for, and only what is wrong was refused."""
        told = self.counts.values()
        whole = all(one.used + one.dropped + one.late == one.pushed for one in told)
        refused = sum(one.refused for one in told)
        return whole and self.pushed == sum(one.pushed for one in told) and refused == self.refused == self.wrong


def feeds(pipeline: edgefuse.Pipeline) -> dict[str, Feed]:
    """Return how the modalities of a bundle come in: arrays as series."""
    modalities = pipeline.manifest.model.modalities
    return {one.name: Feed(rate_hz=ARRAY_HZ) for one in modalities if isinstance(one.preprocess, TensorPreprocess)}


def storm(
    pipeline: edgefuse.Pipeline, pushes: int, *, seed: int = 0, hop_s: float = 0.1, speed: float = 0.0
) -> Outcome:
    """Push a storm into a stream, from a thread for each modality, while another one predicts.

    Args:
        pipeline: that predicts.
        pushes: of all modalities together, at least.
        seed: of the weather.
        hop_s: between two predictions.
        speed: how much faster than the world it goes by; 0: as fast as it can.
    """
    modalities = pipeline.manifest.model.modalities
    stream = pipeline.stream(hop_s=hop_s, feeds=feeds(pipeline))
    tallies = [_Tally() for _ in modalities]
    each = -(-pushes // len(modalities))
    threads = [
        threading.Thread(target=tally.send, args=(stream, modality, Device(modality, seed), each, speed))
        for tally, modality in zip(tallies, modalities, strict=True)
    ]
    consumer = _Tally()
    threads.append(threading.Thread(target=consumer.predict, args=(stream,)))
    for thread in threads:
        thread.start()
    for thread in threads[:-1]:
        thread.join()
    stream.finish()
    threads[-1].join()
    stream.close()
    return Outcome(
        pushed=sum(tally.pushed for tally in tallies),
        wrong=sum(tally.wrong for tally in tallies),
        refused=sum(tally.refused for tally in tallies),
        predictions=consumer.predictions,
        counts=stream.counts,
        peak_bytes=max(tally.peak_bytes for tally in tallies),
        errors=tuple(error for tally in (*tallies, consumer) for error in tally.errors),
    )


class _Tally:
    """What one thread saw."""

    def __init__(self) -> None:
        self.pushed = self.wrong = self.refused = self.predictions = self.peak_bytes = 0
        self.errors: list[str] = []

    def send(self, stream: Stream, modality: Modality, device: Device, pushes: int, speed: float) -> None:
        began = time.monotonic()
        try:
            for number, push in zip(range(pushes), device.pushes(), strict=False):
                if speed:
                    time.sleep(max(0.0, push.arrives_s / speed - (time.monotonic() - began)))
                self.pushed += 1
                self.wrong += not push.valid
                try:
                    stream.push(modality.name, push.chunk, push.t)
                except edgefuse.InputError:
                    self.refused += 1
                if number % 100 == 0:
                    self.peak_bytes = max(self.peak_bytes, stream.size_bytes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            self.errors.append(f"{modality.name}: {error!r}")

    def predict(self, stream: Stream) -> None:
        try:
            for answer in stream:
                self.predictions += 1
                if not all(np.isfinite(value).all() for value in answer.outputs.values()):
                    self.errors.append(f"not finite at {answer.time_s}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            self.errors.append(f"predictions: {error!r}")


@dataclass(frozen=True)
class Shares:
    """What streams that ask all the time got.

    Attributes:
        predictions: by stream.
        size_bytes: that each of them kept.
        threads: of this process more than before, its runtimes' too, while they ran, without those that asked.
    """

    predictions: tuple[int, ...]
    size_bytes: tuple[int, ...]
    threads: int

    @property
    def unfairness(self) -> float:
        """The largest share over the smallest; 1 is fair."""
        return max(self.predictions) / max(1, min(self.predictions))


def shares(pipeline: edgefuse.Pipeline, seconds: float, streams: int = 8) -> Shares:
    """Let streams over one open bundle predict all the time, each from data of its own.

    Args:
        pipeline: that predicts.
        seconds: for which they do.
        streams: how many.
    """
    opened = [pipeline.stream(hop_s=None, feeds=feeds(pipeline)) for _ in range(streams)]
    made = [0] * streams
    start = threading.Barrier(streams)
    ends = threading.Event()
    before = _threads()

    def ask(number: int) -> None:
        stream = opened[number]
        devices = {one.name: Device(one, number) for one in pipeline.manifest.model.modalities}
        sending = {name: filter(lambda push: push.valid, device.pushes()) for name, device in devices.items()}
        start.wait()
        for step in count(1):
            if ends.is_set():
                return
            for name, pushes in sending.items():
                stream.push(name, next(pushes).chunk, step * PERIOD_S)
            stream.predict()
            made[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    extra = _threads() - before - streams
    ends.set()
    for thread in threads:
        thread.join()
    sizes = tuple(stream.size_bytes for stream in opened)
    for stream in opened:
        stream.close()
    return Shares(predictions=tuple(made), size_bytes=sizes, threads=extra)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are all that is needed
