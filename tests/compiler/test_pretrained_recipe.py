"""The README's recipe of a folder: compiled, and run on files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from edgefuse.cli import main
from edgefuse.models.pretrained.folder import offline
from tests.compiler.hurry import hurried
from tests.models.pretrained_folders import made

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PAIRS = """
import numpy as np

from edgefuse.datasets import Sample, Splits


def splits():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (130, 40, 52, 3), np.uint8)
    raw = [{"image": picture, "text": f"photo {number} of a fox"} for number, picture in enumerate(pictures)]
    items = [Sample(one, random.normal(size=16)) for one in raw]
    return Splits(calibration=items[:10], validation=items[10:30], test=items[30:], digest="pairs-1")
"""
TEXT = "the quick brown fox"


@pytest.mark.slow
def test_the_readmes_folder_becomes_a_bundle_that_answers_like_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe,) = re.findall(r"^```toml\n(\[model\]\npretrained.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "clip.toml").write_text(recipe + '[schemes]\nimage_encoder = ["float"]\ntext_encoder = ["float"]\n')
    (tmp_path / "my_pairs.py").write_text(PAIRS)
    folder = made("clip", tmp_path / "my-clip")
    monkeypatch.chdir(tmp_path)
    with hurried():
        assert main(["compile", "clip.toml", "-o", "out", "--cache", "cache"]) == 0
    picture = np.asarray(Image.effect_noise((61, 44), 60).convert("RGB"))
    Image.fromarray(picture).save("a.png")
    capsys.readouterr()
    assert main(["run", "out/my-clip-onnx.edgefuse", "--image", "a.png", "--text", TEXT, "--json"]) == 0
    answered = json.loads(capsys.readouterr().out)["outputs"]
    with offline("no model"), torch.inference_mode():
        model = transformers.CLIPModel.from_pretrained(folder)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
        seen = processor(picture, return_tensors="pt")
        read = transformers.AutoTokenizer.from_pretrained(folder)([TEXT], return_tensors="pt")
        wanted = model(**seen, **read)
    for name in ("image_embeds", "text_embeds"):
        np.testing.assert_allclose(np.array(answered[name]), wanted[name], rtol=0, atol=2e-4)
    assert main(["run", "out/my-clip-onnx.edgefuse", "--image", "a.png", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["present"] == ["image"]
    np.testing.assert_allclose(np.array(alone["outputs"]["image_embeds"]), wanted["image_embeds"], rtol=0, atol=2e-4)
