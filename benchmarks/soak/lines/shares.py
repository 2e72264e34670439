"""Eight streams over one open bundle: fair shares, one budget of threads, the memory of each."""

from __future__ import annotations

import edgefuse
from benchmarks import streams
from benchmarks.soak.line import Line, Setting

RECIPES = ("digits/recipe.toml",)

STREAMS = 8
SECONDS = 20.0
MAX_UNFAIRNESS = 1.1


def run(setting: Setting) -> Line:
    """Let eight streams ask all the time."""
    seconds = SECONDS if setting.minutes is None else min(SECONDS, 60 * setting.minutes)
    with edgefuse.load(setting.bundle(RECIPES[0])) as pipeline:
        return line(pipeline, seconds)


def line(pipeline: edgefuse.Pipeline, seconds: float) -> Line:
    """Return what each stream got.

    Args:
        pipeline: that predicts.
        seconds: for which they ask.
    """
    found = streams.shares(pipeline, seconds, STREAMS)
    figures = {
        "predictions_of_each": list(found.predictions),
        "most_over_least": found.unfairness,
        "threads_more": found.threads,
        "bytes_of_each": list(found.size_bytes),
    }
    ok = min(found.predictions) > 0 and found.unfairness <= MAX_UNFAIRNESS and found.threads == 0
    return Line(line="shares", figures=figures, ok=ok)
