"""A model that makes tokens, from its samples to bundles that say the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgefuse
from edgefuse import Sample, Splits
from edgefuse.bundle.reader import open_bundle
from edgefuse.errors import DataError
from edgefuse.measure.agreement import check
from edgefuse.models.decoder import decoded
from edgefuse.runtime.backends.backend import SessionOptions
from tests.decoders import (
    END,
    START,
    WORDS,
    CachedDecoder,
    LstmDecoder,
    answer_of,
    generating,
    inputs_of,
    not_taken_apart,
)

TARGETS = ("onnx", "tflite")


def _splits(model: edgefuse.FusionModel, **changed: object) -> Splits:
    def samples(first: int, count: int) -> list[Sample]:
        return [Sample(inputs_of(seed), answer_of(model, inputs_of(seed))) for seed in range(first, first + count)]

    calibration = [Sample(sample.inputs, None) for sample in samples(0, 6)]  # the reference says what they are given
    given = {"calibration": calibration, "validation": samples(100, 16), "test": samples(200, 16)} | changed
    return Splits(**given, digest=f"generating {sorted(changed)}")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [LstmDecoder, CachedDecoder])
@pytest.mark.parametrize("target", TARGETS)
def test_an_export_makes_the_tokens_of_torch(
    kind: type[LstmDecoder] | type[CachedDecoder], target: str, tmp_path: Path
) -> None:
    model = generating(kind)
    out = tmp_path / "generating.edgefuse"
    edgefuse.export(model, model.spec, target, out=out, cache=tmp_path / "cache")
    with edgefuse.load(out) as pipeline:
        for seed in range(12):
            inputs = inputs_of(seed)
            inputs = inputs if seed % 3 else {"right": inputs["right"]}
            expected = answer_of(model, inputs)
            prediction = pipeline(**inputs)
            assert prediction.outputs["tokens"][0, : len(expected)].argmax(axis=1).tolist() == expected
            assert prediction.text == "".join(WORDS[token] for token in expected if token != 1)


def test_a_compile_judges_every_step_and_times_a_decoder_once_per_token(tmp_path: Path) -> None:
    model = generating(LstmDecoder, size=64)
    result = edgefuse.compile(
        model,
        model.spec,
        _splits(model),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        targets=TARGETS,
        max_drop=0.05,
        schemes={"decoder": ["dynamic_wi8_af32"], "fusion": [], "left_encoder": [], "right_encoder": []},
    )
    assert not result.failed
    report = json.loads(result.report_json.read_text())
    assert report["reference"]["accuracy"]["left+right"] == 1.0  # the targets are what it says itself
    quantized = {(one["target"], one["stage"]) for one in report["stages"] if "wi8" in one["scheme"]}
    assert quantized == {(target, "decoder") for target in TARGETS}
    lines = [(line["modality"], line["stages"]) for line in report["modalities"] if line["target"] == "onnx"]
    assert lines[2:] == [("", ["fusion"]), ("", ["decoder"])]
    for bundle in report["bundles"]:
        said = {rung["name"]: rung["said"] for rung in bundle["rungs"]}
        assert all(one["items"] == 16 and one["tokens_equal"] > 0.9 for one in said.values())
    for path in result.bundles:
        with open_bundle(path) as bundle:
            assert all(found.ok for found in check(bundle, SessionOptions()))
        with edgefuse.load(path) as pipeline:
            inputs = inputs_of(7)
            forced = pipeline.preprocess(**inputs)
            tokens = np.array([[START, *answer_of(model, inputs)[:-1]]], np.int32)
            given = edgefuse.Inputs(values={**forced.values, "token": tokens}, present=forced.present)
            assert np.allclose(pipeline.infer(given)["tokens"], pipeline.infer(forced)["tokens"])


@pytest.mark.parametrize("kind", [LstmDecoder, CachedDecoder])
def test_a_module_that_nobody_took_apart_makes_the_tokens_of_torch(
    kind: type[LstmDecoder] | type[CachedDecoder], tmp_path: Path
) -> None:
    model, spec = not_taken_apart(kind)
    output = spec.outputs[0]
    samples = {}
    for seed in range(12):
        inputs = inputs_of(seed)
        with torch.inference_mode():
            fused = model(*map(torch.from_numpy, inputs.values()))
            ids = decoded(model.decoder, output, (fused,), None)[0].argmax(dim=1).tolist()  # type: ignore[arg-type]
        samples[seed] = Sample(inputs, ids[: ids.index(END) + 1] if END in ids else ids)
    few = list(samples.values())
    splits = Splits(calibration=few[:2], validation=few[2:6], test=few[6:], digest="plain")
    result = edgefuse.compile(
        model,
        spec,
        splits,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        targets=["onnx"],
        schemes=dict.fromkeys(("left_encoder", "right_encoder", "fusion", "decoder"), ()),
    )
    report = json.loads(result.report_json.read_text())
    assert report["reference"]["accuracy"] == {"left+right": 1.0}
    with edgefuse.load(result.bundles[0]) as pipeline:
        assert [stage.name for stage in pipeline.manifest.stages] == [
            "left_encoder",
            "right_encoder",
            "fusion",
            "decoder",
        ]
        for sample in few:
            assert [token.id for token in pipeline.generate(**sample.inputs)] == sample.target


def test_a_target_of_text_says_no_tokens(tmp_path: Path) -> None:
    model = generating(metric="bleu")
    texts = [Sample(inputs_of(seed), "abc") for seed in range(3)]
    with pytest.raises(DataError, match="expected the ids of its tokens"):
        edgefuse.compile(
            model,
            model.spec,
            _splits(model, validation=texts),
            out=tmp_path / "out",
            cache=tmp_path / "cache",
            targets=["onnx"],
        )


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [LstmDecoder, CachedDecoder])
def test_each_stage_of_a_model_that_makes_tokens_is_pruned_and_recovers(
    kind: type[LstmDecoder] | type[CachedDecoder], tmp_path: Path
) -> None:
    model = generating(kind, size=64)
    train = [Sample(inputs_of(seed), answer_of(model, inputs_of(seed))) for seed in range(300, 332)]
    stages = ("left_encoder", "fusion", "decoder")
    step = {"method": "magnitude", "ratio": 0.3}
    result = edgefuse.compile(
        model,
        model.spec,
        _splits(model, train=train),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        targets=["onnx"],
        max_drop=0.2,
        prune={"variants": [{"stages": list(stages), "steps": [step]}]},
        recover={"epochs": 1},
        schemes=dict.fromkeys([*stages, "right_encoder"], ()),
    )
    report = json.loads(result.report_json.read_text())
    pruned = {one["stage"]: one for one in report["stages"] if one["pruning"]}
    assert set(pruned) == set(stages)
    assert all(one["snr_db"] > 5 for one in pruned.values())


@pytest.mark.exhaustive
def test_a_cost_counts_a_decoder_once_per_token(tmp_path: Path) -> None:
    model = generating(LstmDecoder, size=64)
    result = edgefuse.compile(
        model,
        model.spec,
        _splits(model),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        targets=["onnx"],
        device="arm64",
        max_drop=0.5,
        schemes=dict.fromkeys(("left_encoder", "right_encoder", "fusion", "decoder"), ()),
    )
    report = json.loads(result.report_json.read_text())
    (rung,) = (one for one in report["bundles"][0]["rungs"] if one["objective"] == "float" or one["name"] == "fast")
    stages = {one["stage"]: one["cost"] for one in report["stages"] if one["scheme"] == "float"}
    steps = stages["decoder"] / sum(stages.values())
    assert steps > 0.5  # 50,000 multiply-accumulates a token
    assert rung["cost"] == pytest.approx(sum(stages.values()), rel=0.3)  # other items, other lengths
