"""What was found goes all the way: files for ONNX and TFLite, int8 among them, a bundle that answers as the module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgefuse
from tests.stages.found.models import Crossed

MODULE = """
import numpy as np
import torch
from edgefuse.datasets import Sample, Splits
from tests.stages.found.models import Crossed, crossed_spec


def build():
    torch.manual_seed(0)
    return Crossed(), crossed_spec()


def data():
    random = np.random.default_rng(0)
    model = build()[0].eval()

    def sample():
        image = random.standard_normal((1, 3, 32, 32), np.float32)
        ids = random.integers(0, 16, (1, 16), np.int32)
        mask = (np.arange(16) < random.integers(4, 17))[None].astype(np.int32)
        with torch.no_grad():
            logits = model(torch.from_numpy(image), torch.from_numpy(ids), torch.from_numpy(mask))[0]
        return Sample({"image": image, "text": {"ids": ids, "mask": mask}}, int(logits.argmax()))

    items = [sample() for _ in range(60)]
    return Splits(calibration=items[:20], validation=items[20:40], test=items[40:], digest="crossed-1")
"""
RECIPE = """
[model]
factory = "crossed_module:build"
[data]
factory = "crossed_module:data"
[compile]
targets = ["onnx", "tflite"]
[search]
max_drop = 0.5
[schemes]
image_encoder = ["float"]
text_encoder = ["float"]
fusion = ["float"]
"""


@pytest.mark.slow
def test_a_module_and_a_spec_become_bundles(tmp_path: Path) -> None:
    (tmp_path / "crossed_module.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    hurry = (sys.executable, "-m", "tests.compiler.hurry")
    command = [*hurry, "compile", "recipe.toml", "-o", "out", "--cache", "cache", "--json"]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    bundles = json.loads(result.stdout)["bundles"]
    assert len(bundles) == 2
    torch.manual_seed(0)
    model = Crossed().eval()
    random = np.random.default_rng(7)
    image = random.standard_normal((1, 3, 32, 32), np.float32)
    ids, mask = random.integers(0, 16, (1, 16), np.int32), np.ones((1, 16), np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image), torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy()
    for bundle in bundles:
        with edgefuse.load(tmp_path / bundle) as pipeline:
            found = pipeline(image=image, text={"ids": ids, "mask": mask}).outputs["logits"]
            assert [stage.name for stage in pipeline.manifest.stages] == ["image_encoder", "text_encoder", "fusion"]
        assert float(np.abs(found.astype(np.float32) - expected).max()) < 2e-4
