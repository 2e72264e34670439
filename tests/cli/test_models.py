"""`edgefuse models`: what the examples say of their models is true of them, and all of them are listed."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgefuse import cli as command_line
from edgefuse.bundle.spec import ModelSpec
from edgefuse.commands import models
from edgefuse.commands.models import ReferenceModel, reference_models
from edgefuse.compiler.metrics.named import metric_of
from edgefuse.errors import DataError

Cli = Callable[..., Any]
KEYS = {"name", "task", "modalities", "factory", "parameters", "data", "metric", "reference", "compiled", "measured"}


def described(model: ReferenceModel) -> tuple[nn.Module, ModelSpec]:
    """Build a model, with random weights where it has trained ones."""
    module, _, factory = model.factory.partition(":")
    try:
        made = getattr(importlib.import_module(module), factory)()
    except DataError as error:
        pytest.skip(f"not checked: what {model.name} says of itself: {error}")
    return made if isinstance(made, tuple) else (made, made.spec)


def test_every_example_lists_its_models() -> None:
    folders = {path.parent for path in models.EXAMPLES.glob("*/recipe.toml")}
    assert len(folders) >= 2
    assert {path.parent for path in models.EXAMPLES.glob(f"*/{models.FILE}")} == folders
    assert {folder.name for folder in folders} <= {model.name for model in reference_models()}


@pytest.mark.parametrize("model", reference_models(), ids=lambda model: model.name)
def test_what_an_example_says_is_true_of_its_model(model: ReferenceModel) -> None:
    module, spec = described(model)
    assert spec.name == model.name
    assert sum(parameter.numel() for parameter in module.parameters()) == model.parameters
    assert {modality.name for modality in spec.modalities} == set(model.modalities)
    assert set(model.data.synthetic) <= set(model.modalities)
    measured = [one for one in model.compiled.values() if one.speedup_over_float is not None]
    claims = {model.reference is not None, *(one.value is not None for one in measured)}
    assert claims == {model.metric is not None}
    assert model.metric is None or metric_of(spec.outputs[0], model.metric).name == model.metric
    assert {"onnx", "tflite"} <= set(model.compiled)


def test_models_are_listed_as_text_and_as_json(cli: Cli) -> None:
    listed = json.loads(cli("models", "--json").stdout)
    assert [model["name"] for model in listed] == sorted(model.name for model in reference_models())
    assert all(set(model) == KEYS for model in listed)
    assert all(set(model["data"]) == {"source", "synthetic"} for model in listed)
    text = cli("models").stdout
    assert "  digits" in text
    assert "onnx 0.990, 1.89 ×; tflite 0.990, 1.92 ×" in text
    assert "(synthetic: audio, text)" in text


def test_a_model_without_a_claim_has_none_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = json.loads((models.EXAMPLES / "digits" / models.FILE).read_text())
    silent = {target: {"value": None, "speedup_over_float": 2.0} for target in ("onnx", "tflite")}
    one |= {"metric": None, "reference": None, "compiled": silent}
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / models.FILE).write_text(json.dumps([one]))
    monkeypatch.setattr(models, "EXAMPLES", tmp_path)
    assert command_line.main(["models"]) == 0
    assert re.search(r"2,315,210\s+-\s+-\s+onnx 2.00 ×; tflite 2.00 ×\n", capsys.readouterr().out)


def test_an_installed_edgefuse_says_that_it_has_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "EXAMPLES", tmp_path)
    assert command_line.main(["models"]) == 0
    assert "not part of an installed edgefuse: clone the repository" in capsys.readouterr().out
    assert command_line.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_file_that_is_no_list_of_models_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / models.FILE).write_text('[{"name": "one", "tusk": "elephants"}]')
    monkeypatch.setattr(models, "EXAMPLES", tmp_path)
    with pytest.raises(DataError, match=r"cannot read the reference models in .*models\.json.*unknown field `tusk`"):
        reference_models()
