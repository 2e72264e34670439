"""Are figures honest on a busy machine? `python benchmarks/pressure.py [--runs 10] [--processes 8] [--seconds 5]`.

A small network is lowered to ONNX in float and in int8, and the pair is timed as rungs are (interleaved bursts, one
thread), in turn in quiet and with busy processes beside, each of which walks through memory. Every run prints how many
times faster int8 is, its interval, whether it is marked, and what was seen. The quiet value is the median of the quiet
runs. It passes, and ends with 0, if with load the interval holds the quiet value or is marked in every run, and if in
quiet the mark is absent in at least nine of ten.

Nothing else may run on the machine meanwhile. `--out FILE` keeps everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.target import Lowered
from edgefuse.measure.latency import single_stream
from edgefuse.measure.rungs import P99_ROUNDS
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.onnx.backend import OnnxBackend
from edgefuse.stages.stage import TorchStage

_ROWS = 16
_SETTLE_SECONDS = 1.0
_BUSY = "import numpy; a = numpy.ones(1 << 19)\nwhile True: a += 1"

Row = dict[str, Any]


class Layers(nn.Module):
    """The network that is timed: linear layers with a curve after each."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of the input."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def pair(width: int, layers: int) -> dict[str, Callable[[], object]]:
    """Return a call of the float file and one of the int8 file."""
    torch.manual_seed(0)
    x = TensorSpec(name="x", dtype="float32", shape=(1, _ROWS, width))
    spec = StageSpec(
        name="layers",
        role="encoder",
        inputs=(StageInput(tensor=x, source=Source(kind="modality", owner="sensor", tensor="x")),),
        outputs=(StageOutput(tensor=TensorSpec(name="y", shape=(1, _ROWS, width))),),
    )
    lowered = OnnxTarget().lower(TorchStage(spec, Layers(width, layers).eval()))
    int8 = OnnxQuantizer().apply(lowered, Scheme(name="dynamic_wi8_af32"), lambda: iter(()))
    sample = np.random.default_rng(0).standard_normal((1, _ROWS, width), np.float32)
    return {"float": _opened(lowered, sample), "int8": _opened(int8, sample)}


def _opened(file: Lowered, sample: Any) -> Callable[[], object]:
    session = OnnxBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    return lambda: session.run({"x": sample})


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Keep processes busy within the block."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
        time.sleep(_SETTLE_SECONDS)


def measure(calls: dict[str, Callable[[], object]], processes: int, seconds: float) -> Row:
    """Time the pair once, with so many busy processes beside."""
    timing = replace(single_stream(rounds=P99_ROUNDS, max_seconds=2 * seconds), min_seconds=seconds)
    with load(processes):
        latencies = timing(calls)
    ratio = latencies.ratio("float", "int8")
    return {
        "processes": processes,
        "rounds": latencies.rounds,
        "float_ms": latencies.p50_ms("float"),
        "int8_ms": latencies.p50_ms("int8"),
        **asdict(ratio),
        "pressure": asdict(latencies.pressure),
        "busy": latencies.pressure.seen,
    }


def verdict(rows: list[Row]) -> Row:
    """Return the quiet value, in how many runs intervals and marks were right, and whether that is enough."""
    quiet, loaded = ([row for row in rows if bool(row["processes"]) is busy] for busy in (False, True))
    value = median(row["value"] for row in quiet)
    covering = sum(row["low"] <= value <= row["high"] for row in loaded)
    honest = sum(row["marked"] or row["low"] <= value <= row["high"] for row in loaded)
    unmarked = sum(not row["marked"] for row in quiet)
    return {
        "quiet": value,
        "loaded": len(loaded),
        "covering": covering,
        "honest": honest,
        "unmarked": unmarked,
        "passed": honest == len(loaded) and unmarked >= 0.9 * len(quiet),
    }


def _line(number: int, row: Row) -> str:
    kind = f"{row['processes']} busy" if row["processes"] else "quiet"
    pressure = row["pressure"]
    counters = ", ".join(f"{name} {value:.3g}" for name, value in pressure.items() if value is not None)
    return (
        f"{number:2} {kind:7} {row['value']:6.2f} x [{row['low']:.2f}, {row['high']:.2f}] "
        f"{'MARKED' if row['marked'] else '      '} {row['float_ms']:.3f} / {row['int8_ms']:.3f} ms, "
        f"{row['rounds']} rounds; {'; '.join(row['busy']) or counters}"
    )


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("--processes", type=int, default=8, help="busy ones beside (default: 8)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of every run, at the least (default: 5)")
    parser.add_argument("--width", type=int, default=768, help="of the network: longer calls are falsified more")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a file for everything as JSON")
    arguments = parser.parse_args()
    calls, rows = pair(arguments.width, arguments.layers), []
    for number in range(arguments.runs):
        for processes in (0, arguments.processes):
            rows.append(measure(calls, processes, arguments.seconds))
            print(_line(number + 1, rows[-1]), flush=True)
    found = verdict(rows)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"verdict": found, "runs": rows}, indent=1) + "\n", encoding="utf-8")
    print(
        f"quiet: {found['quiet']:.2f} x; with load the interval holds that or is marked in {found['honest']} of "
        f"{found['loaded']} runs (holds it in {found['covering']}); in quiet unmarked in {found['unmarked']} of "
        f"{arguments.runs}: {'passed' if found['passed'] else 'FAILED'}"
    )
    sys.exit(not found["passed"])


if __name__ == "__main__":
    main()
