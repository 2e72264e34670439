"""Models as people bring them: a backbone of a vision library, speech blocks, learned queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, Ids, arrays, described, words
from benchmarks.zoo.transformers_models import PATCHES, SIZE, WIDTH, WORDS, Made, picture
from edgefuse.bundle.spec import tensor


class Squeeze(nn.Module):
    """Squeeze and excitation, as torchvision writes it."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, narrow, 1),
            nn.Conv2d(narrow, width, 1),
        )
        self.activation, self.scale = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.scale(self.fc2(self.activation(self.fc1(self.pool(x)))))
        return y


class Inverted(nn.Module):
    """An inverted residual of MobileNetV3."""

    def __init__(self, inner: int, wide: int, outer: int, kernel: int, stride: int, squeezed: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, size, step, groups in ((inner, wide, 1, 1, 1), (wide, wide, kernel, stride, wide)):
            layers += [
                nn.Conv2d(a, b, size, step, size // 2, groups=groups, bias=False),
                nn.BatchNorm2d(b),
                nn.Hardswish(),
            ]
        if squeezed:
            layers.append(Squeeze(wide, wide // 4))
        self.block = nn.Sequential(*layers, nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer))
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetAndLstm(nn.Module):
    """MobileNetV3 beside an LSTM, of which the state at the end of the text counts."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
            Inverted(16, 16, 16, 3, 2, True), Inverted(16, 72, 24, 3, 2, False), Inverted(24, 88, 24, 3, 1, False),
            Inverted(24, 96, 40, 5, 2, True), Inverted(40, 240, 40, 5, 1, True), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.embedding = nn.Embedding(1000, 64, padding_idx=0)
        self.lstm = nn.LSTM(64, 96, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.classifier = nn.Sequential(nn.Linear(40 + 192, 128), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(128, 8))

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = torch.flatten(self.features(image), 1)
        read, _ = self.lstm(self.embedding(input_ids))
        last = attention_mask.sum(1) - 1
        state = read[torch.arange(read.size(0), device=read.device), last]
        logits: Tensor = self.classifier(torch.cat((seen, state), dim=1))
        return logits


def mobilenet_lstm() -> Made:
    return MobileNetAndLstm(), described("mobilenet_lstm", tensor("image", shape=(1, 3, 160, 160)), words(20))


class Conformer(nn.Module):
    """A Conformer block: half a feed-forward, attention, a convolution, half a feed-forward."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.first, self.last = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in range(2)
        )
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.before, self.enter = nn.LayerNorm(width), nn.Conv1d(width, 2 * width, 1)
        self.depth = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm, self.leave = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)
        self.after = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.enter(self.before(x).transpose(1, 2)), dim=1)
        x = x + self.leave(F.silu(self.batch_norm(self.depth(y)))).transpose(1, 2)
        out: Tensor = self.after(x + 0.5 * self.last(x))
        return out


class SpeechAndTable(nn.Module):
    """Conformer blocks over subsampled filterbanks, pooled by attention, beside a table of numbers and categories."""

    def __init__(self, width: int = 144) -> None:
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU())
        self.project = nn.Linear(16 * 9, width)
        self.blocks = nn.ModuleList(Conformer(width, 4, 15) for _ in range(2))
        self.pool = nn.Linear(width, 1)
        self.embeddings = nn.ModuleList(nn.Embedding(n, min(50, (n + 1) // 2)) for n in (12, 7, 31))
        self.norm = nn.BatchNorm1d(6)
        self.table = nn.Sequential(nn.Linear(6 + 26, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 64))
        self.head = nn.Linear(width + 64, 8)

    def forward(self, fbank: Tensor, numbers: Tensor, categories: Tensor) -> Tensor:
        x = self.subsample(fbank.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.project(x.transpose(1, 2).contiguous().view(b, t, c * f))
        for block in self.blocks:
            x = block(x)
        weights = torch.softmax(self.pool(x), dim=1)
        heard = torch.sum(weights * x, dim=1)
        columns = [embed(categories[:, i]) for i, embed in enumerate(self.embeddings)]
        row = self.table(torch.cat([self.norm(numbers), *columns], 1))
        logits: Tensor = self.head(torch.cat([heard, row], -1))
        return logits


def conformer_tabular() -> Made:
    table = arrays("table", ("numbers", "float32", (6,)), ("categories", "int32", (3,)))
    return SpeechAndTable(), described("conformer_tabular", tensor("fbank", shape=(1, 200, 40)), table)


class QFormer(nn.Module):
    """Learned queries beside the words of a question attend to a vision transformer's patches (BLIP-2)."""

    def __init__(self, width: int = WIDTH, queries: int = 8) -> None:
        super().__init__()
        self.vision = hf.ViTModel(hf.ViTConfig(**SIZE, **PATCHES), add_pooling_layer=False)
        self.queries = nn.Parameter(torch.zeros(1, queries, width).normal_(0, 0.02))
        self.words, self.places = nn.Embedding(1000, width), nn.Embedding(24, width)
        decoder = nn.TransformerDecoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.TransformerDecoder(decoder, 2)
        self.head = nn.Linear(width, 8)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        patches = self.vision(pixel_values).last_hidden_state
        b, steps = input_ids.shape
        asked = self.words(input_ids) + self.places(torch.arange(steps, device=input_ids.device))
        queries = self.queries.expand(b, -1, -1)
        ones = torch.ones(b, queries.size(1), dtype=torch.bool, device=input_ids.device)
        absent = ~torch.cat([ones, attention_mask.bool()], 1)
        y = self.layers(torch.cat([queries, asked], 1), patches, tgt_key_padding_mask=absent)
        logits: Tensor = self.head(y[:, : queries.size(1)].mean(1))
        return logits


def q_former() -> Made:
    return QFormer(), described("q_former", picture(), words(24))


ENTRIES = (
    Entry(mobilenet_lstm, WORDS, ("classifier.3",)),
    Entry(conformer_tabular, {"categories": Ids(7)}, ("head",)),
    Entry(q_former, WORDS, ("head",)),
)
