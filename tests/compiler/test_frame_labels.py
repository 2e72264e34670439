"""A model of frame labels (CTC), from torch to the text that a bundle reads, at once and in chunks."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgefuse
from edgefuse.bundle.spec import ModelSpec, TokensOutput, tensor
from edgefuse.runtime.generation.ctc import BestPath, PrefixBeamSearch

LETTERS = ("", "a", "b", "c", "d")
FRAMES = 24
OUTPUT = TokensOutput(steps=FRAMES // 2, labels=LETTERS, blank=0)


class Hearing(nn.Module):
    """A 1-D convolution over time that halves it, and a logit per letter; seeded."""

    spec = ModelSpec(name="hearing", modalities=(tensor("sound", shape=(1, FRAMES, 6)),), outputs=(OUTPUT,))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv1d(6, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv1d(16, len(LETTERS), 1))

    def forward(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.body(values.transpose(1, 2))).transpose(1, 2) * 4


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_bundle_of_frame_labels_reads_text_by_best_path_and_by_beams(target: str, tmp_path: Path) -> None:
    model = Hearing().eval()
    out = tmp_path / "hearing.edgefuse"
    edgefuse.export(model, model.spec, target, out=out, cache=tmp_path / "cache")
    texts, differ = set(), 0
    with edgefuse.load(out) as pipeline:
        for seed in range(12):
            sound = np.random.default_rng(seed).standard_normal((1, FRAMES, 6), np.float32)
            prediction = pipeline(sound=sound)
            with torch.inference_mode():
                logits = model(torch.from_numpy(sound))[0].numpy()
            whole, chunked, path = (PrefixBeamSearch(OUTPUT, 4), PrefixBeamSearch(OUTPUT, 4), BestPath(OUTPUT))
            whole.feed(logits)
            for chunk in np.array_split(prediction.outputs["tokens"][0], 5):
                chunked.feed(chunk)
                path.feed(chunk)
            assert prediction.transcript(num_beams=4) == chunked.text == whole.text
            assert prediction.text == path.text == OUTPUT.text(logits.argmax(axis=1).tolist())
            texts.add(prediction.text)
            differ += prediction.text != prediction.transcript(num_beams=4)
    assert len(texts) > 8
    assert differ
