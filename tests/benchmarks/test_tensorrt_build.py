"""TensorRT's own builder takes the graphs of the reference models, and warns of nothing that is not explained.

`benchmarks/tensorrt_build.py` builds the complete set for three architectures; here one does for most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest

from benchmarks import tensorrt_build
from benchmarks.tensorrt_build import MODELS
from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.export.tensorrt import builder
from edgefuse.prune.generated import GeneratedExamples
from edgefuse.prune.pruner import apply_steps
from edgefuse.quantize.tensorrt.quantizer import INT8_FP16, TensorrtQuantizer
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage
from tests.export.tensorrt_builder import needs_builder

pytestmark = [pytest.mark.slow, needs_builder]

NARROW = (PruningStep(method="structured", ratio=0.5, importance="magnitude"),)
SHORT = (
    PruningStep(method="depth", ratio=0.34),
    PruningStep(method="hidden", ratio=0.35, importance="magnitude"),
)


@pytest.fixture(
    scope="module", params=[MODELS[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MODELS[1:])]
)
def model(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, TorchStage]]:
    """A reference model by name, with its stages; `assistant` with random weights, which need no package."""
    made = tensorrt_build.model_of(request.param, pretrained=False)
    return request.param, {stage.spec.name: stage for stage in split(made)}


def pruned(stage: TorchStage, steps: tuple[PruningStep, ...]) -> TorchStage:
    module = apply_steps(stage, steps, GeneratedExamples(stage, count=4))
    return TorchStage(stage.spec, module, Pruning(steps=steps))


def forms(name: str, stages: Mapping[str, TorchStage]) -> Iterator[TorchStage]:
    yield from stages.values()
    if name == "digits":
        yield pruned(stages["text_encoder"], NARROW)
        yield pruned(stages["image_encoder"], (tensorrt_build.SPARSE,))
    else:
        yield pruned(stages["text_encoder"], SHORT)


def refused(found: Iterable[tuple[tensorrt_build.Named, builder.Building]]) -> list[tuple[str, str, str]]:
    """Return what was refused or warned of: stage, scheme and the words."""
    return [
        (graph.stage, graph.scheme, result.refusal or str(result.unexplained))
        for graph, result in found
        if result.refusal or result.unexplained
    ]


def test_every_graph_is_built(model: tuple[str, Mapping[str, TorchStage]]) -> None:
    name, stages = model
    quantizer = TensorrtQuantizer()
    graphs = [
        graph
        for stage in forms(name, stages)
        for graph in tensorrt_build.graphs_of(name, stage, quantizer.schemes(stage.spec))
    ]
    offered = sum(1 + len(quantizer.schemes(stage.spec)) for stage in stages.values())
    assert len(graphs) > offered
    assert refused(tensorrt_build.built(graphs, ("SM86",))) == []
    few = [graph for graph in graphs if graph.stage == "fusion" and graph.scheme in ("float", INT8_FP16.id)]
    found = list(tensorrt_build.built(few))
    assert refused(found) == []
    assert all(set(result.engines_bytes) == {"SM86", "SM89", "SM120"} for _, result in found)


def test_the_table_counts_what_was_refused() -> None:
    graph = tensorrt_build.Named("digits", "fusion", "unpruned", "fp16", None, "no")
    lines = tensorrt_build.table(list(tensorrt_build.built([graph]))).splitlines()
    assert lines[2] == "| digits | unpruned | fp16 | 1 | 1 | 0 | 0 | 0.0 to 0.0 | 0.0 |"
