"""Models as Hugging Face ships them (which the TFLite converter brings): a factory and a spec, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, VisualBertConfig, VisualBertModel

from edgefuse.bundle.spec import EmbeddingOutput, tensor
from edgefuse.stages.found import find
from tests.stages.found.models import described, several

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


def small_clip(*_: object) -> CLIPModel:
    """Return CLIP with its own sizes of inputs and outputs, and little between them."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text, vision = size | {"vocab_size": 200, "eos_token_id": 199}, size | {"patch_size": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    model.train(False)
    return model


def test_the_readmes_lines_are_all_that_clip_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = re.findall(r"^```python\n(from transformers.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 12
    monkeypatch.setattr(CLIPModel, "from_pretrained", small_clip)
    scope: dict[str, Any] = {}
    exec(lines, scope)
    model, spec = scope["build"]()
    made = find(model, spec)
    assert [stage.spec.name for stage in made.stages] == ["image_encoder", "text_encoder"]
    assert made.stages[0].module.get_submodule("vision_model") is model.vision_model
    assert made.stages[1].module.get_submodule("text_projection") is model.text_projection
    assert made.share is not None
    assert made.share > 0.95


def test_visual_bert_spends_nearly_all_on_both() -> None:
    torch.manual_seed(0)
    config = VisualBertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        visual_embedding_dim=24, max_position_embeddings=16,
    )  # fmt: skip
    picture = tensor("visual_embeds", shape=(1, 9, 24))
    words = several("text", ("input_ids", "int32", (1, 16)), ("attention_mask", "int32", (1, 16)))
    spec = described(picture, words, outputs=(EmbeddingOutput(name="pooler_output", size=32),), name="visual")
    made = find(VisualBertModel(config), spec)
    assert [stage.spec.name for stage in made.stages] == ["model"]
    assert "of the multiply-accumulates come before fusion" in made.notes[-1]
