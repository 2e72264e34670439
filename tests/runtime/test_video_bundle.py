"""A model that watches, as a bundle: it answers as torch does, from arrays and from files, on the command line too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import edgefuse
from edgefuse.stages.found import find
from tests import video_model
from tests.float_bundle import float_bundle

CLIP: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3), dtype=np.uint8)


def torchs(clip: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the logits of torch for a clip, padded."""
    padded = np.zeros((1, video_model.FRAMES, *clip.shape[1:]), np.uint8)
    padded[0, : len(clip)] = clip
    inputs = {"clip.frames": torch.from_numpy(padded), "clip.length": torch.tensor([len(clip)], dtype=torch.int32)}
    with torch.inference_mode():
        logits = video_model.model(variable=False)(inputs, torch.ones(1, 1))
    assert isinstance(logits, torch.Tensor)
    found: npt.NDArray[Any] = logits.numpy()
    return found


@pytest.mark.parametrize(("target", "variable"), [("onnx", False), ("onnx", True), ("tflite", False), ("tflite", True)])
def test_it_answers_as_torch_does(target: str, variable: bool, tmp_path: Path) -> None:
    bundle = float_bundle(tmp_path / "watcher", find(video_model.model(variable=variable)), {}, target)
    with edgefuse.load(bundle) as pipeline:
        for clip in (CLIP, CLIP[:1], np.concatenate([CLIP, CLIP[:2]])):
            np.testing.assert_allclose(
                np.asarray(pipeline(clip=clip).outputs["logits"], np.float32), torchs(clip), atol=1e-5
            )
            assert np.array_equal(pipeline(clip=list(clip)).outputs["logits"], pipeline(clip=clip).outputs["logits"])


def edgefuse_cli(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "edgefuse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_command_line_takes_a_file(tmp_path: Path) -> None:
    clips = pytest.importorskip("tests.runtime.clips", reason="not checked: video files: PyAV is not installed")
    bundle = float_bundle(tmp_path / "watcher", find(video_model.model(variable=False)), {})
    path = tmp_path / "clip.mov"
    path.write_bytes(clips.clip(list(CLIP), rate=2))
    answer = json.loads(edgefuse_cli("run", bundle, "--clip", path, "--json"))
    np.testing.assert_allclose(answer["outputs"]["logits"], torchs(CLIP), atol=1e-5)
    shown = edgefuse_cli("inspect", bundle)
    assert "frames uint8 [1, 6, 4, 5, 3] + length" in shown
    assert "frames 6, frames_per_second 2.0, resample bilinear, fit stretch" in shown
