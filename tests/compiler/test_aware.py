"""Aware candidates: asked for by stage, trained once for all schemes, the same in workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgefuse.compiler import workers as engines
from edgefuse.compiler.candidates.aware import trained_form
from edgefuse.compiler.candidates.build import Quantize
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.golden import generate
from edgefuse.compiler.candidates.target_data import Candidates, Material, TargetData
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import TUNING, open_data, prepare
from edgefuse.compiler.model.splits import TRAIN
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recovery.forms import Forms
from edgefuse.compiler.workers import Settings
from edgefuse.datasets.cache import Cache
from edgefuse.progress import silent

if TYPE_CHECKING:
    from tests.compiler.conftest import Compiled

_IDS = [f"image_encoder.static_wi8_ai8.{sign}.mse.balanced.fitted.aware" for sign in ("u8", "s8")]
_AWARE = """
[quantize]
aware = ["image_encoder"]
[schemes]
image_encoder = ["static_wi8_ai8.u8", "static_wi8_ai8.s8"]
"""


@pytest.fixture(scope="module")
def recipe(compiled: Compiled) -> Path:
    path = compiled.recipe.with_name("aware.toml")
    path.write_text(compiled.recipe.read_text(encoding="utf-8") + _AWARE, encoding="utf-8")
    return path


def subject_of(recipe: Path, cache: Path) -> Subject:
    model = take_apart(recipe, recipes.load(recipe))
    return prepare(model, open_data(model), Cache(cache), silent)


def weights(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in (cache / "aware").rglob("weights")}


def test_a_stage_is_trained_once_for_all_schemes_and_the_same_in_workers(recipe: Path, tmp_path: Path) -> None:
    told: list[str] = []
    alone, together = tmp_path / "alone", tmp_path / "together"
    with engines.in_one_thread(), engines.heard_by(lambda _done, _total, what: told.append(what)):
        subject = subject_of(recipe, alone)
        form = Forms(subject.stages).of("image_encoder")[0]
        trained_form(subject, Cache(alone), form, balanced=True)
    assert any(what.startswith("train image_encoder for int8") for what in told)

    subject, tools = subject_of(recipe, together), Toolchain.of("onnx", Cache(together))
    material = Material(subject, Forms(subject.stages), generate(subject.stages), tools.cache)
    floats = Candidates("onnx", {stage.spec.name: (tools.lower(stage),) for stage in subject.stages})
    pairs = TargetData(material, floats).pairs(form.spec)
    jobs = [("onnx", form.spec, source, scheme) for source, scheme in pairs if scheme.aware]
    settings = Settings(shared=together, jobs=2, paths=(str(recipe.parent),))
    with engines.create("local", settings) as workers:
        made = workers.map(Quantize(material, {"onnx": floats}), jobs, "quantize")
    assert [one.id for one in made if isinstance(one, Built)] == _IDS
    assert len(weights(alone)) == 1
    assert weights(alone) == weights(together)


def test_samples_to_tune_on_come_before_those_to_recover_on(recipe: Path, tmp_path: Path) -> None:
    subject = subject_of(recipe, tmp_path)
    assert set(subject.splits) == {"calibration", "validation", "test", TRAIN}
    assert not subject.recipe.prune.wanted
    form = Forms(subject.stages).of("image_encoder")[0]
    tuned = replace(subject, splits={**subject.splits, TUNING: subject.splits["validation"]})
    for one in (subject, tuned):
        trained_form(one, Cache(tmp_path), form, balanced=False)
    assert len(weights(tmp_path)) == 2
