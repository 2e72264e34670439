"""What loops gain over unrolled steps in LiteRT: `python benchmarks/recurrent.py [--cell gru] [--steps 150] [--json]`.

A convolution, a recurrent layer (40 to 128), a bidirectional one (128 to 128) and a linear layer are lowered twice: by
edgefuse, and by litert-torch alone, which unrolls every step (minutes at 150 steps). Printed are the seconds of both
conversions (of the clock, and of this process), the size of the files over their weights, the largest difference to
torch over 50 inputs in a row, and the latency of the loop over the unrolled file, one thread, interleaved. A third file
is the loop with int8 weights (`dynamic_wi8_af32`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import litert_torch
import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.export.target import Lowered
from edgefuse.export.tflite.target import TfliteTarget, name_interface
from edgefuse.export.tracing import quiet
from edgefuse.measure.latency import Interleaved
from edgefuse.quantize.tflite.quantizer import TfliteQuantizer
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.tflite.backend import TfliteBackend
from edgefuse.stages.stage import TorchStage

_CELLS: dict[str, Callable[..., nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU}
_CHANNELS, _HIDDEN, _CLASSES, _INPUTS = 40, 128, 10, 50
_TIMING = Interleaved(warmup_rounds=20, min_rounds=300, order="random")


class Recurrent(nn.Module):
    """The network that is timed: [1, 40, steps] to [1, steps, 10]."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        layer = _CELLS[cell]
        self.stem = nn.Conv1d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.first = layer(_CHANNELS, _HIDDEN, batch_first=True)
        self.second = layer(_HIDDEN, _HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * _HIDDEN, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score per class and step."""
        y: Tensor = self.head(self.second(self.first(self.stem(x).transpose(1, 2))[0])[0])
        return y


def stage_of(cell: str, steps: int) -> TorchStage:
    """Return the network as a stage."""
    torch.manual_seed(0)
    x = TensorSpec(name="x", dtype="float32", shape=(1, _CHANNELS, steps))
    spec = StageSpec(
        name="recurrent",
        role="encoder",
        inputs=(StageInput(tensor=x, source=Source(kind="modality", owner="sound", tensor="x")),),
        outputs=(StageOutput(tensor=TensorSpec(name="y", shape=(1, steps, _CLASSES))),),
    )
    return TorchStage(spec, Recurrent(cell).eval())


def unrolled(stage: TorchStage) -> Lowered:
    """Lower a stage with litert-torch alone."""
    example = torch.zeros(stage.spec.inputs[0].tensor.max_shape)
    with quiet():
        data = bytes(litert_torch.convert(stage.module, (example,)).model_content())
    x, y = (
        Binding(port=port.tensor.name, tensor=port.tensor.name, dtype="float32", shape=port.tensor.max_shape)
        for port in (stage.spec.inputs[0], stage.spec.outputs[0])
    )
    return Lowered(name_interface(data, ["x"], ["y"]), (x,), (y,), "tfl3")


def timed(lower: Callable[[TorchStage], Lowered], stage: TorchStage) -> tuple[Lowered, dict[str, float]]:
    """Lower a stage and return the file and the seconds that it took."""
    clock, process = time.perf_counter(), time.process_time()
    file = lower(stage)
    return file, {"convert_s": time.perf_counter() - clock, "convert_process_s": time.process_time() - process}


def measure(cell: str, steps: int) -> dict[str, dict[str, float]]:
    """Lower, compare and time; the figures of each file by its name."""
    stage = stage_of(cell, steps)
    weights = 4 * sum(parameter.numel() for parameter in stage.module.parameters())
    TfliteTarget().lower(stage_of(cell, 2))  # imports the converter
    found: dict[str, dict[str, float]] = {}
    files: dict[str, Lowered] = {}
    for name, lower in (("loop", TfliteTarget().lower), ("unrolled", unrolled)):
        files[name], found[name] = timed(lower, stage)
    files["loop int8"] = TfliteQuantizer().apply(files["loop"], Scheme(name="dynamic_wi8_af32"), lambda: iter(()))
    found["loop int8"] = {}
    runs = {name: _opened(file) for name, file in files.items()}
    samples = np.random.default_rng(0).standard_normal((_INPUTS, 1, _CHANNELS, steps), np.float32)
    with torch.inference_mode():
        expected = [stage.module(torch.from_numpy(x)).numpy() for x in samples]
    for name, run in runs.items():
        found[name]["size_over_weights"] = len(files[name].data) / weights
        found[name]["max_error"] = max(float(np.abs(run(x) - y).max()) for x, y in zip(samples, expected, strict=True))
    latencies = _TIMING({name: partial(run, samples[0]) for name, run in runs.items()})
    if latencies.pressure.busy:
        print(
            f"the machine was busy, these times cannot be trusted: {'; '.join(latencies.pressure.seen)}",
            file=sys.stderr,
        )
    for name in runs:
        ratio = latencies.ratio(name, "unrolled")
        found[name] |= {"p50_ms": latencies.p50_ms(name), "ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    return found


def _opened(file: Lowered) -> Callable[[Any], Any]:
    session = TfliteBackend().open(file.data, file.inputs, file.outputs, SessionOptions())
    return lambda x: session.run({"x": x})["y"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=tuple(_CELLS), default="lstm")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.cell, arguments.steps)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, row in found.items():
        convert = f"{row['convert_s']:.1f} s ({row['convert_process_s']:.1f})" if "convert_s" in row else "-"
        print(
            f"{arguments.cell} {arguments.steps} {name}: converted in {convert}, "
            f"{row['size_over_weights']:.3f} x weights, max error {row['max_error']:.1e}, {row['p50_ms']:.2f} ms, "
            f"{row['ratio']:.2f} x unrolled ({row['low']:.2f} to {row['high']:.2f})"
        )


if __name__ == "__main__":
    main()
