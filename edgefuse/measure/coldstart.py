"""The life of a device process, timed from within: what `rungs.cold_start` runs in a fresh interpreter.

It imports nothing of weight at its top, since imports are part of what is measured.
"""

from __future__ import annotations

import time

from edgefuse.measure import memory

_CALLS = 200


def live(bundle: str, inputs: str, rung: str, threads: int, backend: str | None) -> dict[str, float]:
    """Import, load, predict, go on predicting.

    Args:
        bundle: path of the bundle.
        inputs: path of an npz with the values by key and the names of the present modalities under `present`.
        rung: which one to open.
        threads: that inference may use.
        backend: another backend than the manifest names.

    Returns:
        The fields of `ColdStart` but the peak.
    """
    began = time.perf_counter_ns()
    import numpy as np

    from edgefuse.runtime.load import load
    from edgefuse.runtime.pipeline import Inputs

    imported = time.perf_counter_ns()
    pipeline = load(bundle, rung=rung, threads=threads, backend=backend, cache=False)
    loaded = time.perf_counter_ns()
    with np.load(inputs, allow_pickle=False) as file:
        values = {key: file[key] for key in file.files}
    given = Inputs(present=tuple(values.pop("present").tolist()), values=values)
    asked = time.perf_counter_ns()
    pipeline.infer(given)
    answered = time.perf_counter_ns()
    before = memory.current_rss_bytes()
    for _ in range(_CALLS):
        pipeline.infer(given)
    return {
        "import_ms": (imported - began) / 1e6,
        "load_ms": (loaded - imported) / 1e6,
        "first_inference_ms": (answered - asked) / 1e6,
        "growth_bytes": memory.current_rss_bytes() - before,
    }
