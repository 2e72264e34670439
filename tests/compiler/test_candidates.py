"""Which schemes are tried on a stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import DType, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.compiler import compile
from edgefuse.compiler.candidates.built import FLOAT, Built, candidate_id
from edgefuse.compiler.candidates.schemes import calibrated, wanted_schemes
from edgefuse.compiler.candidates.toolchain import Calibration, Quantizable, Toolchain
from edgefuse.compiler.report.encoding import parse
from edgefuse.datasets.cache import Cache
from edgefuse.measure.agreement import agreement
from edgefuse.quantize.onnx.quantizer import OnnxQuantizer
from edgefuse.quantize.schemes import INT4, INT4_TABLE, closer
from edgefuse.stages.stage import Feeds, TorchStage

if TYPE_CHECKING:
    from tests.compiler.conftest import Compiled

STATIC = Scheme(name="static_wi8_ai8", activation="u8")


def encoder(dtype: DType) -> StageSpec:
    tensor = TensorSpec(name="x", dtype=dtype, shape=(1, 8))
    port = StageInput(tensor=tensor, source=Source(kind="modality", owner="own", tensor="x"))
    return StageSpec(name="own_encoder", role="encoder", inputs=(port,), outputs=(), modality="own")


def test_what_is_found_by_calibration_samples() -> None:
    assert [calibrated(Scheme(name=name)) for name in ("float", "fp16", "dynamic_wi8_af32", "dynamic_wi8_ai8")] == [
        False
    ] * 4
    assert [calibrated(scheme) for scheme in (STATIC, Scheme(name="nncf_wi8_ai8"))] == [True] * 2
    assert calibrated(Scheme(name="dynamic_wi8_af32", balanced=True))


def test_for_size_weights_in_four_bits_are_tried_and_tables_alone_where_ids_come_in() -> None:
    quantizer = OnnxQuantizer()
    offered = quantizer.schemes(encoder("int32"))
    assert wanted_schemes(quantizer, encoder("int32"), "size", {}) == (*offered, INT4_TABLE, INT4)
    assert wanted_schemes(quantizer, encoder("float32"), "size", {}) == (*offered, INT4)
    assert wanted_schemes(quantizer, encoder("int32"), "latency", {}) == offered


def test_a_recipe_names_a_table_in_four_bits() -> None:
    named = {"own_encoder": ("dynamic_wi8_af32.table4",)}
    assert wanted_schemes(OnnxQuantizer(), encoder("int32"), "latency", named) == (INT4_TABLE,)


class Residual(nn.Module):
    """A sum of two layers that a third one takes; some of its channels may be a hundred times as wide as the others.

    What a `saturated` one gives is always 0 or 1, so that there is nothing to balance.
    """

    def __init__(self, wide: float = 1.0, saturated: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.saturated = saturated
        for layer in (self.first, self.second):
            layer.weight.data[:4] *= wide
        self.last.weight.data[:, :4] /= wide

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x) + self.second(x)
        y: Tensor = self.last(torch.tanh(stream) if self.saturated else stream)
        return y


def feeds() -> Iterator[Feeds]:
    values = np.random.default_rng(0)
    return ({"x": values.standard_normal((1, 64), np.float32)} for _ in range(24))


def tried(module: nn.Module, goal_db: float, cache: Path) -> tuple[Scheme, ...]:
    """Return what else is tried on a module where plain static int8 misses a goal."""
    tensor = TensorSpec(name="x", shape=(1, 64))
    port = StageInput(tensor=tensor, source=Source(kind="modality", owner="own", tensor="x"))
    output = StageOutput(tensor=TensorSpec(name="y", shape=(1, 64)))
    stage = TorchStage(StageSpec(name="own", role="encoder", inputs=(port,), outputs=(output,)), module.eval())
    tools = Toolchain.of("onnx", Cache(cache))
    source = tools.lower(stage)

    def kept_db(built: Built) -> float:
        outputs = [session.run for session in (source.open(tools.backend, 1), built.open(tools.backend, 1))]
        return agreement(((outputs[0](feed), outputs[1](feed)) for feed in feeds()), Tolerance()).snr_db

    return tools.closer(Quantizable(stage, source, Calibration(feeds, "feeds")), STATIC, [goal_db], kept_db)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_static_scheme_that_reaches_its_goal_is_left_alone(cache: Path) -> None:
    assert tried(Residual(wide=30.0), 10.0, cache) == ()


def test_a_goal_that_balancing_reaches_needs_no_layer_in_float(cache: Path) -> None:
    _, balanced = closer(STATIC)
    assert tried(Residual(wide=30.0), 35.0, cache) == (balanced,)


def test_what_never_reaches_its_goal_is_tried_in_the_closest_form_alone(cache: Path) -> None:
    _, balanced = closer(STATIC)
    assert tried(Residual(wide=30.0), 500.0, cache) == (balanced,)


def test_layers_stay_float_on_top_of_fitted_weights_where_there_is_nothing_to_balance(cache: Path) -> None:
    fitted, _ = closer(STATIC)
    whole, partly = tried(Residual(saturated=True), 45.0, cache)
    assert whole == fitted
    assert replace(partly, exclude=()) == fitted
    assert len(partly.exclude) in (1, 2)


def test_a_compile_measures_what_comes_closer_to_float(compiled: Compiled, tmp_path: Path) -> None:
    recipe = shutil.copytree(compiled.recipe.parent, tmp_path / "own") / "recipe.toml"
    one = '[quantize]\nmin_snr_db = 100\n[schemes]\nfusion = ["float"]\nsensor_encoder = ["float"]\n'
    recipe.write_text(recipe.read_text() + one + f'image_encoder = ["{STATIC.id}"]\n')
    cache = shutil.copytree(compiled.cache, tmp_path / "cache")
    report = parse(json.loads(compile(recipe, tmp_path / "out", cache=cache).report_json.read_text()))
    found = {row.candidate for row in report.golden if row.candidate.startswith("image_encoder")}
    plain = {candidate_id("image_encoder", None, scheme) for scheme in (FLOAT, STATIC)}
    assert found > plain
    assert found - plain <= {candidate_id("image_encoder", None, scheme) for scheme in closer(STATIC)}
