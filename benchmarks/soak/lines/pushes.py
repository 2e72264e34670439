"""100,000 pushes in a storm: no error, no deadlock, at most 2 MB more memory, every push used, dropped or late."""

from __future__ import annotations

import gc

import edgefuse
from benchmarks import streams
from benchmarks.soak.line import Line, Setting
from edgefuse.measure.memory import current_rss_bytes

RECIPES = ("digits/recipe.toml",)

PUSHES = 100_000
MAX_GROWTH_BYTES = 2_000_000
_WARMUP = 0.5  # until malloc breaks up its heaps no further, which is 40,000 pushes: decision 116
_SPEED = 20.0  # times as fast as the world: predictions keep up with it


def run(setting: Setting) -> Line:
    """Push a storm, a twentieth of it where minutes are counted."""
    pushes = PUSHES if setting.minutes is None else PUSHES // 20
    with edgefuse.load(setting.bundle(RECIPES[0])) as pipeline:
        return line(pipeline, pushes)


def line(pipeline: edgefuse.Pipeline, pushes: int) -> Line:
    """Return what a storm came to, after a warm-up.

    Args:
        pipeline: that predicts.
        pushes: of the storm, without the warm-up.
    """
    streams.storm(pipeline, int(_WARMUP * pushes), seed=1, speed=_SPEED)
    gc.collect()
    before = current_rss_bytes()
    outcome = streams.storm(pipeline, pushes, seed=2, speed=_SPEED)
    gc.collect()
    growth = current_rss_bytes() - before
    counts = outcome.counts
    figures = {
        "pushed": outcome.pushed,
        "used": {name: one.used for name, one in counts.items()},
        "dropped": {name: one.dropped for name, one in counts.items()},
        "late": {name: one.late for name, one in counts.items()},
        "jumps": {name: one.jumps for name, one in counts.items()},
        "predictions": outcome.predictions,
        "kept_bytes": outcome.peak_bytes,
        "growth_bytes": growth,
        "errors": list(outcome.errors),
    }
    ok = outcome.accounted and not outcome.errors and outcome.predictions > 0 and growth <= MAX_GROWTH_BYTES
    return Line(line="pushes", figures=figures, ok=ok)
