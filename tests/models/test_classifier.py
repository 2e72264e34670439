"""The reference model `classifier`: a plain module whose stages are found; its loss. Needs no package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from edgefuse.datasets.sample import RawInput, Sample
from edgefuse.errors import DataError
from edgefuse.models import FusionModel, classifier
from edgefuse.models.classifier.model import Classifier
from edgefuse.models.classifier.training import FocalLoss, balanced_weights, logits_by_subset
from edgefuse.models.reference.batches import Preprocess, collate
from edgefuse.stages.found import find


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return classifier.build()


def tensors(batch: int = 3) -> dict[str, Tensor]:
    """Return random inputs of `forward`, all modalities present."""
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (batch, 64, 64, 1), dtype=torch.uint8, generator=generator),
        "text": torch.randint(2, 70, (batch, 32), dtype=torch.int32, generator=generator),
        "audio": torch.rand(batch, 16_000, generator=generator) - 0.5,
        "length": torch.tensor([7, 32, 2][:batch], dtype=torch.int32),
        "present": torch.ones(batch, 3),
    }


def test_a_plain_module_is_found_to_be_a_frontend_three_encoders_and_a_fusion(model: Classifier) -> None:
    assert not isinstance(model, FusionModel)
    found = find(model)
    assert [(stage.spec.name, stage.spec.role) for stage in found.stages] == [
        ("image_frontend", "frontend"),
        ("image_encoder", "encoder"),
        ("text_encoder", "encoder"),
        ("audio_encoder", "encoder"),
        ("fusion", "fusion"),
    ]
    assert all(modality.optional for modality in found.spec.modalities)
    assert found.share is not None
    assert found.share > 0.99
    fusion = sum(p.numel() for p in (*model.join.parameters(), *model.head.parameters()))
    assert sum(p.numel() for p in found.stages[-1].module.parameters()) == fusion


@torch.inference_mode()
def test_what_is_absent_or_behind_a_text_does_not_matter(model: Classifier) -> None:
    given = tensors()
    whole = model(**given)
    assert whole.shape == (3, 10)
    padded = given["text"].clone()
    for row, length in enumerate(given["length"].tolist()):
        padded[row, length:] = 0
    torch.testing.assert_close(model(**(given | {"text": padded})), whole, rtol=0, atol=1e-5)
    for place, name in enumerate(("image", "text", "audio")):
        present = given["present"].clone()
        present[:, place] = 0.0
        one, other = (
            model(**(given | {"present": present, name: value}))
            for value in (given[name], torch.zeros_like(given[name]) + 1)
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert not torch.allclose(one, whole)


@torch.inference_mode()
def test_training_fuses_what_forward_does(model: Classifier) -> None:
    rng = np.random.default_rng(0)
    inputs: dict[str, RawInput] = {
        "image": rng.integers(0, 256, (64, 64), np.uint8),
        "text": "red tarinres",
        "audio": rng.uniform(-1, 1, 16_000).astype(np.float32),
    }
    batch = collate([Sample(inputs, 7)] * 2, Preprocess(model))
    logits = logits_by_subset(model, batch)
    assert list(logits) == ["image+text+audio", "image+text", "image+audio", "text+audio", "image", "text", "audio"]
    taken = batch.inputs
    given = (taken["image.pixels"], taken["text.ids"], taken["audio.samples"], taken["text.length"])
    for subset, present in (
        ("image+text+audio", [[1.0, 1, 1]]),
        ("image+audio", [[1.0, 0, 1]]),
        ("text", [[0.0, 1, 0]]),
    ):
        torch.testing.assert_close(logits[subset], model(*given, torch.tensor(present * 2)))


def test_focal_loss_without_focus_and_weights_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 4), torch.randint(0, 4, (50,))
    plain = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(FocalLoss(torch.ones(4), 0.0)(logits, targets), plain)
    sure = torch.eye(4)[targets] * 9
    assert FocalLoss(torch.ones(4), 2.0)(sure, targets) < 1e-3 * functional.cross_entropy(sure, targets)
    by_hand = functional.cross_entropy(logits, targets, torch.tensor([1.0, 2, 3, 4]), reduction="none").mean()
    torch.testing.assert_close(FocalLoss(torch.tensor([1.0, 2, 3, 4]), 0.0)(logits, targets), by_hand)


def test_rare_labels_weigh_more_and_samples_one_in_the_mean() -> None:
    counts = [1000, 100, 10]
    weights = balanced_weights(counts, 0.999)
    assert weights[0] < weights[1] < weights[2]
    assert float((weights * torch.tensor(counts)).sum()) / sum(counts) == pytest.approx(1.0)
    assert torch.equal(balanced_weights(counts, 0.0), torch.ones(3))
    assert balanced_weights(counts, 1 - 1e-9)[2] / balanced_weights(counts, 1 - 1e-9)[0] == pytest.approx(100, rel=1e-3)


def test_weights_that_are_missing_or_another_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the weight file of 'classifier' is missing"):
        classifier.build(tmp_path / "none.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"'other.safetensors' does not hold the weights of 'classifier'"):
        classifier.build(tmp_path / "other.safetensors")
