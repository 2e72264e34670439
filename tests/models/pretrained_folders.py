"""Folders of small pretrained models, each with the processor that its family really has; nothing is downloaded."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.tokenizer_files import SENTENCES

hf: Any = transformers
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LABELS: dict[str, Any] = {
    "id2label": {0: "cat", 1: "dog", 2: "bird"},
    "label2id": {"cat": 0, "dog": 1, "bird": 2},
}
PATCHES: dict[str, Any] = {"image_size": 32, "patch_size": 8}
RATE_HZ = 16_000


def clip(folder: Path) -> None:
    tokenizer = _clip_tokenizer()
    text = SIZE | {
        "vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = hf.CLIPConfig(text_config=text, vision_config=SIZE | PATCHES, projection_dim=16)
    pictures = hf.CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    tokenizer.model_max_length = 20
    _save(folder, hf.CLIPModel(config), hf.CLIPProcessor(pictures, tokenizer))


def _clip_tokenizer() -> Any:
    built = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    built.normalizer = normalizers.Lowercase()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False,
        end_of_word_suffix="</w>",
    )  # fmt: skip
    built.train_from_iterator(SENTENCES * 4, trainer)
    state = _state(built)
    return hf.CLIPTokenizer(vocab=state["vocab"], merges=[tuple(merge) for merge in state["merges"]])


def _state(built: Tokenizer) -> Any:
    return json.loads(built.to_str())["model"]


def siglip(folder: Path) -> None:
    tokenizer = _siglip_tokenizer(folder)
    text = SIZE | {
        "vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 1, "eos_token_id": 1,
        "bos_token_id": 2, "projection_size": 32,
    }  # fmt: skip
    config = hf.SiglipConfig(text_config=text, vision_config=SIZE | PATCHES)
    pictures = hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    _save(folder, hf.SiglipModel(config), hf.SiglipProcessor(pictures, tokenizer))


def _siglip_tokenizer(folder: Path) -> Any:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=trained, vocab_size=220, character_coverage=1.0,
        unk_id=2, eos_id=1, pad_id=0, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(trained.getvalue())
    return hf.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16)


def vit(folder: Path) -> None:
    config = hf.ViTConfig(**SIZE, **PATCHES, **LABELS)
    _save(folder, hf.ViTForImageClassification(config), hf.ViTImageProcessorPil(size={"height": 32, "width": 32}))


def vit_embedding(folder: Path) -> None:
    config = hf.ViTConfig(**SIZE, **PATCHES)
    _save(folder, hf.ViTModel(config), hf.ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3))


def bert_classifier(folder: Path) -> None:
    tokenizer = hf.BertTokenizer(vocab=_words())
    tokenizer.model_max_length = 24
    config = hf.BertConfig(**SIZE, **LABELS, vocab_size=len(tokenizer), max_position_embeddings=24)
    _save(folder, hf.BertForSequenceClassification(config), tokenizer)


def _words() -> dict[str, int]:
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    built.train_from_iterator(
        SENTENCES * 4, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    return built.get_vocab()


def sentence_encoder(folder: Path) -> None:
    tokenizer = hf.BertTokenizer(vocab=_words())
    config = hf.BertConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=40)
    _save(folder, hf.BertModel(config), tokenizer)
    parts = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    _write(
        folder / "modules.json",
        [{"idx": int(i), "name": i, "path": p, "type": f"sentence_transformers.models.{t}"} for i, p, t in parts],
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    _write(folder / "1_Pooling" / "config.json", pooling)


def distilbert(folder: Path) -> None:
    tokenizer = hf.BertTokenizer(vocab=_words())
    tokenizer.model_max_length = 24
    config = hf.DistilBertConfig(
        dim=32, hidden_dim=64, n_layers=2, n_heads=2, vocab_size=len(tokenizer), max_position_embeddings=24
    )
    _save(folder, hf.DistilBertModel(config), tokenizer)


def roberta(folder: Path) -> None:
    tokenizer = _roberta_tokenizer()
    config = hf.RobertaConfig(
        **SIZE, **LABELS, vocab_size=len(tokenizer), max_position_embeddings=26, pad_token_id=tokenizer.pad_token_id
    )
    _save(folder, hf.RobertaForSequenceClassification(config), tokenizer)


def _roberta_tokenizer() -> Any:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        SENTENCES * 4,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    built.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    state = _state(built)
    return hf.RobertaTokenizer(vocab=state["vocab"], merges=[tuple(merge) for merge in state["merges"]])


def wav2vec2(folder: Path) -> None:
    model = hf.Wav2Vec2ForSequenceClassification(_wav2vec2_config())
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False, max_length=6000)
    _save(folder, model, extractor)


def wav2vec2_embedding(folder: Path) -> None:
    extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False, max_length=6000)
    _save(folder, hf.Wav2Vec2Model(_wav2vec2_config()), extractor)


def _wav2vec2_config() -> Any:
    return hf.Wav2Vec2Config(
        **SIZE, **LABELS, conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        classifier_proj_size=16,
    )  # fmt: skip


def ast(folder: Path) -> None:
    config = hf.ASTConfig(**SIZE, **LABELS, max_length=60, num_mel_bins=32)
    _save(folder, hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor(max_length=60, num_mel_bins=32))


def ast_embedding(folder: Path) -> None:
    config = hf.ASTConfig(**SIZE, max_length=60, num_mel_bins=32)
    _save(folder, hf.ASTModel(config), hf.ASTFeatureExtractor(max_length=60, num_mel_bins=32, do_normalize=False))


def whisper(folder: Path) -> None:
    _save(folder, hf.WhisperModel(_whisper_config()), hf.WhisperFeatureExtractor(feature_size=40, chunk_length=1))


def whisper_classifier(folder: Path) -> None:
    model = hf.WhisperForAudioClassification(_whisper_config())
    _save(folder, model, hf.WhisperFeatureExtractor(feature_size=40, chunk_length=1))


def _whisper_config() -> Any:
    return hf.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, num_mel_bins=40, max_source_positions=50, vocab_size=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, classifier_proj_size=16, **LABELS,
    )  # fmt: skip


def clap(folder: Path) -> None:
    tokenizer = _roberta_tokenizer()
    tokenizer.model_max_length = 24
    text = SIZE | {
        "vocab_size": len(tokenizer), "max_position_embeddings": 26, "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 16,
    }  # fmt: skip
    audio = {
        "spec_size": 64, "num_mel_bins": 32, "patch_embeds_hidden_size": 16, "hidden_size": 32, "depths": [1, 1],
        "num_attention_heads": [2, 2], "window_size": 4, "projection_dim": 16, "patch_size": 4,
    }  # fmt: skip
    config = hf.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
    extractor = hf.ClapFeatureExtractor(
        feature_size=32, sampling_rate=RATE_HZ, max_length_s=1, hop_length=160, fft_window_size=400,
        frequency_max=8000, truncation="rand_trunc",
    )  # fmt: skip
    _save(folder, hf.ClapModel(config), hf.ClapProcessor(extractor, tokenizer))


FOLDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        made.__name__: made
        for made in (
            clip, vit, vit_embedding, bert_classifier, sentence_encoder, distilbert, roberta, siglip, wav2vec2,
            wav2vec2_embedding, ast, ast_embedding, whisper, whisper_classifier, clap,
        )
    }
)  # fmt: skip


def made(name: str, folder: Path) -> Path:
    """Make a folder of a family, with seeded weights whose answers differ by input."""
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        FOLDERS[name](folder)
    return folder


def _save(folder: Path, model: Any, processor: Any) -> None:
    for parameter in model.parameters():  # what the library draws is so small that all answers are alike
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def noise(rng: np.random.Generator, samples: int) -> Any:
    """Return sound at a random loudness with a tone in it."""
    tone = np.sin(np.arange(samples) * rng.uniform(0.02, 1.0)) * rng.uniform(0, 0.3)
    return (tone + rng.normal(0, rng.uniform(0.01, 0.2), samples)).astype(np.float32)
