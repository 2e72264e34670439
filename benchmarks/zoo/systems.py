"""Models as courses on multimodal systems describe them: sentiment, classification, captioning, answering."""

from __future__ import annotations

import torch
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, Ids, Mask, arrays, described, words
from benchmarks.zoo.transformers_models import SIZE, WIDTH, Made
from edgefuse.bundle.spec import ClassOutput, image, tensor

FEELINGS = ClassOutput(labels=("negative", "neutral", "positive", "mixed"))


class Convolutions(nn.Module):
    """Three blocks of convolution and pooling over a picture of bytes, and their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inner, outer in ((3, 16), (16, 32), (32, 64)):
            blocks += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks, self.out = nn.Sequential(*blocks), nn.Linear(64, width)

    def forward(self, picture: Tensor) -> Tensor:
        pixels = picture.permute(0, 3, 1, 2).float() / 255
        feature: Tensor = self.out(self.blocks(pixels).mean((2, 3)))
        return feature


class Recurrent(nn.Module):
    """An LSTM and a bidirectional one over mel frequency coefficients."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.first = nn.LSTM(bands, 64, batch_first=True)
        self.second = nn.LSTM(64, 64, batch_first=True, bidirectional=True)
        self.out = nn.Linear(128, width)

    def forward(self, coefficients: Tensor) -> Tensor:
        steps = self.second(self.first(coefficients)[0])[0]
        feature: Tensor = self.out(steps.mean(1))
        return feature


class Embedded(nn.Module):
    """50,000 words of 128 numbers, and their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(50_000, 128), nn.Linear(128, width)

    def forward(self, ids: Tensor) -> Tensor:
        feature: Tensor = self.out(self.table(ids).mean(1))
        return feature


class Sentiment(nn.Module):
    """Attention over three modalities, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.audio, self.text = Convolutions(128), Recurrent(40, 128), Embedded(128)
        self.attention = nn.Linear(128, 1)
        self.dense, self.head = nn.Linear(128, 64), nn.Linear(64, 4)

    def forward(self, image: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        features = torch.stack([self.image(image), self.audio(audio), self.text(text)], 1)
        weights = torch.softmax(self.attention(torch.tanh(features)), 1)
        logits: Tensor = self.head(self.dense((weights * features).sum(1)).relu())
        return logits


def sentiment() -> Made:
    pictures = image("image", height=224, width=224)
    audio = arrays("audio", ("coefficients", "float32", (100, 40)))
    text = arrays("text", ("ids", "int32", (500,)))
    return Sentiment(), described("sentiment", pictures, audio, text, outputs=(FEELINGS,))


class SentimentOfTwo(nn.Module):
    """Text and image, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = Convolutions(128), Embedded(128)
        self.dense, self.head = nn.Linear(256, 64), nn.Linear(64, 4)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dense(torch.cat([self.image(image), self.text(text)], 1)).relu())
        return logits


def sentiment_of_two() -> Made:
    text = arrays("text", ("ids", "int32", (500,)))
    pictures = image("image", height=224, width=224)
    return SentimentOfTwo(), described("sentiment_of_two", pictures, text, outputs=(FEELINGS,))


class Classifier(nn.Module):
    """A CNN, a text encoder's first token, a CNN on the waveform; concatenated; linear."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Convolutions(128)
        self.text = hf.BertModel(hf.BertConfig(**SIZE, vocab_size=1000, max_position_embeddings=24))
        self.audio = nn.Sequential(
            nn.Conv1d(1, 32, 16, 8), nn.ReLU(), nn.Conv1d(32, 64, 8, 4), nn.ReLU(), nn.Conv1d(64, 128, 4, 4), nn.ReLU()
        )
        self.head = nn.Linear(128 + WIDTH + 128, 8)

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor, audio: Tensor) -> Tensor:
        first = self.text(input_ids, attention_mask).last_hidden_state[:, 0]
        heard = self.audio(audio[:, None]).mean(2)
        logits: Tensor = self.head(torch.cat([self.image(image), first, heard], 1))
        return logits


