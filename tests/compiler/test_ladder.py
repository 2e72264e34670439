"""A recipe with `[ladder]`, from the search to a bundle with several rungs, each with its price.

It is for a processor that is not here, so that costs are counted and the choice is no matter of time.
"""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import compile
from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import Report
from edgefuse.measure import agreement
from edgefuse.runtime.ladder import Ladder, Reading, Replay, steps_of
from edgefuse.runtime.processor import processor

if processor().architecture == "aarch64":
    pytest.skip("this machine is an arm64 device: it measures", allow_module_level=True)

pytestmark = pytest.mark.slow

RECIPE = """
[model]
factory = "pair:build"

[data]
factory = "pair:data"

[compile]
device = "arm64"

[search]
max_drop = 0.02
subsets = ["image+sensor"]
max_fusion_passes = 16

[ladder]
ratio = 1.3
down_to = 0.36
max_drop = 0.5

[[prune.variants]]
stages = ["image_encoder", "sensor_encoder"]
steps = [{ method = "structured", ratio = 0.75, importance = "magnitude" }]

[[prune.variants]]
stages = ["sensor_encoder"]
steps = [{ method = "structured", ratio = 0.5, importance = "magnitude" }]

[recover]
epochs = 2
batch = 32
"""


@pytest.fixture(scope="module")
def folder(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ladder")
    shutil.copy(own_recipe.with_name("pair.py"), made)
    (made / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    compile(made / "recipe.toml", made / "out", cache=made / "cache")
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return folder / "out" / "pair-onnx.edgefuse"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    with open_bundle(bundle) as opened:
        assert all(result.ok for result in agreement.check(opened))  # of every file, whatever rung runs it
        return opened.manifest


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return parse(json.loads((folder / "out" / "report.json").read_text(encoding="utf-8")))


def test_the_rungs_are_apart_go_down_and_have_a_price(manifest: Manifest) -> None:
    steps = steps_of(manifest)
    assert len(steps) >= 3
    times = [step.time or 0.0 for step in steps]
    assert all(above >= 1.3 * below for above, below in pairwise(times))
    assert times[-1] <= 0.36 * times[0]
    assert [step.rung for step in steps[1:]] == [rung.name for rung in manifest.rungs if "reduced" in rung.name]
    for step in steps:
        (price,) = [price for price in step.price if price.subset == "image+sensor"]
        assert price.lost is not None
        assert price.now == manifest.rung(step.rung).accuracy["image+sensor"]
        assert price.lost[0] <= 1.0 - price.now <= price.lost[1]  # the labels are the model's own answers


def test_a_ladder_moves_a_pipeline_through_them(bundle: Path) -> None:
    with edgefuse.load(bundle) as pipeline:
        ladder = Ladder(pipeline.manifest, Replay([(0.0, Reading(throttled=True))]))
        current, rungs = pipeline, [pipeline.rung.name]
        for tenth in range(300):
            ladder.observe(tenth / 10, 0.01, 0.1)
            if change := ladder.decide(tenth / 10):
                current = current.at(change.rung)
                rungs.append(current.rung.name)
        assert rungs == [step.rung for step in ladder.steps]


def test_the_report_and_inspect_show_it(bundle: Path, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    (note,) = [note for note in report.notes if "ladder" in note]
    assert note.startswith("onnx, ladder: of the time of 'fast' its rungs take: reduced-1 ")
    assert "was asked for" not in note
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out.partition("ladder: what a device steps down")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in shown.splitlines()[2:5]] == ["fast", "reduced-1", "reduced-2"]
    assert " x " in shown
    page = (bundle.parent / "report.html").read_text(encoding="utf-8")
    assert "The ladder" in page
