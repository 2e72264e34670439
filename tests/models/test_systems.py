"""The files of the systems: float ones say what torch says, token by token, and TensorRT takes the graphs of all.

A system whose weights, recipe or data are missing is skipped, with the reason.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import edgefuse
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import TokensOutput
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe.recipe import load
from edgefuse.errors import DataError
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.models import FusionModel
from edgefuse.models.reference.batches import Preprocess
from tests.export.tensorrt_builder import needs_builder

pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[2] / "examples"
GENERATING = ("captioning", "seq2seq", "dialogue")
SAMPLES = 200


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def recipe_of(name: str) -> Path:
    """Return the recipe of a system, or skip the test."""
    recipe = EXAMPLES / name / "recipe.toml"
    for path in (recipe, recipe.parent / f"{name}.safetensors"):
        if not path.is_file():
            pytest.skip(f"not checked: the files of '{name}': there is no {path.relative_to(EXAMPLES.parent)}")
    return recipe


def opened(name: str) -> Model:
    """Return a system taken apart, with its data."""
    recipe = recipe_of(name)
    try:
        model = take_apart(recipe, load(recipe))
        assert model.data.test[0].inputs
    except DataError as error:
        pytest.skip(f"not checked: the files of '{name}': {error}")
    return model


@pytest.fixture(scope="module", params=GENERATING)
def told(request: pytest.FixtureRequest) -> tuple[str, Model, list[list[int]]]:
    """A system that makes tokens, and what torch says, greedily, of the first samples of the test split."""
    model = opened(request.param)
    module = model.module
    assert isinstance(module, FusionModel)
    prepare = Preprocess(module)
    output = model.spec.outputs[0]
    assert isinstance(output, TokensOutput)
    present = torch.ones(1, len(model.spec.modalities))
    said: list[list[int]] = []
    for sample in model.data.test[:SAMPLES]:
        with torch.inference_mode():
            logits = module({name: torch.tensor(value) for name, value in prepare(sample).items()}, present)
        said.append(list(output.sentence(torch.as_tensor(logits)[0].argmax(dim=1).tolist())))
    assert len(said) == SAMPLES
    assert len(set(map(tuple, said))) > SAMPLES // 10
    return request.param, model, said


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_float_files_say_what_torch_says(
    told: tuple[str, Model, list[list[int]]], target: str, cache: Path, tmp_path: Path
) -> None:
    name, model, expected = told
    out = tmp_path / f"{name}.edgefuse"
    edgefuse.export(recipe_of(name), target, out=out, cache=cache)
    with edgefuse.load(out) as pipeline:
        generations = (pipeline.generate(**sample.inputs) for sample in model.data.test[:SAMPLES])
        found = []
        for generation in generations:
            with generation:
                found.append([token.id for token in generation])
    equal = sum(one == other for one, other in zip(found, expected, strict=True))
    logger.info("%s, %s: %d of %d samples equal", name, target, equal, SAMPLES)
    assert equal >= 0.99 * SAMPLES


@needs_builder
@pytest.mark.parametrize("name", ["vqa", "retrieval", *GENERATING])
def test_tensorrt_takes_the_graphs(name: str, cache: Path, tmp_path: Path) -> None:
    opened(name)
    out = tmp_path / f"{name}.edgefuse"
    edgefuse.export(recipe_of(name), "tensorrt", out=out, cache=cache)
    with open_bundle(out) as bundle:
        candidates = bundle.manifest.candidates
        graphs = [Lowered(bundle.read(one.file), one.inputs, one.outputs, one.opset, one.plan) for one in candidates]
    for candidate, built in zip(candidates, builder.build(graphs, ("SM86",)), strict=True):
        logger.info("%s %s: %s bytes, %s", name, candidate.id, built.engines_bytes, built.warnings)
        assert (built.refusal, built.unexplained) == ("", ()), candidate.id
        assert built.engines_bytes["SM86"] > 0
