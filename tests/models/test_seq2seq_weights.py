"""The committed weights of `seq2seq` are what their record says; needs the package that carries the digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgefuse
from edgefuse.datasets import sequence
from edgefuse.datasets.digits import images
from edgefuse.datasets.sequence.words import LABELS
from edgefuse.errors import DataError
from edgefuse.models import seq2seq
from edgefuse.models.reference.batches import Preprocess
from edgefuse.models.seq2seq.training import answered, encoded

FOLDER = Path(__file__).parents[2] / "examples" / "seq2seq"
RECORD = json.loads((FOLDER / "training.json").read_text())


@pytest.fixture(scope="module")
def items() -> sequence.SequenceItems:
    try:
        images.pictures()
    except DataError as error:
        pytest.skip(f"not checked: the weights of 'seq2seq': {error}")
    return sequence.items("test")


def test_record_meets_what_the_model_promises() -> None:
    model, blind, deaf = (RECORD[name]["test"] for name in ("model", "without_pictures", "without_words"))
    assert model["token_accuracy"] >= 0.93
    for baseline in (blind, deaf):
        assert model["token_accuracy"] >= baseline["token_accuracy"] + 0.3
        assert model["bleu"] >= baseline["bleu"] + 0.3
    assert (FOLDER / "seq2seq.safetensors").stat().st_size <= 10_000_000


def test_weights_reach_the_recorded_accuracy_on_part_of_the_test_split(items: sequence.SequenceItems) -> None:
    assert RECORD["data"]["digest"] == sequence.load().digest
    model = seq2seq.build(FOLDER / "seq2seq.safetensors")
    part = sequence.items("test", count=RECORD["data"]["slice"])
    found = answered(model, encoded(model, part, Preprocess(model)))
    assert found.accuracy == pytest.approx(RECORD["model"]["first_of_test"]["token_accuracy"], abs=0.02)


@pytest.mark.parametrize("target", ["onnx", pytest.param("tflite", marks=pytest.mark.exhaustive)])
def test_a_bundle_says_what_torch_says(items: sequence.SequenceItems, target: str, tmp_path: Path) -> None:
    model = seq2seq.build(FOLDER / "seq2seq.safetensors")
    prepare = Preprocess(model)
    out = tmp_path / "seq2seq.edgefuse"
    edgefuse.export(model, model.spec, target, out=out, cache=tmp_path / "cache")
    with edgefuse.load(out) as pipeline:
        for index in range(20):
            tensors = {name: torch.from_numpy(value) for name, value in prepare(items[index]).items()}
            with torch.inference_mode():
                ids = model(tensors, torch.ones(1, 2)).argmax(dim=2)[0].tolist()
            expected = " ".join(LABELS[one] for one in ids[: ids.index(1)])
            assert pipeline(**items[index].inputs).text == expected
            with pipeline.generate(**items[index].inputs) as generation:
                assert [LABELS[token.id] for token in generation][:-1] == expected.split()


def test_a_file_is_answered_as_the_array_is(items: sequence.SequenceItems) -> None:
    clips = pytest.importorskip("tests.runtime.clips", reason="not checked: video files: PyAV is not installed")
    prepare = Preprocess(seq2seq.build())
    clip = items[0].inputs["video"]
    assert isinstance(clip, np.ndarray)
    data = clips.clip(list(clip.repeat(3, axis=3)), rate=2)
    given = prepare(edgefuse.Sample({"video": data, "text": items[0].inputs["text"]}))
    for name, value in prepare(items[0]).items():
        assert np.array_equal(given[name], value)
