"""Sound encoded as it comes: a step of 100 ms costs a third of recomputing everything, or less."""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt

import edgefuse
from benchmarks.soak.line import Line, Setting
from edgefuse.measure.latency import Interleaved
from edgefuse.runtime.pipeline import Pipeline

RECIPES = ("digits/recipe.toml",)
TARGETS = ("onnx", "tflite")

_RATE_HZ, _STEP_S, _MINUTE_S = 16_000, 0.1, 60
_LEAST_RATIO = 3.0
_TEXT, _ROUNDS = "seven", 31


def run(setting: Setting) -> Line:
    """Measure every rung of both targets; the default one must stream, and each that does be three times as cheap."""
    figures: dict[str, Any] = {}
    ok = True
    for target in TARGETS:
        path = setting.bundle(RECIPES[0], target)
        with edgefuse.load(path) as default, edgefuse.load(path, cache=False) as forgetful:
            for rung in (one.name for one in default.manifest.rungs):
                with default.at(rung) as keeping, forgetful.at(rung) as plain:
                    streams = "audio" in keeping.streaming
                    found = _measured(keeping, plain) if streams else {"failed": "the sound does not stream"}
                    figures |= {f"{target}_{rung}_{name}": value for name, value in found.items()}
                    ok &= streams or rung != default.rung.name
                    ok &= not streams or found["ratio"] >= _LEAST_RATIO
    return Line(line="incremental", figures=figures, ok=bool(ok))


def _measured(keeping: Pipeline, plain: Pipeline) -> dict[str, float]:
    """Time audio steps, picture and text unchanged: incremental, with features kept, and recomputing everything.

    A step of 100 ms is no whole number of chunks, so what is timed are as many as come out even.

    Args:
        keeping: keeps the features of what did not change.
        plain: recomputes everything.
    """
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    sound, heard, size = _sound(_MINUTE_S), keeping.incremental("audio"), int(_STEP_S * _RATE_HZ)
    heard.push(sound[:_RATE_HZ])
    steps = int(heard.chunk // np.gcd(heard.chunk, size))
    starts = cycle(range(0, len(sound) - _RATE_HZ, size))

    def incremental() -> None:
        for start in islice(starts, steps):
            heard.push(sound[start : start + size])
            keeping(image=frame, text=_TEXT, audio=heard.encoded)

    def whole(pipeline: Pipeline) -> None:
        for start in islice(starts, steps):
            pipeline(image=frame, text=_TEXT, audio=sound[start : start + _RATE_HZ])

    calls = {"incremental": incremental, "sound": partial(whole, keeping), "everything": partial(whole, plain)}
    times = Interleaved(min_rounds=_ROUNDS, max_seconds=20.0)(calls)
    ms = {name: times.p50_ms(name) / steps for name in calls}
    return {
        "step_ms": round(ms["incremental"], 4),
        "recomputing_sound_ms": round(ms["sound"], 4),
        "recomputing_everything_ms": round(ms["everything"], 4),
        "ratio": round(ms["everything"] / ms["incremental"], 2),
        "ratio_to_sound": round(ms["sound"] / ms["incremental"], 2),
    }


def _sound(seconds: int) -> npt.NDArray[np.float32]:
    """Return noise whose loudness changes every 50 ms, as that of speech does."""
    rng, count = np.random.default_rng(1), seconds * _RATE_HZ
    loud = np.repeat(rng.uniform(0.01, 0.5, count // 800), 800)
    return (loud * rng.standard_normal(count)).clip(-1, 1).astype(np.float32)
