"""The committed recipe of the model of three modalities becomes a bundle for both targets."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgefuse
from edgefuse.compiler import compile
from edgefuse.models.sentiment import three
from tests.compiler.hurry import hurried

RECIPE = Path(__file__).parents[2] / "examples" / "sentiment" / "three.toml"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_model_of_three_modalities_compiles_for_both_targets(tmp_path: Path) -> None:
    with hurried():
        result = compile(RECIPE, tmp_path / "out", cache=tmp_path / "cache")
    assert [path.name for path in result.bundles] == [
        "sentiment_three-onnx.edgefuse", "sentiment_three-tflite.edgefuse",
    ]  # fmt: skip
    (sample,) = three.load().test[:1]
    scores: list[dict[str, float]] = []
    for path in result.bundles:
        pipeline = edgefuse.load(path)
        scores.append(pipeline(**sample.inputs).scores)
        assert pipeline(audio=sample.inputs["audio"]).label in three.LABELS
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
