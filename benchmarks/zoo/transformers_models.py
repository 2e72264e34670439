"""Models of the transformers library as it ships them, made from small configurations, and pairs of its encoders."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.entry import LABELS, Draw, Entry, Floats, Ids, Mask, arrays, described, words
from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ModelSpec, tensor

Made = tuple[nn.Module, ModelSpec]

WIDTH = 256
SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
EIGHT: dict[str, Any] = {"num_labels": 8}
EMBEDDINGS = tuple(EmbeddingOutput(name=name, size=64) for name in ("image_embeds", "text_embeds"))
WORDS: dict[str, Draw] = {"input_ids": Ids(1000), "attention_mask": Mask()}
CLIP_WORDS: dict[str, Draw] = {"input_ids": Ids(999, last=999), "attention_mask": Mask(whole=True)}
PATCHES: dict[str, Any] = {"image_size": 96, "patch_size": 16}


def picture(size: int = PATCHES["image_size"]) -> Any:
    """Describe a picture as the library's processors give it."""
    return arrays("image", ("pixel_values", "float32", (3, size, size)))


def clip() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24, "eos_token_id": 999}
    config = hf.CLIPConfig(text_config=text, vision_config=SIZE | PATCHES, projection_dim=64)
    return hf.CLIPModel(config), described("clip", picture(), words(24), outputs=EMBEDDINGS)


def siglip() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24, "projection_size": WIDTH}
    config = hf.SiglipConfig(text_config=text, vision_config=SIZE | PATCHES)
    outputs = tuple(EmbeddingOutput(name=output.name, size=WIDTH) for output in EMBEDDINGS)
    ids = arrays("text", ("input_ids", "int32", (24,)))
    return hf.SiglipModel(config), described("siglip", picture(), ids, outputs=outputs)


def chinese_clip() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24}
    config = hf.ChineseCLIPConfig(text_config=text, vision_config=SIZE | PATCHES, projection_dim=64)
    return hf.ChineseCLIPModel(config), described("chinese_clip", picture(), words(24), outputs=EMBEDDINGS)


def clap() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 32, "projection_dim": 64}
    audio = {
        "spec_size": 128, "num_mel_bins": 32, "patch_embeds_hidden_size": 48, "hidden_size": 96, "depths": [2, 2],
        "num_attention_heads": [2, 4], "window_size": 4, "projection_dim": 64,
    }  # fmt: skip
    config = hf.ClapConfig(text_config=text, audio_config=audio, projection_dim=64)
    sound = arrays("audio", ("input_features", "float32", (1, 125, 32)))
    outputs = tuple(EmbeddingOutput(name=name, size=64) for name in ("audio_embeds", "text_embeds"))
    return hf.ClapModel(config), described("clap", sound, words(24), outputs=outputs)


def blip_retrieval() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24, "encoder_hidden_size": WIDTH}
    config = hf.BlipConfig(text_config=text, vision_config=SIZE | PATCHES, image_text_hidden_size=64)
    match = ClassOutput(name="itm_score", labels=("other", "match"))
    return hf.BlipForImageTextRetrieval(config), described("blip_retrieval", picture(), words(24), outputs=(match,))


def lxmert() -> Made:
    layers: dict[str, Any] = {"l_layers": 2, "x_layers": 2, "r_layers": 2}
    config = hf.LxmertConfig(**(SIZE | layers), vocab_size=1000, visual_feat_dim=256, num_qa_labels=8)
    seen = arrays("image", ("visual_feats", "float32", (16, 256)), ("visual_pos", "float32", (16, 4)))
    answer = ClassOutput(name="question_answering_score", labels=LABELS.labels)
    return hf.LxmertForQuestionAnswering(config), described("lxmert", seen, words(24), outputs=(answer,))


def visual_bert() -> Made:
    config = hf.VisualBertConfig(**SIZE, **EIGHT, vocab_size=1000, visual_embedding_dim=256)
    seen = arrays("image", ("visual_embeds", "float32", (16, 256)))
    return hf.VisualBertForVisualReasoning(config), described("visual_bert", seen, words(24))


def vilt() -> Made:
    config = hf.ViltConfig(**SIZE, **PATCHES, **EIGHT, vocab_size=1000, max_position_embeddings=24)
    return hf.ViltForQuestionAnswering(config), described("vilt", picture(), words(24))


class Flava(nn.Module):
    """FLAVA with a head on the first position of its multimodal encoder."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.flava, self.head = hf.FlavaModel(config), nn.Linear(WIDTH, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        found = self.flava(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        logits: Tensor = self.head(found.multimodal_embeddings[:, 0])
        return logits


def flava() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24}
    fused = SIZE | {"num_hidden_layers": 1}
    config = hf.FlavaConfig(text_config=text, image_config=SIZE | PATCHES, multimodal_config=fused, hidden_size=WIDTH)
    return Flava(config), described("flava", picture(), words(24))


class VideoAndText(nn.Module):
    """X-CLIP, each video with its own text, which the video conditions: the library's model crosses all with all."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = hf.XCLIPModel(config)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return found.video_embeds, found.text_embeds.diagonal(dim1=0, dim2=1).T


