"""What edgefuse costs on top of the bare runtime: `python benchmarks/overhead.py BUNDLE.edgefuse [--json]`.

Three figures, each against the same files opened by hand with the runtime that the bundle names:

* latency of the pipeline over calling the files by hand, from the same tensors, interleaved; apart from it, what the
  checks of `pipeline(**arrays)` add, which nobody does by hand;
* time of `import edgefuse` beyond numpy, the median of fresh interpreters;
* peak resident memory of a process that loads the bundle and predicts, over one that opens and runs the bare files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgefuse
from edgefuse.bundle.manifest import Candidate, Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ModelSpec, TensorPreprocess, TextPreprocess
from edgefuse.measure.latency import Interleaved
from edgefuse.measure.rungs import golden_inputs
from edgefuse.runtime.backends.backend import SessionOptions

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_TIMING = Interleaved(warmup_rounds=50, min_rounds=1000, order="random")
_PROCESSES = 7

_FILES = "import json, sys, numpy; files = json.loads(sys.argv[1])"
_OPENING = {
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
sessions = [onnxruntime.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in files["onnx"]]
kinds = {"tensor(float)": numpy.float32, "tensor(uint8)": numpy.uint8, "tensor(int32)": numpy.int32}
for session in sessions:
    session.run(None, {i.name: numpy.ones([n if isinstance(n, int) else 1 for n in i.shape], kinds[i.type])
                       for i in session.get_inputs()})
""",
    "tflite": """
from ai_edge_litert.interpreter import Interpreter
interpreters = [Interpreter(model_path=p, num_threads=1) for p in files["tflite"]]
for interpreter in interpreters:
    interpreter.allocate_tensors()
    for i in interpreter.get_input_details():
        interpreter.set_tensor(i["index"], numpy.ones(i["shape"], i["dtype"]))
    interpreter.invoke()
""",
    "openvino": """
sys.modules["openvino_telemetry"] = None
import openvino
core = openvino.Core()
models = [core.compile_model(p, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 0}) for p in files["openvino"]]
for model in models:
    model.create_infer_request().infer([
        numpy.ones([n.get_length() if n.is_static else 1 for n in i.partial_shape], i.element_type.to_dtype())
        for i in model.inputs])
""",
}
_PEAK = """
print("peak", next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
_EDGEFUSE = """
import sys, edgefuse, numpy
from edgefuse.runtime.pipeline import Inputs
pipeline = edgefuse.load(sys.argv[1], cache=False)
with numpy.load(sys.argv[2]) as file:
    values = {key: file[key] for key in file.files}
pipeline.infer(Inputs(values=values, present=tuple(m.name for m in pipeline.manifest.model.modalities)))
"""


def bare_onnx(path: Path, candidate: Candidate) -> Run:
    """Open a file with ONNX Runtime as a careful user would, and return a call by port names."""
    from edgefuse.runtime.backends.onnx.api import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [(binding.tensor, binding.port) for binding in candidate.inputs]
    tensors, ports = [b.tensor for b in candidate.outputs], [b.port for b in candidate.outputs]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return dict(zip(ports, session.run(tensors, {tensor: feeds[port] for tensor, port in inputs}), strict=True))

    return run


def bare_tflite(path: Path, candidate: Candidate) -> Run:
    """Open a file with LiteRT as a careful user would, and return a call by port names."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    inputs = {port.port: signature.get_input_details()[port.tensor]["index"] for port in candidate.inputs}
    outputs = {port.port: signature.get_output_details()[port.tensor]["index"] for port in candidate.outputs}

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        for port, index in inputs.items():
            interpreter.set_tensor(index, feeds[port])
        interpreter.invoke()
        return {port: interpreter.get_tensor(index) for port, index in outputs.items()}

    return run


def bare_openvino(path: Path, candidate: Candidate) -> Run:
    """Open a file with OpenVINO as a careful user would, and return a call by port names."""
    from edgefuse.runtime.backends.openvino.session import core, settings

    request = core().compile_model(str(path), "CPU", settings(SessionOptions())).create_infer_request()
    inputs = [(binding.tensor, binding.port) for binding in candidate.inputs]
    outputs = [(binding.port, binding.tensor) for binding in candidate.outputs]

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        request.infer({tensor: feeds[port] for tensor, port in inputs})
        return {port: request.get_tensor(tensor).data.copy() for port, tensor in outputs}

    return run


_BARE: Mapping[str, Callable[[Path, Candidate], Run]] = {
    "onnx": bare_onnx,
    "tflite": bare_tflite,
    "openvino": bare_openvino,
}


