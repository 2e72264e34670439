"""The committed weights of `digits` are what their record says; needs the package that carries the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.datasets import digits as data
from edgefuse.errors import DataError
from edgefuse.models import digits
from edgefuse.models.digits.encoders import AudioEncoder
from edgefuse.models.digits.training import accuracy_by_subset
from edgefuse.models.reference.batches import Preprocess, collate

FOLDER = Path(__file__).parents[2] / "examples" / "digits"


def test_record_meets_what_the_model_promises() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    test = record["test"]
    assert len(test) == 7
    best_single = max(test["image"], test["audio"], test["text"])
    assert test["image+audio+text"] >= best_single + 0.05
    curve = [point["mean_accuracy"] for point in record["curve"]]
    assert max(curve[:-3]) >= max(curve[-3:])  # trained until validation stopped improving
    assert (FOLDER / "digits.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_accuracy_on_part_of_the_test_split() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    model = digits.build(FOLDER / "digits.safetensors")
    assert record["data"]["digest"] == data.load().digest
    found = accuracy_by_subset(model, [collate(data.load().test[:200], Preprocess(model))])
    for subset, recorded in record["test"].items():
        assert found[subset] == pytest.approx(recorded, abs=0.09)


def test_trained_attention_looks_at_the_past_only() -> None:
    model = digits.build(FOLDER / "digits.safetensors")
    encoder = model.encoders["audio"]
    assert isinstance(encoder, AudioEncoder)
    clips = torch.stack([torch.from_numpy(np.asarray(sample.inputs["audio"])) for sample in data.load().test[:64]])
    with torch.inference_mode():
        frames = encoder.get_submodule("frontend")(clips)
        changed = frames.clone()
        changed[:, 30:] = frames[:, 30:].flip(0)
        before, after = (encoder.encoded(x)[:, :30] for x in (frames, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"'other.safetensors' does not hold the weights of 'digits'"):
        digits.build(tmp_path / "other.safetensors")
