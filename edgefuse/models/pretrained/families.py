"""Which kinds of models a folder may hold, and how each becomes encoders, what follows them, and a spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from torch import nn

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, LabelsOutput, ModelSpec, Output, ValuesOutput
from edgefuse.models.fusion import FusionModel
from edgefuse.models.pretrained import sounds
from edgefuse.models.pretrained.encoders import (
    Apart,
    Asked,
    Classifier,
    Encoder,
    First,
    Mean,
    Only,
    Pooling,
    Sentence,
    Text,
)
from edgefuse.models.pretrained.folder import Folder, model_of, opened
from edgefuse.models.pretrained.inputs import Input
from edgefuse.models.pretrained.pictures import picture
from edgefuse.models.pretrained.texts import writing

Made: TypeAlias = tuple[nn.Module, ModelSpec]
Build: TypeAlias = Callable[[Folder], Made]

_COUNTED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Families whose positions begin behind the number of the padding token."""
_MAX_TOKENS = 512


def build(path: Path) -> Made:
    """Return the model of a folder, with the `assets` that its preprocessing reads, and its spec.

    Contrastive models have an embedding of length one per modality, each of which may be absent. Classifiers have their
    logits. What has no head gives what the model itself gives: Whisper's encoder all of its states, row by row, wav2vec
    2.0 their mean, a text encoder the mean of its tokens or what its `modules.json` says.

    Raises:
        ModelError: if there is no such folder, it is damaged, of another family, or wants code of its own to be run.
        MissingExtraError: if the library is not installed.
    """
    folder = opened(path)
    family = FAMILIES.get(folder.kind)
    if family is None:
        raise folder.refused(
            "is of a family that is not known here", got=repr(folder.kind), expected=", ".join(sorted(FAMILIES))
        )
    module, spec = family(folder)
    return module.eval(), spec


# Contrastive models: an encoder per modality, and nothing that sees both.


def _clip(folder: Folder) -> Made:
    model = model_of(folder, "CLIPModel")
    seen = picture(folder, model.config.vision_config.image_size, optional=True)
    read = _fixed(folder, model.config.text_config)
    image = nn.Sequential(Asked(model.vision_model, "pixel_values", "pooler_output"), model.visual_projection)
    text = Text(model.text_model, model.text_projection)
    return _apart(folder, (seen, image), (read, text), model.config.projection_dim)


def _siglip(folder: Folder) -> Made:
    model = model_of(folder, "SiglipModel")
    seen = picture(folder, model.config.vision_config.image_size, optional=True)
    read = _fixed(folder, model.config.text_config)
    image = Asked(model.vision_model, "pixel_values", "pooler_output")
    return _apart(folder, (seen, image), (read, Text(model.text_model)), model.config.vision_config.hidden_size)


def _clap(folder: Folder) -> Made:
    model = model_of(folder, "ClapModel")
    if model.config.audio_config.enable_fusion:
        raise folder.refused("fuses several parts of a longer sound", got="enable_fusion", expected="a model without")
    heard = sounds.clap(folder, optional=True)
    read = writing(folder, _positions(model.config.text_config, counted_from_padding=True), optional=True)
    audio = nn.Sequential(Asked(model.audio_model, "input_features", "pooler_output"), model.audio_projection)
    return _apart(folder, (heard, audio), (read, Text(model.text_model, model.text_projection)), model.projection_dim)


def _fixed(folder: Folder, config: Any) -> Input:
    """Return texts that are always padded to one length, of which the model is not told: it need not know."""
    return writing(folder, int(config.max_position_embeddings), fixed=True, length=False, optional=True)


def _apart(folder: Folder, first: tuple[Input, nn.Module], second: tuple[Input, nn.Module], width: int) -> Made:
    pairs = (first, second)
    names = [one.modality.name for one, _ in pairs]
    outputs = tuple(EmbeddingOutput(name=f"{name}_embeds", size=width) for name in names)
    return _fused(folder, pairs, Apart(names), outputs)


# Models of one modality: the encoder, and what makes an answer of its feature.


