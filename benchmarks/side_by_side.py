"""Encoders of different modalities in two threads, or one after the other: `python -m benchmarks.side_by_side BUNDLE`.

Both have two processors. One after the other, each stage's runtime has two threads; side by side, each has one, the
longest modality runs in the thread that calls and the others in one that waits for work. A third way, one after the
other with one thread, says what a second processor is worth at all. All run in shuffled order in each round and are
compared by the clock: medians, and a bootstrap interval of their ratio. They are compared

- by their encoders alone, fusion apart (`encoders`);
- in whole calls of a pipeline in which all modalities are new (`calls`): as `edgefuse.load(…, threads=2)` runs them by
  what it measured when it opened the bundle, and as it would if there were nothing side by side;
- in calls with one modality alone, one call for each (`alone`), which must not be slower.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.bundle.spec import StageSpec
from edgefuse.measure.rungs import golden_inputs
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.pipeline import Pipeline, load

_WARM, _DRAWS = 40, 2000
Call = Callable[[], object]


def main(arguments: list[str] | None = None) -> int:
    """Measure the default rung of each bundle, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+")
    parser.add_argument("--rounds", type=int, default=600)
    given = parser.parse_args(arguments)
    sys.stdout.write(json.dumps([compared(path, given.rounds) for path in given.bundle], indent=2) + "\n")
    return 0


def compared(path: str, rounds: int) -> dict[str, object]:
    """Return medians in microseconds, and ratios with their 95 % intervals.

    Args:
        path: of a bundle whose model has at least two modalities with stages of their own.
        rounds: of each of the ways.
    """
    with (
        open_bundle(path) as bundle,
        load(bundle, threads=1, cache=False) as single,
        _one_after_the_other(bundle) as double,
        load(bundle, threads=2, cache=False) as beside,
    ):
        inputs = golden_inputs(bundle)
        manifest = bundle.manifest
        with beside._calling() as graph:
            done = graph._sides is not None
        pipelines = {"one_thread": single, "two_threads": double, "side_by_side": beside}
        alone = [replace(inputs, present=(name,)) for name in inputs.present]
        return {
            "model": manifest.model.name,
            "backend": manifest.candidates[0].backend,
            "rung": single.rung.name,
            "chosen": done,
            "encoders": _encoders(single, double, inputs, rounds),
            "calls": _told({name: partial(one.infer, inputs) for name, one in pipelines.items()}, rounds),
            "alone": _told({name: partial(_each, one, alone) for name, one in pipelines.items()}, rounds),
        }


def _one_after_the_other(bundle: Bundle) -> Pipeline:
    with patch("edgefuse.runtime.side_by_side.separate", lambda *_: ()):
        return load(bundle, threads=2, cache=False)


def _each(pipeline: Pipeline, alone: Sequence[Inputs]) -> None:
    for inputs in alone:
        pipeline.infer(inputs)


def _told(ways: Mapping[str, Call], rounds: int) -> dict[str, object]:
    taken = _timed(ways, rounds)
    return {
        **{f"{name}_us": round(float(np.median(values)), 1) for name, values in taken.items()},
        "side_by_side_over_two_threads": _ratio(taken["side_by_side"], taken["two_threads"]),
        "side_by_side_over_one_thread": _ratio(taken["side_by_side"], taken["one_thread"]),
    }


def _encoders(single: Pipeline, double: Pipeline, inputs: Inputs, rounds: int) -> dict[str, object]:
    """Compare the stages of all modalities, on what they were fed with in a whole run."""
    with ThreadPoolExecutor(1) as other:
        one, two = _modalities(single, inputs), _modalities(double, inputs)
        alone_us = {name: _alone_us(call) for name, call in one.items()}
        first, *rest = sorted(one, key=lambda name: -alone_us[name])
        others: SimpleQueue[bool | None] = SimpleQueue()
        done: SimpleQueue[None] = SimpleQueue()
        serving = other.submit(_serve, others, done, [one[name] for name in rest])
        ways: dict[str, Call] = {
            "one_thread": lambda: [call() for call in one.values()],
            "two_threads": lambda: [call() for call in two.values()],
            "side_by_side": partial(_side_by_side, one[first], others, done),
        }
        try:
            told = _told(ways, rounds)
        finally:
            others.put(None)
        serving.result()
    return {"each_us": {name: round(value, 1) for name, value in alone_us.items()}, **told}


def _modalities(pipeline: Pipeline, inputs: Inputs) -> dict[str, Call]:
    """Return a call for each modality that runs its stages on what they were fed with in a whole run."""
    fed: dict[str, Mapping[str, Array]] = {}
    with pipeline._calling() as graph:
        sessions = dict(graph._sessions)

        def recorded(stage: StageSpec, feeds: dict[str, Array], *_: object) -> dict[str, Array]:
            fed[stage.name] = feeds
            return sessions[stage.name].run(feeds)

        graph._walked(inputs.values, inputs.present, (), recorded)
    chains: dict[str, list[tuple[Any, Mapping[str, Array]]]] = {}
    for stage in pipeline.manifest.stages:
        if stage.modality and stage.name in fed:
            chains.setdefault(stage.modality, []).append((sessions[stage.name], fed[stage.name]))
    return {name: partial(_run, chain) for name, chain in chains.items()}


def _run(chain: Sequence[tuple[Any, Mapping[str, Array]]]) -> None:
    for session, feeds in chain:
        session.run(feeds)


def _side_by_side(mine: Call, others: SimpleQueue[bool | None], done: SimpleQueue[None]) -> None:
    others.put(True)
    mine()
    done.get()


def _serve(asked: SimpleQueue[bool | None], done: SimpleQueue[None], calls: Sequence[Call]) -> None:
    while asked.get():
        for call in calls:
            call()
        done.put(None)


def _alone_us(call: Call) -> float:
    times = []
    for _ in range(_WARM):
        before = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - before) / 1e3)
    return float(np.median(times))


def _timed(ways: Mapping[str, Call], rounds: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the times of each way in microseconds, in the order of the rounds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for number in range(_WARM + rounds):
        for name in rng.permutation(list(ways)):
            before = time.perf_counter_ns()
            ways[name]()
            if number >= _WARM:
                taken[name].append((time.perf_counter_ns() - before) / 1e3)
    return {name: np.array(values) for name, values in taken.items()}


def _ratio(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> dict[str, object]:
    drawn = np.random.default_rng(1).integers(0, len(one), (_DRAWS, len(one)))
    ratios = np.median(one[drawn], axis=1) / np.median(other[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"median": round(float(np.median(one) / np.median(other)), 3), "ci95": [round(low, 3), round(high, 3)]}


if __name__ == "__main__":
    raise SystemExit(main())
