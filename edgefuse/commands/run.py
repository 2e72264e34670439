"""`edgefuse run`: predict from files."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import ClassOutput
from edgefuse.commands import console, modalities, searching
from edgefuse.commands.quieting import quiet_libraries
from edgefuse.errors import InputError, shown
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.pipeline import Inputs, Pipeline, load
from edgefuse.runtime.prediction import VIEWS, Contributions, Prediction

TAKES_EXTRA = True
_SHOWN = 5
_MOST_SHOWN = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that do not depend on the bundle."""
    parser.epilog = (
        "One more option per modality of the bundle, named after it: --image a.png --audio b.wav --video c.mp4 "
        "--text 'seven'. "
        "An array comes from a .npy file. A modality that is left out is absent. 'edgefuse inspect' names them. "
        "With --index, the answer is what the index has nearest to them."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--rung", help="the operating point (default: the bundle's)")
    parser.add_argument("--threads", type=int, default=1, help="threads for inference (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument(
        "--generate",
        metavar="KEY=VALUE",
        action="append",
        help="how tokens are chosen, where the model makes them; may be repeated: "
        "num_beams=4, or do_sample=true --generate top_p=0.9 --generate seed=1 (default: greedily)",
    )
    parser.add_argument("--explain", action="store_true", help="say what each optional modality added to the answer")
    searching.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Predict once and show label, scores and latency; or search an index, and show what is near."""
    with open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        raw = modalities.parse(bundle.manifest.model, extra, arguments.parser)
        raw |= searching.query(arguments, bundle.manifest.model, raw)
        if not raw:
            known = [modalities.option(m, arguments.parser) for m in bundle.manifest.model.modalities]
            raise InputError("no input is given", expected=" or ".join(known), fix="see 'edgefuse run --help'")
        if arguments.explain and (arguments.generate or arguments.index is not None):
            raise InputError("--explain tells what was added to a prediction", got="a search, or tokens one by one")
        pipeline = load(bundle, rung=arguments.rung, threads=arguments.threads, backend=arguments.backend, cache=False)
        with pipeline:
            if arguments.index is not None:
                return searching.search(arguments, pipeline, raw)
            if arguments.generate:
                return _generate(pipeline, raw, _config(arguments.generate), as_json=arguments.json)
            started = time.perf_counter()
            with quiet_libraries():
                inputs = pipeline.preprocess(**raw)
            ready = time.perf_counter()
            outputs = pipeline.infer(inputs)
            ended = time.perf_counter()
            prediction = Prediction(outputs=outputs, spec=bundle.manifest.model.outputs)
            if arguments.explain:
                prediction = pipeline.explained(inputs)
    if not prediction.finite:
        raise _overflow(inputs)
    latency = {"preprocess_ms": 1e3 * (ready - started), "inference_ms": 1e3 * (ended - ready)}
    if arguments.json:
        opened = {"rung": pipeline.rung.name, "backend": arguments.backend or _backends(pipeline)}
        answer = opened | {"present": inputs.present} | prediction.views() | latency
        if prediction.contributions is not None:
            answer["contributions"] = prediction.contributions
        console.write_json(answer | {"outputs": {name: value.tolist() for name, value in outputs.items()}})
    else:
        _print(prediction, inputs.present, pipeline.rung.name, latency)
    return 0


def _config(pairs: Sequence[str]) -> GenerationConfig:
    """Read how tokens are chosen from `key=value` as the shell gives them."""
    known = GenerationConfig.__dataclass_fields__
    given: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in known or not text:
            expected = f"KEY=VALUE of {', '.join(known)}"
            raise InputError("--generate takes no such setting", got=repr(shown(pair, _MOST_SHOWN)), expected=expected)
        if key in given:
            raise InputError(f"--generate takes {key} once", got=shown(f"{given[key]!r}, {text!r}", _MOST_SHOWN))
        try:
            given[key] = json.loads(text)
        except (ValueError, RecursionError):
            given[key] = text
    return GenerationConfig(**given)


def _generate(pipeline: Pipeline, raw: Mapping[str, object], config: GenerationConfig, *, as_json: bool) -> int:
    """Make tokens, and show them and how long they took."""
    started = time.perf_counter()
    with quiet_libraries(), pipeline.generate(config, **raw) as generation:
        times = [time.perf_counter() for _ in generation]
    first_ms, whole_ms = 1e3 * (times[0] - started), 1e3 * (times[-1] - started)
    if as_json:
        tokens = [token._asdict() for token in generation.tokens]
        opened = {"rung": pipeline.rung.name, "backend": _backends(pipeline), "present": list(raw)}
        console.write_json(
            opened | {"text": generation.text, "tokens": tokens, "first_token_ms": first_ms, "all_ms": whole_ms}
        )
    else:
        console.write(generation.text)
        spent = f"first {console.milliseconds(first_ms)} ms, all {console.milliseconds(whole_ms)} ms"
        console.write(f"from {' + '.join(raw)}, rung '{pipeline.rung.name}'; {len(times)} tokens: {spent}")
    return 0


def _backends(pipeline: Pipeline) -> str:
    """Return the runtimes that a pipeline's files run in, joined by `+`."""
    chosen = map(pipeline.manifest.candidate, pipeline.rung.candidates.values())
    return "+".join(sorted({candidate.backend for candidate in chosen}))


def _overflow(inputs: Inputs) -> InputError:
    """Return the error for an answer that is no numbers, with the inputs that may be the reason."""
    largest = {name: float(np.abs(v).max()) for name, v in inputs.values.items() if v.dtype.kind == "f"}
    got = ", ".join(f"up to {value:g} in '{name}'" for name, value in largest.items() if value > 1)
    return InputError(
        "the model's answer is not finite: it overflows, or was never right",
        got=got or "inputs of an ordinary size",
        expected="numbers",
        fix="scale the inputs as in training, or ask 'edgefuse verify' whether the bundle is right",
    )


def _print(prediction: Prediction, present: tuple[str, ...], rung: str, latency: dict[str, float]) -> None:
    answer = prediction.views()
    if "label" in answer:
        console.write(f"{prediction.label}  {console.percent(prediction.score)} %")
        console.write(console.table(("label", "%"), [(n, console.percent(p)) for n, p in prediction.top(_SHOWN)]))
    if "labels" in answer:
        rows = [(name, console.percent(chance)) for name, chance in prediction.labels.items()]
        console.write(console.table(("label", "%"), rows) if rows else "no label")
    if "values" in answer:
        console.write(console.pairs([(name, f"{value:.6g}") for name, value in prediction.values.items()]))
    if "text" in answer:
        console.write(prediction.text)
    for output in prediction.spec:
        if output.name in prediction.outputs and not isinstance(output, (ClassOutput, *VIEWS)):
            console.write(f"{output.name}: {prediction.outputs[output.name].ravel().tolist()}")
    if prediction.contributions is not None:
        _print_contributions(prediction.contributions)
    spent = ", ".join(f"{name.removesuffix('_ms')} {console.milliseconds(ms)} ms" for name, ms in latency.items())
    console.write(f"from {' + '.join(present)}, rung '{rung}'; first call: {spent}")


def _print_contributions(found: Contributions) -> None:
    """Show a line for each modality, and one for all of them; what is not told of an output is left out."""
    rows: list[tuple[str, str, str]] = []
    for name, added in [*found.each.items(), ("together", found.together)]:
        for output, probability in added.probability.items():
            odds = f", log-odds {added.log_odds[output]:+.3f}" if output in added.log_odds else ""
            rows.append((name, output, f"{100 * probability:+.1f} points{odds}"))
        for output, values in added.values.items():
            rows.append((name, output, ", ".join(f"{label} {value:+.4g}" for label, value in values.items())))
        rows += [(name, output, f"distance {distance:.4g}") for output, distance in added.distance.items()]
    console.write(console.table(("modality", "output", "it added"), rows) if rows else "nothing can be left out")