def _vit(folder: Folder) -> Made:
    kind = {"vit": "ViT", "deit": "DeiT"}[folder.kind]
    if folder.architecture.endswith("ForImageClassification"):
        model = model_of(folder, f"{kind}ForImageClassification")
        base, last, output = getattr(model, folder.kind), model.classifier, _classes(model.config)
    else:
        base = model_of(folder, f"{kind}Model")
        last, output = base.pooler, EmbeddingOutput(name="pooler_output", size=base.config.pooler_output_size)
        last = nn.Sequential(last.dense, last.activation)
    base.pooler = None
    seen = picture(folder, base.config.image_size)
    encoder = nn.Sequential(Asked(base, "pixel_values", "last_hidden_state"), First())
    return _fused(folder, ((seen, encoder),), Only(seen.modality.name, last), (output,))


def _ast(folder: Folder) -> Made:
    if folder.architecture.endswith("ForAudioClassification"):
        model = model_of(folder, "ASTForAudioClassification")
        base, last, output = model.audio_spectrogram_transformer, model.classifier, _classes(model.config)
        last = nn.Sequential(Mean(first=2), last)
    else:
        base = model_of(folder, "ASTModel")
        last, output = Mean(first=2), EmbeddingOutput(name="pooler_output", size=base.config.hidden_size)
    heard = sounds.spectrogram(folder, base.config.max_length, base.config.num_mel_bins)
    encoder = Asked(base, "input_values", "last_hidden_state")
    return _fused(folder, ((heard, encoder),), Only(heard.modality.name, last), (output,))


def _wav2vec2(folder: Folder) -> Made:
    classifies = folder.architecture.endswith("ForSequenceClassification")
    if folder.architecture.endswith(("ForCTC", "Classification", "XVector")) and not classifies:
        raise folder.refused("answers for each step of a sound", got=folder.architecture, expected="one answer")
    if classifies:
        model = model_of(folder, "Wav2Vec2ForSequenceClassification")
        _require_last_layer(folder, model.config)
        base, output = model.wav2vec2, _classes(model.config)
        pooled, last = [model.projector, Mean()], model.classifier
    else:
        base = model_of(folder, "Wav2Vec2Model", unused=("masked_spec_embed",))
        output, pooled, last = EmbeddingOutput(size=base.config.output_hidden_size), [], Mean()
    heard = sounds.waveform(folder)
    encoder = nn.Sequential(Asked(base, "input_values", "last_hidden_state"), *pooled)
    return _fused(folder, ((heard, encoder),), Only(heard.modality.name, last), (output,))


def _whisper(folder: Folder) -> Made:
    if folder.architecture.endswith("ForAudioClassification"):
        model = model_of(folder, "WhisperForAudioClassification")
        _require_last_layer(folder, model.config)
        base, output = model.encoder, _classes(model.config)
        pooled, last = [model.projector, Mean()], model.classifier
    else:
        base = model_of(folder, "WhisperModel").encoder
        size = base.config.max_source_positions * base.config.d_model
        output, pooled, last = EmbeddingOutput(name="last_hidden_state", size=size), [], nn.Flatten()
    heard = sounds.whisper(folder, 2 * base.config.max_source_positions)
    encoder = nn.Sequential(Asked(base, "input_features", "last_hidden_state"), *pooled)
    return _fused(folder, ((heard, encoder),), Only(heard.modality.name, last), (output,))


def _require_last_layer(folder: Folder, config: Any) -> None:
    if config.use_weighted_layer_sum:
        raise folder.refused("sums all of its layers up", got="use_weighted_layer_sum", expected="the last layer")


# Texts: one stage, since nothing comes before the encoder.


def _text(folder: Folder) -> Made:
    module: nn.Module
    if folder.architecture.endswith("ForSequenceClassification"):
        model = model_of(folder, "AutoModelForSequenceClassification")
        module, output = Classifier(model), _classes(model.config)
    else:
        model = model_of(folder, "AutoModel", unused=("pooler.",))
        pooling, normalized = _pooling(folder)
        module, output = Sentence(model, pooling, normalized=normalized), EmbeddingOutput(size=_width(model.config))
    sentence = folder.json("sentence_bert_config.json", dict)
    if sentence.get("do_lower_case"):
        raise folder.refused("lowers the case of texts before its tokenizer", got="do_lower_case")
    positions = _positions(model.config, counted_from_padding=folder.kind in _COUNTED_FROM_PADDING)
    read = writing(folder, min(positions, int(sentence.get("max_seq_length") or positions)))
    read.check(folder)
    module.assets = dict(read.assets)  # type: ignore[assignment] # any attribute
    return module, _spec(folder, (read,), (output,))


