"""Stages to prune: those of the reference model, and small ones around any module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.models.digits import build
from edgefuse.prune.generated import GeneratedExamples
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

WEIGHTS = Path(__file__).parents[2] / "examples" / "digits" / "digits.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


StageOf = Callable[..., TorchStage]


@pytest.fixture(scope="session")
def digits() -> Mapping[str, TorchStage]:
    """The stages of the trained reference model by name."""
    return {stage.spec.name: stage for stage in split(build(weights=WEIGHTS))}


@pytest.fixture(scope="session")
def examples_of() -> Callable[[TorchStage], GeneratedExamples]:
    return partial(GeneratedExamples, count=6)


@pytest.fixture(scope="session")
def stage_of() -> StageOf:
    """Return a stage around a module with one input, float32 of a shape or int32 ids, and one output."""

    def make(module: nn.Module, shape: tuple[int, ...], dtype: str = "float32") -> TorchStage:
        tensor = TensorSpec(name="x", dtype=dtype, shape=shape)  # type: ignore[arg-type]
        with torch.inference_mode():
            feature = module.eval()(torch.zeros(shape, dtype=getattr(torch, dtype)))
        spec = StageSpec(
            name="own_encoder",
            role="encoder",
            inputs=(StageInput(tensor=tensor, source=Source(kind="modality", owner="own", tensor="x")),),
            outputs=(StageOutput(tensor=TensorSpec(name="feature", shape=tuple(feature.shape))),),
            modality="own",
        )
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        return TorchStage(spec, module.eval())

    return make
