"""Folders of pretrained models: what they give is what their own processor and model give."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, ModelSpec, TextPreprocess
from edgefuse.cli import main
from edgefuse.errors import ModelError
from edgefuse.models.pretrained import build
from edgefuse.models.pretrained.folder import offline
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.stages.found import find
from tests.float_bundle import float_bundle
from tests.models.pretrained_folders import FOLDERS, made, noise
from tests.tokenizer_files import SENTENCES

hf: Any = transformers
_PROCESSORS = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor", "text": "AutoTokenizer"}


@dataclass(frozen=True)
class Case:
    """A folder, and what was built of it."""

    name: str
    folder: Path
    module: Any
    spec: ModelSpec
    processors: dict[str, Any]


_FURTHER = ("vit_embedding", "distilbert", "roberta", "wav2vec2_embedding", "ast_embedding", "whisper_classifier")
"""Other heads of a family that another folder is of."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.exhaustive] * (name in _FURTHER)) for name in FOLDERS],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A folder of each family, built without a network."""
    folder = made(request.param, tmp_path_factory.mktemp("folders") / request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _unreachable)
        module, spec = build(folder)
    return Case(request.param, folder, module, spec, processors(folder, spec))


def _unreachable(*_: object) -> None:
    raise AssertionError("a connection was opened")


def raw_inputs(spec: ModelSpec, count: int) -> Iterator[dict[str, Any]]:
    """Yield pictures of any size, sounds of any length, and texts from a word to more than the model takes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        raw: dict[str, Any] = {}
        for modality in spec.modalities:
            preprocess = modality.preprocess
            if isinstance(preprocess, ImagePreprocess):
                size = rng.integers(20, 90, 2)
                coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
                raw[modality.name] = np.asarray(coarse.resize((int(size[0]), int(size[1])), Image.Resampling.BICUBIC))
            elif isinstance(preprocess, AudioPreprocess):
                most = preprocess.samples
                length = most if index % 3 == 0 else int(rng.integers(most // 4, most))
                raw[modality.name] = noise(rng, length)
            else:
                words = " ".join(SENTENCES).split(" ")
                start = int(rng.integers(0, len(words) - 1))
                raw[modality.name] = " ".join(words[start : start + 1 + int(rng.integers(0, 40))])
        yield raw


def processors(folder: Path, spec: ModelSpec) -> dict[str, Any]:
    """Return the folder's own processors by modality, pictures' in the form that computes with Pillow."""
    with offline("no processor"):
        return {
            modality.name: getattr(hf, _PROCESSORS[modality.name]).from_pretrained(
                folder, **({"backend": "pil"} if modality.name == "image" else {})
            )
            for modality in spec.modalities
        }


def processed(case: Case, raw: dict[str, Any]) -> dict[str, Any]:
    """Return what the folder's own processors make of raw inputs, as arguments of the model."""
    arguments: dict[str, Any] = {}
    for modality in case.spec.modalities:
        process, given, preprocess = case.processors[modality.name], raw[modality.name], modality.preprocess
        with offline("no input"):
            if isinstance(preprocess, TextPreprocess):
                padding = "max_length" if case.name in ("clip", "siglip") else False
                most = preprocess.max_length
                arguments |= process([given], truncation=True, max_length=most, padding=padding, return_tensors="pt")
            elif isinstance(preprocess, AudioPreprocess):
                arguments |= process(given, sampling_rate=preprocess.sample_rate_hz, return_tensors="pt")
            else:
                arguments |= process(given, return_tensors="pt", input_data_format="channels_last")
    return arguments


def test_a_modality_gives_what_the_processor_gives(case: Case) -> None:
    prepared = {m.name: Preprocessor(m, case.module.assets.__getitem__) for m in case.spec.modalities}
    for raw in raw_inputs(case.spec, 100):
        wanted = processed(case, raw)
        for name, prepare in prepared.items():
            values = {
                key.partition(".")[2]: torch.from_numpy(value.copy()) for key, value in prepare(raw[name]).items()
            }
            if name == "text":
                np.testing.assert_array_equal(values["ids"], wanted["input_ids"])
                continue
            encoder = case.module.encoders[name]
            found = encoder.frontend(next(iter(values.values())))
            if encoder.head is not None:
                found = encoder.head(found, values["length"])
            (key,) = {"pixel_values", "input_values", "input_features"} & set(wanted)
            if name == "image":
                error = (found - wanted[key]).abs().max() / np.ptp(wanted[key].numpy())
                assert error <= 1e-3
            else:
                assert snr_db(wanted[key], found) >= 60


def snr_db(wanted: Any, found: Any) -> float:
    """Return how many decibels a signal is above the error."""
    error = ((found - wanted).double() ** 2).sum()
    return float(10 * torch.log10((wanted.double() ** 2).sum() / error.clamp(min=1e-30)))


