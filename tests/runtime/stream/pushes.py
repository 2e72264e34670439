"""What is pushed into streams, and what they hold and give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.stream.answer import Answer
from edgefuse.runtime.stream.feed import Feed
from edgefuse.runtime.stream.stream import Stream

Array = npt.NDArray[Any]

MOTION = {"motion": Feed(rate_hz=100)}

RATE_HZ, SAMPLES = 16_000, 1_600


def motion(steps: int = 60) -> Array:
    return np.random.default_rng(1).normal(size=(1, steps, 3)).astype(np.float32)


def picture(seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


def sound(seconds: float, rate_hz: int = RATE_HZ) -> Array:
    """Return a sound that changes all the time."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * (200 + 300 * times) * times) * (0.2 + times)).astype(np.float32)


def answers(stream: Stream) -> Iterator[Answer]:
    """Yield what is due."""
    while (answer := stream.poll()) is not None:
        yield answer


def assert_same(answer: Answer, pipeline: Pipeline, **raw: object) -> None:
    for name, value in pipeline(**raw).outputs.items():
        np.testing.assert_array_equal(answer.outputs[name], value)


def in_chunks(stream: Stream, modality: str, values: Array, rate_hz: int, lengths: list[int]) -> Iterator[Answer]:
    """Push chunks [n, ...] of steps with the times that they have, and yield what becomes due."""
    done = 0
    while done < len(values):
        for length in lengths:
            chunk = values[done : done + length]
            if len(chunk):
                stream.push(modality, chunk[None] if values.ndim > 1 else chunk, done / rate_hz)
            done += length
            yield from answers(stream)


@dataclass
class Held:
    pipeline: Pipeline


@dataclass(frozen=True)
class Down:
    rung: str = "small"
    without: tuple[str, ...] = ("text",)


class Once:
    """A ladder that goes down after the second prediction."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def observe(self, now_s: float, took_s: float, deadline_s: float, rung: str) -> None:
        assert now_s > 0
        assert rung
        self.seen.append((took_s, deadline_s))

    def decide(self, now_s: float) -> Down | None:
        return Down() if len(self.seen) == 2 else None