def by_hand(manifest: Manifest, runs: Mapping[str, Run], values: Mapping[str, Array]) -> Callable[[], Array]:
    """Return a call that runs all stages one after another, every modality present, with nothing around them."""
    stages = [(s.name, [(p.tensor.name, p.source.key) for p in s.inputs]) for s in manifest.stages]
    present = np.ones((1, len(manifest.model.modalities)), np.float32)

    def call() -> Array:
        pool = {**values, "present": present}
        for name, inputs in stages:
            results = runs[name]({port: pool[key] for port, key in inputs})
            for port, value in results.items():
                pool[f"/{name}.{port}"] = value
        return value

    return call


def raw_inputs(spec: ModelSpec, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays as a user passes them: one per modality, a text as the ids that count."""
    raw = {}
    for modality in spec.modalities:
        array = values[f"{modality.name}.{modality.tensors[0].name}"]
        length = values.get(f"{modality.name}.length")
        if isinstance(modality.preprocess, TextPreprocess) and length is not None:
            array = array[:, : int(length[0])]
        raw[modality.name] = array if isinstance(modality.preprocess, TensorPreprocess) else array[0]
    return raw


def measure(bundle: Path) -> dict[str, Any]:
    """Measure everything about one bundle's default rung; `busy` is why the latencies cannot be trusted."""
    with open_bundle(bundle) as opened, tempfile.TemporaryDirectory() as folder:
        manifest, inputs = opened.manifest, golden_inputs(opened)
        runs: dict[str, Run] = {}
        paths: dict[str, list[str]] = {}
        for stage, id_ in manifest.rung().candidates.items():
            candidate = manifest.candidate(id_)
            path = Path(folder) / Path(candidate.file).name
            path.write_bytes(opened.read(candidate.file))
            if candidate.backend not in _BARE:
                sys.exit(f"nothing opens {candidate.backend} by hand here: pass a bundle for {', '.join(_BARE)}")
            paths.setdefault(candidate.backend, []).append(str(path))
            runs[stage] = _BARE[candidate.backend](path, candidate)
        raw = raw_inputs(manifest.model, inputs.values)
        with edgefuse.load(opened, cache=False) as pipeline:
            call = by_hand(manifest, runs, inputs.values)
            answer: Any = next(iter(pipeline(**raw).outputs.values()))
            np.testing.assert_allclose(answer, call(), atol=1e-5)
            prepared = pipeline.preprocess(**raw)
            latencies = _TIMING(
                {"by hand": call, "pipeline": lambda: pipeline.infer(prepared), "call": lambda: pipeline(**raw)}
            )
        values: dict[str, Any] = dict(inputs.values)
        np.savez(Path(folder) / "inputs.npz", **values)
        script = "".join([_FILES, *(_OPENING[name] for name in paths)])
        own = peak_bytes(_EDGEFUSE, str(bundle), str(Path(folder) / "inputs.npz"))
        other = peak_bytes(script, json.dumps(paths))
    hand_ms, pipeline_ms = latencies.p50_ms("by hand"), latencies.p50_ms("pipeline")
    return {
        "by_hand_p50_ms": hand_ms,
        "pipeline_p50_ms": pipeline_ms,
        "overhead_us": 1e3 * (pipeline_ms - hand_ms),
        "overhead_share": latencies.ratio("pipeline", "by hand").value - 1,
        "checks_us": 1e3 * (latencies.p50_ms("call") - pipeline_ms),
        "import_ms": import_ms(),
        "peak_rss_bytes": own,
        "bare_peak_rss_bytes": other,
        "peak_rss_ratio": own / other,
        "busy": latencies.pressure.seen,
    }


def peak_bytes(script: str, *arguments: str) -> float:
    """Return the median peak resident memory of fresh processes."""
    peaks = []
    for _ in range(_PROCESSES):
        command = [sys.executable, "-c", script + _PEAK, *arguments]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks.append(1024 * int(output.rsplit("peak", 1)[1]))
    return statistics.median(peaks)


def import_ms() -> float:
    """Return how long `import edgefuse` takes in an interpreter that has numpy already."""
    script = "import time, numpy; t = time.perf_counter(); import edgefuse; print(1e3 * (time.perf_counter() - t))"
    command = [sys.executable, "-c", script]
    runs = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(_PROCESSES))
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.bundle)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{arguments.bundle}: by hand {found['by_hand_p50_ms']:.3f} ms, pipeline {found['pipeline_p50_ms']:.3f} ms: "
        f"{found['overhead_us']:.0f} us, {100 * found['overhead_share']:.1f} %; "
        f"checks of arrays {found['checks_us']:.0f} us"
    )
    if found["busy"]:
        print(f"the machine was busy, these latencies cannot be trusted: {'; '.join(found['busy'])}")
    print(f"import edgefuse beyond numpy: {found['import_ms']:.1f} ms")
    own, bare = found["peak_rss_bytes"] / 1e6, found["bare_peak_rss_bytes"] / 1e6
    print(f"peak memory {own:.1f} MB, bare runtime {bare:.1f} MB: {found['peak_rss_ratio']:.2f} x")


if __name__ == "__main__":
    main()
