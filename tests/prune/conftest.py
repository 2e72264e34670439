"""Stages to prune: those of the reference model, and small ones around any module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.models.digits import build
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

WEIGHTS = Path(__file__).parents[2] / "examples" / "digits" / "digits.safetensors"


class GeneratedExamples:
    """Examples of a stage made from its spec alone."""

    def __init__(self, stage: TorchStage, count: int = 6) -> None:
        feeds = list(example_feeds(stage, count=count, fixed=True))
        self.module = stage.module
        self.inputs = [torch.cat([torch.tensor(f[port.tensor.name]) for f in feeds]) for port in stage.spec.inputs]
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        inputs = tuple(tensor[list(indices)] for tensor in self.inputs)
        with torch.no_grad():
            result = self.module(*inputs)
        return inputs, result if isinstance(result, tuple) else (result,)


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
    return GeneratedExamples


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