def test_a_bundle_answers_files_like_processor_and_model(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find(case.module, case.spec)
    bundle = float_bundle(tmp_path / "made.edgefuse", found, dict(case.module.assets))
    model = own_model(case)
    for raw in raw_inputs(case.spec, 3):
        wanted = own_answers(case, model, processed(case, raw))
        assert main(["run", str(bundle), "--json", *options(raw, tmp_path)]) == 0
        answered = json.loads(capsys.readouterr().out)["outputs"]
        assert list(answered) == list(wanted)
        for name, value in wanted.items():
            largest = max(1.0, float(value.abs().max()))
            np.testing.assert_allclose(np.array(answered[name]), value, rtol=0, atol=3e-4 * largest)


def options(raw: dict[str, Any], folder: Path) -> list[str]:
    """Write raw inputs as files, and return the options that name them."""
    given = {}
    for name, value in raw.items():
        given[name] = value
        if name == "image":
            given[name] = str(folder / "a.png")
            Image.fromarray(value).save(given[name])
        elif name == "audio":
            given[name] = str(folder / "a.wav")
            soundfile.write(given[name], value, 16_000, subtype="FLOAT")
    return [f"--{name}={value}" for name, value in given.items()]


def own_model(case: Case) -> Any:
    """Return the model of the library as the folder's own class."""
    config = json.loads((case.folder / "config.json").read_text(encoding="utf-8"))
    with offline("no model"):
        model: nn.Module = getattr(hf, config["architectures"][0]).from_pretrained(case.folder)
    return model.eval()


@torch.inference_mode()
def own_answers(case: Case, model: Any, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the answers of the library's model by the names of the spec's outputs."""
    if case.name == "whisper":
        return {"last_hidden_state": model.encoder(arguments["input_features"]).last_hidden_state.flatten(1)}
    given = {name: value for name, value in arguments.items() if name not in ("is_longer", "token_type_ids")}
    answer = model(**given)
    if case.name in ("sentence_encoder", "distilbert"):
        mean = answer.last_hidden_state.mean(1)
        return {"embedding": nn.functional.normalize(mean) if case.name == "sentence_encoder" else mean}
    if case.name == "wav2vec2_embedding":
        return {"embedding": answer.last_hidden_state.mean(1)}
    return {output.name: getattr(answer, output.name) for output in case.spec.outputs}


# Folders that are wrong.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a small classifier of texts, to be damaged."""
    return made("bert_classifier", tmp_path / "bert")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        build(folder)
    return str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing").startswith(f"there is no folder {tmp_path / 'nothing'} of a pretrained model")


def test_a_folder_without_a_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no configuration: got no config.json" in refusal(folder)


def test_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json of a pretrained model is not JSON" in refusal(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights: got no model.safetensors" in refusal(folder)


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    said = refusal(folder)
    assert "has its weights only in a form that may run code: got pytorch_model.bin" in said
    assert "AutoModel.from_pretrained('bert').save_pretrained('bert')" in said


def test_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 99)
    assert f"the weights of the pretrained model {folder} cannot be loaded: got SafetensorError" in refusal(folder)


def test_weights_that_are_not_whole(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["classifier.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert "lacks weights of AutoModelForSequenceClassification: got classifier.bias" in refusal(folder)


def test_code_of_a_folder_is_not_run(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    (folder / "modeling.py").write_text("raise SystemExit")
    assert "is code of its own, which is not run: got 'auto_map' in config.json" in refusal(folder)


def test_another_family_is_told_what_to_write(folder: Path) -> None:
    edit(folder / "config.json", model_type="detr")
    said = refusal(folder)
    assert "is of a family that is not known here: got 'detr', expected audio-spectrogram-transformer, bert," in said
    assert "write a factory that returns the module and a ModelSpec, and name it as [model] factory" in said


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer: got none of tokenizer.json, vocab.txt" in refusal(folder)


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    assert "the tokenizer of the pretrained model" in refusal(folder)


def test_a_list_of_parts_that_is_none(tmp_path: Path) -> None:
    folder = made("sentence_encoder", tmp_path / "sentence")
    (folder / "modules.json").write_text("{}")
    assert "has a modules.json that holds something else: got dict, expected list" in refusal(folder)


def test_a_sentence_encoder_with_a_part_that_is_not_known(tmp_path: Path) -> None:
    folder = made("sentence_encoder", tmp_path / "sentence")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    assert "has a part that is not known here: got Dense in modules.json" in refusal(folder)


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    folder = made("vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    assert "has no processor: got no preprocessor_config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"height": 40, "width": 40}}, "takes pictures of another size than its processor makes: got 40 x 40"),
        ({"size": {"shortest_edge": 32}}, "has a processor that makes pictures of no fixed size"),
        ({"resample": 5}, "has a processor that resizes in a way which is not taken: got resample"),
        (
            {"do_pad": True, "pad_size": {"height": 40, "width": 40}},
            "that does something else than its numbers say: got [",
        ),
        ({"do_resize": False}, "has a processor that resizes in a way which is not taken: got no resizing"),
    ],
)
def test_a_processor_that_numbers_do_not_tell(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = made("vit", tmp_path / "vit")
    edit(folder / "preprocessor_config.json", **changes)
    assert said in refusal(folder)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