def classifier() -> Made:
    modalities = (image("image", height=96, width=96), words(24), tensor("audio", shape=(1, 8000)))
    return Classifier(), described("classifier", *modalities)


class Captioning(nn.Module):
    """A pretrained CNN's feature and an LSTM over the words so far, fused at every step; an LSTM decodes the next."""

    def __init__(self) -> None:
        super().__init__()
        self.image = hf.MobileNetV2Model(hf.MobileNetV2Config(image_size=96, depth_multiplier=0.5))
        self.seen = nn.Linear(1280, 128)
        self.table, self.text = nn.Embedding(500, 128), nn.LSTM(128, 128, batch_first=True)
        self.decoder, self.head = nn.LSTM(256, 128, batch_first=True), nn.Linear(128, 500)

    def forward(self, pixel_values: Tensor, ids: Tensor) -> Tensor:
        picture = self.seen(self.image(pixel_values).pooler_output)
        read = self.text(self.table(ids))[0]
        fused = torch.cat([picture[:, None].expand(-1, read.shape[1], -1), read], 2)
        logits: Tensor = self.head(self.decoder(fused)[0][:, -1])
        return logits


def captioning() -> Made:
    pictures = arrays("image", ("pixel_values", "float32", (3, 96, 96)))
    so_far = arrays("text", ("ids", "int32", (12,)))
    next_word = ClassOutput(labels=tuple(f"word{i}" for i in range(500)))
    return Captioning(), described("captioning", pictures, so_far, outputs=(next_word,))


class Answering(nn.Module):
    """A question's state looks at the regions of a picture, stacked twice (stacked attention networks)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.regions = nn.Sequential(*layers)
        self.table, self.question = nn.Embedding(1000, 128), nn.GRU(128, 128, batch_first=True)
        self.keys = nn.ModuleList(nn.Linear(128, 128) for _ in range(2))
        self.queries = nn.ModuleList(nn.Linear(128, 128) for _ in range(2))
        self.scores = nn.ModuleList(nn.Linear(128, 1) for _ in range(2))
        self.head = nn.Linear(128, 8)

    def forward(self, pixel_values: Tensor, ids: Tensor) -> Tensor:
        regions = self.regions(pixel_values).flatten(2).transpose(1, 2)
        state = self.question(self.table(ids))[0][:, -1]
        for key, query, score in zip(self.keys, self.queries, self.scores, strict=True):
            weights = score(torch.tanh(key(regions) + query(state)[:, None])).softmax(1)
            state = state + (weights * regions).sum(1)
        logits: Tensor = self.head(state)
        return logits


def question_answering() -> Made:
    pictures = arrays("image", ("pixel_values", "float32", (3, 128, 128)))
    return Answering(), described("question_answering", pictures, arrays("question", ("ids", "int32", (16,))))


class Sequences(nn.Module):
    """Pictures and words step by step, G = [F, H], and a recurrent layer over them."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.table = Convolutions(96), nn.Embedding(500, 96)
        self.fused, self.head = nn.GRU(192, 128, batch_first=True), nn.Linear(128, 8)

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        batch, steps = ids.shape
        seen = self.frames(frames.flatten(0, 1)).view(batch, steps, -1)
        logits: Tensor = self.head(self.fused(torch.cat([seen, self.table(ids)], 2))[0][:, -1])
        return logits


def sequence_to_sequence() -> Made:
    frames = arrays("video", ("frames", "uint8", (6, 64, 64, 3)))
    return Sequences(), described("sequence_to_sequence", frames, arrays("text", ("ids", "int32", (6,))))


ENTRIES = (
    Entry(sentiment, {"ids": Ids(50_000)}, ("head",)),
    Entry(sentiment_of_two, {"ids": Ids(50_000)}, ("head",)),
    Entry(classifier, {"input_ids": Ids(1000), "attention_mask": Mask()}, ("head",)),
    Entry(captioning, {"ids": Ids(500)}, ("head",)),
    Entry(question_answering, {"ids": Ids(1000)}, ("head",)),
    Entry(sequence_to_sequence, {"ids": Ids(500)}, ("head",)),
)
