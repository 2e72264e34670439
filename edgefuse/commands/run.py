"""`edgefuse run`: predict from files."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ClassOutput, ValuesOutput
from edgefuse.commands import console, modalities
from edgefuse.errors import InputError
from edgefuse.runtime.pipeline import load
from edgefuse.runtime.prediction import Prediction

TAKES_EXTRA = True
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that do not depend on the bundle."""
    parser.epilog = (
        "One more option per modality of the bundle, named after it: --image a.png --audio b.wav --text 'seven'. "
        "An array comes from a .npy file. A modality that is left out is absent. 'edgefuse inspect' names them."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--rung", help="the operating point (default: the bundle's)")
    parser.add_argument("--threads", type=int, default=1, help="threads for inference (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Predict once and show label, scores and latency."""
    with open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        raw = modalities.parse(bundle.manifest.model, extra, arguments.parser)
        if not raw:
            known = [modalities.option(m, arguments.parser) for m in bundle.manifest.model.modalities]
            raise InputError("no input is given", expected=" or ".join(known), fix="see 'edgefuse run --help'")
        pipeline = load(bundle, rung=arguments.rung, threads=arguments.threads, backend=arguments.backend, cache=False)
        with pipeline:
            started = time.perf_counter()
            inputs = pipeline.preprocess(**raw)
            ready = time.perf_counter()
            outputs = pipeline.infer(inputs)
            ended = time.perf_counter()
    prediction = Prediction(outputs=outputs, spec=bundle.manifest.model.outputs)
    latency = {"preprocess_ms": 1e3 * (ready - started), "inference_ms": 1e3 * (ended - ready)}
    if arguments.json:
        answer = {"rung": pipeline.rung.name, "present": inputs.present} | _answer(prediction) | latency
        console.write_json(answer | {"outputs": {name: value.tolist() for name, value in outputs.items()}})
    else:
        _print(prediction, inputs.present, pipeline.rung.name, latency)
    return 0


def _answer(prediction: Prediction) -> dict[str, object]:
    """Return the typed views that this model's outputs have."""
    answer: dict[str, object] = {}
    if any(isinstance(output, ClassOutput) for output in prediction.spec):
        answer |= {"label": prediction.label, "score": prediction.score, "scores": prediction.scores}
    if any(isinstance(output, ValuesOutput) for output in prediction.spec):
        answer["values"] = prediction.values
    return answer


def _print(prediction: Prediction, present: tuple[str, ...], rung: str, latency: dict[str, float]) -> None:
    answer = _answer(prediction)
    if "label" in answer:
        console.write(f"{prediction.label}  {console.percent(prediction.score)} %")
        console.write(console.table(("label", "%"), [(n, console.percent(p)) for n, p in prediction.top(_SHOWN)]))
    if "values" in answer:
        console.write(console.pairs([(name, f"{value:.6g}") for name, value in prediction.values.items()]))
    for output in prediction.spec:
        if output.name in prediction.outputs and not isinstance(output, ClassOutput | ValuesOutput):
            console.write(f"{output.name}: {prediction.outputs[output.name].ravel().tolist()}")
    spent = ", ".join(f"{name.removesuffix('_ms')} {console.milliseconds(ms)} ms" for name, ms in latency.items())
    console.write(f"from {' + '.join(present)}, rung '{rung}'; first call: {spent}")