def x_clip() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24, "eos_token_id": 999}
    vision = SIZE | PATCHES | {"num_frames": 4, "mit_hidden_size": 64, "mit_intermediate_size": 128}
    vision |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
    config = hf.XCLIPConfig(text_config=text, vision_config=vision, projection_dim=64, prompt_num_attention_heads=4)
    config.prompt_layers = 1
    frames = arrays("video", ("pixel_values", "float32", (4, 3, 96, 96)))
    outputs = tuple(EmbeddingOutput(name=name, size=64) for name in ("video_embeds", "text_embeds"))
    return VideoAndText(config), described("x_clip", frames, words(24), outputs=outputs)


class Pair(nn.Module):
    """Two encoders of the library, concatenated, and a head."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.hidden, self.head = nn.Linear(width, 128), nn.Linear(128, 8)

    def fused(self, *features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(torch.cat(features, 1)).relu())
        return logits


class SpeechAndText(Pair):
    """wav2vec 2.0's mean over time beside BERT's first token."""

    def forward(self, speech: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        heard = self.first(speech).last_hidden_state.mean(1)
        return self.fused(heard, self.second(input_ids, attention_mask).last_hidden_state[:, 0])


def wav2vec2_bert() -> Made:
    convolutions: dict[str, Any] = {
        "conv_dim": (64,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    speech = hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SIZE, **convolutions))
    text = hf.BertModel(hf.BertConfig(**SIZE, vocab_size=1000, max_position_embeddings=24))
    spoken = tensor("speech", shape=(1, 8000))
    return SpeechAndText(speech, text, 2 * WIDTH), described("wav2vec2_bert", spoken, words(24))


class PictureAndText(Pair):
    """MobileViT's pooled picture beside DistilBERT's first token."""

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.first(pixel_values).pooler_output
        return self.fused(seen, self.second(input_ids, attention_mask).last_hidden_state[:, 0])


def mobilevit_distilbert() -> Made:
    widths: dict[str, Any] = {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320]}
    vision = hf.MobileViTModel(hf.MobileViTConfig(image_size=96, **widths))
    small: dict[str, Any] = {"dim": WIDTH, "hidden_dim": 4 * WIDTH, "n_layers": 4, "n_heads": 4}
    text = hf.DistilBertModel(hf.DistilBertConfig(**small, vocab_size=1000, max_position_embeddings=24))
    return PictureAndText(vision, text, 320 + WIDTH), described("mobilevit_distilbert", picture(), words(24))


def whisper_encoder() -> Made:
    config = hf.WhisperConfig(
        d_model=WIDTH, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH, decoder_layers=1,
        decoder_attention_heads=4, decoder_ffn_dim=128, num_mel_bins=40, max_source_positions=100, vocab_size=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **EIGHT,
    )  # fmt: skip
    mel = arrays("audio", ("input_features", "float32", (40, 200)))
    return hf.WhisperForAudioClassification(config), described("whisper_encoder", mel)


def audio_spectrogram_transformer() -> Made:
    config = hf.ASTConfig(**SIZE, **EIGHT, max_length=128, num_mel_bins=64)
    mel = arrays("audio", ("input_values", "float32", (128, 64)))
    return hf.ASTForAudioClassification(config), described("audio_spectrogram_transformer", mel)


PROJECTIONS = ("visual_projection", "text_projection")

ENTRIES = (
    Entry(clip, CLIP_WORDS, PROJECTIONS),
    Entry(siglip, {"input_ids": Ids(1000)}, ("text_model.head",)),
    Entry(chinese_clip, WORDS, PROJECTIONS),
    Entry(clap, WORDS, ("audio_projection.linear2", "text_projection.linear2")),
    Entry(blip_retrieval, WORDS, ("itm_head",)),
    Entry(lxmert, WORDS | {"visual_pos": Floats(0, 1)}, ("answer_head.logit_fc.3",)),
    Entry(visual_bert, WORDS, ("cls",)),
    Entry(vilt, WORDS, ("classifier.3",)),
    Entry(flava, WORDS, ("head",)),
    Entry(x_clip, CLIP_WORDS, ("model.visual_projection", "model.text_projection")),
    Entry(wav2vec2_bert, WORDS | {"values": Floats(-1, 1)}, ("head",)),
    Entry(mobilevit_distilbert, WORDS, ("head",)),
    Entry(whisper_encoder, {}, ("classifier",)),
    Entry(audio_spectrogram_transformer, {}, ("classifier.dense",)),
)
