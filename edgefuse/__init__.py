"""edgefuse: an edge-deployment compiler for multimodal fusion models.

    with edgefuse.load("assistant.edgefuse") as pipeline:
        print(pipeline(image="door.png", audio="call.wav", text="who is it").label)

Names are imported when they are first used, so that `import edgefuse` costs next to nothing. From what a device runs to
what a build host runs:

- `errors`: the tree of all errors;
- `typed_json`: JSON as typed records;
- `files`: files that others may have put there, opened without waiting and read within a bound;
- `bundle`: the artifact: its manifest, reading, writing, checking;
- `registry`: finds targets, backends, quantizers, pruners, devices and engines by name;
- `progress`: how long work reports its progress;
- `cluster`: a Ray cluster on this machine that speaks to itself only;
- `graph`: the stage graph and its executor;
- `runtime`: a bundle on a device: preprocessing, backends, pipeline;
- `measure`: latency, memory, metrics and the state of the machine;
- `device`: another machine over ssh or adb;
- `datasets`: data for the compiler, the cache on disk, the data of the reference models;
- `models`: `FusionModel`, and the reference models;
- `stages`: from a torch model to stages;
- `export`: from stages to files;
- `quantize`: schemes of quantization, calibration;
- `prune`: pruning and recovery;
- `compiler`: from a recipe to bundles and a report;
- `serve`: a bundle as a service of its machine or network;
- `commands`: the verbs of the command line;
- `cli`: the command line;
- `__main__`: `python -m edgefuse`.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgefuse.bundle.spec import ModelSpec
    from edgefuse.compiler.check.checking import check
    from edgefuse.compiler.compilation import compile
    from edgefuse.compiler.exporting import export
    from edgefuse.datasets.sample import Sample, Splits
    from edgefuse.errors import (
        BackendError,
        BundleError,
        CheckError,
        DataError,
        DeviceError,
        EdgefuseError,
        EngineError,
        ExportError,
        InputError,
        MeasureError,
        MissingExtraError,
        ModelError,
        PruneError,
        QuantizeError,
        RecipeError,
    )
    from edgefuse.models.decoder import Decoder
    from edgefuse.models.fusion import FusionModel
    from edgefuse.runtime.generating import Generation
    from edgefuse.runtime.generation.config import GenerationConfig
    from edgefuse.runtime.live import Live
    from edgefuse.runtime.pipeline import Inputs, Pipeline, load
    from edgefuse.runtime.prediction import Prediction

__version__ = "0.1.0"

QUIET = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",  # Hugging Face: the TFLite converter brings it
        "DO_NOT_TRACK": "1",  # whoever keeps to donottrack.sh
    }
)
"""Environment variables that keep the libraries we import from reporting to their makers, with their values.

They are set here, where the user has not set them, because libraries read them once, when they are loaded: here is
before any import of ours, of another library's or of the user's model, and every process started from here inherits.
"""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

__all__ = [
    "BackendError",
    "BundleError",
    "CheckError",
    "DataError",
    "Decoder",
    "DeviceError",
    "EdgefuseError",
    "EngineError",
    "ExportError",
    "FusionModel",
    "Generation",
    "GenerationConfig",
    "InputError",
    "Inputs",
    "Live",
    "MeasureError",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "Pipeline",
    "Prediction",
    "PruneError",
    "QuantizeError",
    "RecipeError",
    "Sample",
    "Splits",
    "check",
    "compile",
    "export",
    "load",
]

_HOMES = {
    "Decoder": "edgefuse.models.decoder",
    "FusionModel": "edgefuse.models.fusion",
    "Generation": "edgefuse.runtime.generating",
    "GenerationConfig": "edgefuse.runtime.generation.config",
    "Inputs": "edgefuse.runtime.pipeline",
    "Live": "edgefuse.runtime.live",
    "ModelSpec": "edgefuse.bundle.spec",
    "Pipeline": "edgefuse.runtime.pipeline",
    "Prediction": "edgefuse.runtime.prediction",
    "Sample": "edgefuse.datasets.sample",
    "Splits": "edgefuse.datasets.sample",
    "check": "edgefuse.compiler.check.checking",
    "compile": "edgefuse.compiler.compilation",
    "export": "edgefuse.compiler.exporting",
    "load": "edgefuse.runtime.pipeline",
}
"""Where public names live; those that are not listed here are errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgefuse' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "edgefuse.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
