"""What is asked of pipelines with one thread and with two."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefuse.runtime.pipeline import Pipeline

Raw = dict[str, Any]

NAMES = ("image", "text", "motion")

NARROW, BOTH = 1.0, 0.5
"""Seconds of an encoder with all threads; with half of them one second: as fast, or slower."""


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgefuse-encoders"]


def logits(pipeline: Pipeline, raw: Raw) -> npt.NDArray[np.float32]:
    return np.asarray(pipeline(**raw).outputs["logits"], np.float32)


def raws(count: int) -> list[Raw]:
    rng = np.random.default_rng(5)
    return [
        {
            "image": rng.integers(0, 256, (8, 8), dtype=np.uint8),
            "text": " ".join(rng.choice(["stop", "go", "wait", "now"], 3)),
            "motion": rng.normal(size=(1, 3, 3)).astype(np.float32),
        }
        for _ in range(count)
    ]