def _pooling(folder: Folder) -> tuple[Pooling, bool]:
    """Return how a sentence encoder pools its tokens, by the mean unless it says so, and whether it normalises."""
    modules = {
        str(module.get("type")): module for module in folder.json("modules.json", list) if isinstance(module, dict)
    }
    kinds = [kind.rpartition(".")[2] for kind in modules]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise folder.refused("has a part that is not known here", got=f"{unknown[0]} in modules.json")
    place = next((str(module.get("path")) for kind, module in modules.items() if kind.endswith("Pooling")), "")
    settings = folder.json(f"{place}/config.json", dict) if place else {}
    settings = settings or {"pooling_mode_mean_tokens": True}
    chosen = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value]
    known: Mapping[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    names = [name.removeprefix("pooling_mode_") for name in chosen] or [f"{settings.get('pooling_mode')}_tokens"]
    names = ["cls_token" if name == "cls_tokens" else name for name in names]
    if len(names) != 1 or names[0] not in known:
        raise folder.refused("pools its tokens in a way that is not known here", got=", ".join(names))
    return known[names[0]], "Normalize" in kinds


def _positions(config: Any, *, counted_from_padding: bool) -> int:
    """Return how many tokens a text encoder takes."""
    most = int(config.max_position_embeddings)
    return min(most - (int(config.pad_token_id) + 1) * counted_from_padding, _MAX_TOKENS)


def _width(config: Any) -> int:
    return int(config.hidden_size)


# What all have in common.


def _classes(config: Any) -> Output:
    """Return the output of a classifier: classes, several labels, or plain numbers where none is meant."""
    labels = tuple(str(config.id2label[number]) for number in range(config.num_labels))
    if config.problem_type == "multi_label_classification":
        return LabelsOutput(labels=labels)
    if config.problem_type == "regression" or len(labels) == 1:
        return ValuesOutput(name="logits", labels=labels)
    return ClassOutput(labels=labels)


def _fused(
    folder: Folder, pairs: Sequence[tuple[Input, nn.Module]], fusion: nn.Module, outputs: tuple[Output, ...]
) -> Made:
    """Return a model of encoders, each behind its modality's frontend, with every modality checked.

    Args:
        folder: that holds it.
        pairs: a modality and its encoder each.
        fusion: takes the encoders' features.
        outputs: of the fusion.
    """
    assets: dict[str, bytes] = {}
    for one, _ in pairs:
        one.check(folder)
        assets |= one.assets
    encoders = {
        one.modality.name: Encoder(body, one.frontend, one.head) if one.frontend is not None else body
        for one, body in pairs
    }
    spec = _spec(folder, [one for one, _ in pairs], outputs)
    return FusionModel(spec, encoders, fusion, assets=assets), spec


def _spec(folder: Folder, inputs: Sequence[Input], outputs: tuple[Output, ...]) -> ModelSpec:
    name = re.sub("[^a-z0-9_-]+", "-", folder.path.resolve().name.lower())[:64] or "model"
    return ModelSpec(
        name=name,
        modalities=tuple(one.modality for one in inputs),
        outputs=outputs,
        metric="" if isinstance(outputs[0], ClassOutput | LabelsOutput) else "mse",
    )


_TEXTS = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra")
FAMILIES: Mapping[str, Build] = MappingProxyType(
    {
        "clip": _clip,
        "siglip": _siglip,
        "clap": _clap,
        "vit": _vit,
        "deit": _vit,
        "audio-spectrogram-transformer": _ast,
        "wav2vec2": _wav2vec2,
        "whisper": _whisper,
        **dict.fromkeys(_TEXTS, cast(Build, _text)),
    }
)
"""By what the library calls them in `config.json`."""
