"""Resident memory and cold start, seen from within: of this process, and of a function in a process of its own.

Nothing of weight is imported at the top, since imports are part of what is measured.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefuse.errors import MeasureError

_STATUS = Path("/proc/self/status")
_MARK = "edgefuse-child:"


def current_rss_bytes() -> int:
    """Return the resident set of this process now (its peak where the system does not tell)."""
    return _status_bytes("VmRSS") or _peak_from_usage()


def peak_rss_bytes() -> int:
    """Return the largest resident set that this process ever had.

    On Linux it is `VmHWM`, and not `ru_maxrss`: that one is inherited from the parent over fork and exec, so that a
    small process started by a large one reports the large one's peak.
    """
    return _status_bytes("VmHWM") or _peak_from_usage()


def call_in_child(function: Callable[..., Any], **arguments: Any) -> tuple[Any, int]:
    """Call a function in a fresh interpreter; return its result and the peak resident set of that process.

    What the function's module imports counts: keep it light. Arguments and result pass through JSON.

    Raises:
        MeasureError: if the child fails; its last line says why.
    """
    request = json.dumps([function.__module__, function.__qualname__, arguments])
    command = [sys.executable, "-c", f"import {__name__} as memory; memory.answer()"]
    child = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", errors="replace", check=False)
    for line in child.stdout.splitlines():
        if line.startswith(_MARK):
            value, peak = json.loads(line.removeprefix(_MARK))
            return value, peak
    said = [line for line in child.stderr.strip().splitlines() if not line.startswith("INFO: ")]  # a runtime's greeting
    reason = (said or ["no message"])[-1]
    raise MeasureError(
        f"the child process that runs '{function.__qualname__}' ended with {child.returncode}", got=reason
    )


def answer() -> None:
    """Do in the child what `call_in_child` asks for on stdin."""
    module, name, arguments = json.load(sys.stdin)
    value = getattr(importlib.import_module(module), name)(**arguments)
    sys.stdout.write(_MARK + json.dumps([value, peak_rss_bytes()]) + "\n")


def _status_bytes(field: str) -> int:
    """Return a field of /proc/self/status in bytes, or 0 where there is none."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _peak_from_usage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_CALLS = 200


def live(bundle: str, inputs: str, rung: str, threads: int, backend: str | None) -> dict[str, float | None]:
    """Import, load, predict, go on predicting; return the fields of `rungs.ColdStart` but the peak.

    `inputs` is an npz with the values by key and the names of the present modalities under `present`.

    Args:
        bundle: its path.
        inputs: the path of an npz: values by key, and the names of the present modalities under `present`.
        rung: its name.
        threads: of each session.
        backend: another one than the bundle names, or None.
    """
    began = time.perf_counter_ns()
    import numpy as np

    from edgefuse.runtime.pipeline import Inputs, load

    imported = time.perf_counter_ns()
    pipeline = load(bundle, rung=rung, threads=threads, backend=backend, cache=False)
    loaded = time.perf_counter_ns()
    with np.load(inputs, allow_pickle=False) as file:
        values = {key: file[key] for key in file.files}
    given = Inputs(present=tuple(values.pop("present").tolist()), values=values)
    asked = time.perf_counter_ns()
    pipeline.infer(given)
    answered = time.perf_counter_ns()
    before = current_rss_bytes()
    for _ in range(_CALLS):
        pipeline.infer(given)
    growth = current_rss_bytes() - before
    from edgefuse.runtime import pressure

    return {
        "import_ms": (imported - began) / 1e6,
        "load_ms": (loaded - imported) / 1e6,
        "first_inference_ms": (answered - asked) / 1e6,
        "growth_bytes": growth,
        "waited": pressure.since_the_start(),
    }
