"""Does TensorRT take every graph? `python -m benchmarks.tensorrt_build [--out FILE.json] [--models NAME…]`.

Every stage of the reference models, unpruned and pruned as their recipes say (and with 2:4 zeros), in float and by
every scheme that the target offers or a recipe may name, is parsed and built by TensorRT for RTX for SM 8.6, 8.9 and
12.0. No GPU is needed, and none is used. Weights are those that a package or the repository brings, otherwise random;
ranges come from generated feeds: neither decides whether a graph builds. Schemes that differ in numbers alone
(calibrators, balanced and fitted weights) count once.

Printed is a table in Markdown: per model, pruning and scheme the graphs, how many of them were refused, the warnings
that nobody has explained and those that somebody has, the sizes of the engines and the time. Ends with 1 if a graph was
refused, or warned of.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.recipe import recipe
from edgefuse.errors import ExportError, QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.export.tensorrt.target import TensorrtTarget
from edgefuse.models import assistant, digits
from edgefuse.models.assistant.model import assemble
from edgefuse.prune.generated import GeneratedExamples
from edgefuse.prune.pruner import apply_steps
from edgefuse.quantize.tensorrt.quantizer import TensorrtQuantizer
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = ("digits", "assistant")
SPARSE = PruningStep(method="semi_structured", ratio=0.5)
_TARGET, _QUANTIZER = TensorrtTarget(), TensorrtQuantizer()


@dataclass(frozen=True)
class Named:
    """A graph with what it is made of; `refused` says why there is none."""

    model: str
    stage: str
    pruning: str
    scheme: str
    lowered: Lowered | None
    refused: str = ""


def model_of(name: str, *, pretrained: bool = True) -> nn.Module:
    """Return a reference model; `assistant` has random weights unless `pretrained`, which may fetch packages."""
    torch.manual_seed(0)
    if name == "digits":
        return digits.build(weights=EXAMPLES / "digits" / "digits.safetensors").eval()
    made = assistant.build(weights=EXAMPLES / "assistant" / "assistant.safetensors") if pretrained else assemble()
    return made.eval()


def prunings(name: str, *, sparse: bool = True) -> Iterator[tuple[tuple[str, ...], tuple[PruningStep, ...]]]:
    """Yield what a model's recipe prunes, and 2:4 zeros: the stages and the steps."""
    for variant in recipe.load(EXAMPLES / name / "pruned.toml").prune.variants:
        yield variant.stages, variant.steps
    if sparse:
        yield ("image_encoder", "text_encoder"), (SPARSE,)


def forms(name: str, model: nn.Module) -> Iterator[TorchStage]:
    """Yield every stage of a model, unpruned and pruned."""
    stages = {stage.spec.name: stage for stage in split(model)}
    yield from stages.values()
    for chosen, steps in prunings(name):
        for stage in map(stages.__getitem__, chosen):
            module = apply_steps(stage, steps, GeneratedExamples(stage, count=4))
            yield TorchStage(stage.spec, module, Pruning(steps=steps))


def schemes_of(spec: StageSpec) -> tuple[Scheme, ...]:
    """Return what is offered for a stage, and the rest of what a recipe may name, once for each form of graph."""
    offered = _QUANTIZER.schemes(spec)
    plain = (s for s in _QUANTIZER.known() if s.calibrator == "minmax" and not s.balanced and not s.fitted)
    return tuple(dict.fromkeys((*offered, *plain))) if offered else ()


def graphs_of(name: str, stage: TorchStage, schemes: Iterable[Scheme]) -> Iterator[Named]:
    """Yield the float graph of a stage and one for each scheme; what finds nothing to do yields nothing."""
    pruning = "+".join(step.id for step in stage.pruning.steps) if stage.pruning else "unpruned"
    with patch.object(builder, "refusal", return_value=""):  # all graphs are built together
        try:
            lowered = _TARGET.lower(stage)
        except ExportError as error:
            yield Named(name, stage.spec.name, pruning, "float", None, str(error))
            return
        yield Named(name, stage.spec.name, pruning, "float", lowered)
        for scheme in schemes:
            try:
                made = _QUANTIZER.apply(lowered, scheme, lambda: example_feeds(stage, count=2, seed=5))
            except QuantizeError as error:
                if "finds nothing to quantize" not in str(error):
                    yield Named(name, stage.spec.name, pruning, scheme.id, None, str(error))
            else:
                yield Named(name, stage.spec.name, pruning, scheme.id, made)


def built(
    graphs: Sequence[Named], architectures: tuple[str, ...] = builder.ARCHITECTURES
) -> Iterator[tuple[Named, builder.Building]]:
    """Yield what became of every graph."""
    results = iter(builder.build([graph.lowered for graph in graphs if graph.lowered is not None], architectures))
    for graph in graphs:
        yield graph, builder.Building({}, (), graph.refused, 0.0) if graph.lowered is None else next(results)


def table(rows: Sequence[tuple[Named, builder.Building]]) -> str:
    """Return the summary in Markdown."""
    lines = [
        "| model | pruning | scheme | graphs | refused | unexplained | explained | engines, MB | seconds for all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[builder.Building]] = {}
    for graph, result in rows:
        groups.setdefault((graph.model, graph.pruning, graph.scheme), []).append(result)
    for key, results in groups.items():
        refused = sum(bool(result.refusal) for result in results)
        unexplained = sum(len(result.unexplained) for result in results)
        explained = sum(len(result.warnings) - len(result.unexplained) for result in results)
        sizes = [size / 1e6 for result in results for size in result.engines_bytes.values()] or [0.0]
        span = f"{min(sizes):.1f} to {max(sizes):.1f}"
        seconds = sum(result.seconds for result in results)
        cells = (*key, len(results), refused, unexplained, explained, span, f"{seconds:.1f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--random", action="store_true", help="random weights for `assistant`: nothing is fetched")
    parser.add_argument("--out", type=Path, help="a JSON file of everything")
    arguments = parser.parse_args()
    if not builder.installed():
        print("TensorRT for RTX is not installed. Fix: pip install 'edgefuse[tensorrt-build]'.", file=sys.stderr)
        return 2
    rows: list[tuple[Named, builder.Building]] = []
    start = time.monotonic()
    for name in arguments.models:
        for stage in forms(name, model_of(name, pretrained=not arguments.random)):
            found = list(built(list(graphs_of(name, stage, schemes_of(stage.spec)))))
            for graph, result in found:
                state = result.refusal or "; ".join(result.unexplained) or "built"
                print(f"{name} {graph.stage} {graph.pruning} {graph.scheme}: {state}", file=sys.stderr, flush=True)
            rows.extend(found)
    print(table(rows))
    count = sum(len(result.engines_bytes) for _, result in rows)
    print(f"\n{len(rows)} graphs, {count} engines, {time.monotonic() - start:.0f} s, {builder.versions()}")
    if arguments.out:
        described = [
            {"model": g.model, "stage": g.stage, "pruning": g.pruning, "scheme": g.scheme, **asdict(r)} for g, r in rows
        ]
        arguments.out.write_text(json.dumps({"tools": _QUANTIZER.versions(), "graphs": described}, indent=1) + "\n")
    return int(any(result.refusal or result.unexplained for _, result in rows))


if __name__ == "__main__":
    sys.exit(main())
