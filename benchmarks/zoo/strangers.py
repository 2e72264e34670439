"""Models as people bring them: backbones of vision libraries, speech blocks, learned queries, documents, retrieval."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, Ids, Mask, arrays, described, words
from benchmarks.zoo.transformers_models import PATCHES, SIZE, WORDS, Made, Pair, picture
from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, tensor


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
    return MobileNetAndLstm(), described("mobilenet_lstm", tensor("image", shape=(1, 3, 96, 96)), words(20))


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

    def __init__(self, width: int = 96) -> None:
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
    return SpeechAndTable(), described("conformer_tabular", tensor("fbank", shape=(1, 96, 40)), table)


class Attend(nn.Module):
    """Attention of one sequence to another by hand, and a feed-forward, as in Perceiver implementations."""

    def __init__(self, width: int, memory: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.memory_norm, self.wide_norm = nn.LayerNorm(width), nn.LayerNorm(memory), nn.LayerNorm(width)
        self.to_q, self.to_kv = nn.Linear(width, width, bias=False), nn.Linear(memory, 2 * width, bias=False)
        self.out, self.wide, self.narrow = (
            nn.Linear(width, width),
            nn.Linear(width, 8 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        b, n, width = x.shape
        q = self.to_q(self.norm(x))
        k, v = self.to_kv(self.memory_norm(memory)).chunk(2, dim=-1)
        q, k, v = (t.reshape(b, -1, self.heads, width // self.heads).permute(0, 2, 1, 3) for t in (q, k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * (width // self.heads) ** -0.5
        mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        x = x + self.out(mixed.permute(0, 2, 1, 3).reshape(b, n, width))
        y, gate = self.wide(self.wide_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.narrow(y * F.gelu(gate))
        return out


def fourier(steps: int, bands: int) -> Tensor:
    """Return Fourier features of the positions of a sequence, [steps, 2 * bands + 1]."""
    place = torch.linspace(-1, 1, steps)[:, None]
    scales = torch.linspace(1, steps / 2, bands) * math.pi
    return torch.cat([(place * scales).sin(), (place * scales).cos(), place], 1)


class Perceiver(nn.Module):
    """Learned latents that read pixels and a spectrogram at once, and then themselves."""

    where: Tensor
    when: Tensor

    def __init__(self, width: int = 96, latents: int = 24) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.register_buffer("where", fourier(256, 8), persistent=False)
        self.register_buffer("when", fourier(64, 8), persistent=False)
        self.pixels, self.bands = nn.Linear(3 + 17, 64), nn.Linear(32 + 17, 64)
        self.kinds = nn.Parameter(torch.randn(2, 64) * 0.02)
        self.read = nn.ModuleList(Attend(width, 64, 1) for _ in range(2))
        self.think = nn.ModuleList(Attend(width, width, 4) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        b = image.shape[0]
        flat = image.flatten(2).transpose(1, 2)
        seen = self.pixels(torch.cat([flat, self.where.expand(b, -1, -1)], -1)) + self.kinds[0]
        heard = self.bands(torch.cat([audio, self.when.expand(b, -1, -1)], -1)) + self.kinds[1]
        memory = torch.cat([seen, heard], 1)
        x = self.latents.unsqueeze(0).repeat(b, 1, 1)
        for number, read in enumerate(self.read):
            x = read(x, memory)
            for think in self.think[2 * number : 2 * number + 2]:
                x = think(x, x)
        logits: Tensor = self.head(self.norm(x.mean(1)))
        return logits


def perceiver() -> Made:
    modalities = tensor("image", shape=(1, 3, 16, 16)), tensor("audio", shape=(1, 64, 32))
    return Perceiver(), described("perceiver", *modalities)


class QFormer(nn.Module):
    """Learned queries beside the words of a question attend to a vision transformer's patches (BLIP-2)."""

    def __init__(self, width: int = 128, queries: int = 8) -> None:
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


def align() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24}
    vision: dict[str, Any] = {
        "image_size": 64, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 128,
        "kernel_sizes": [3, 3, 5],
        "in_channels": [32, 16, 24], "out_channels": [16, 24, 64], "depthwise_padding": [], "strides": [1, 2, 2],
        "num_block_repeats": [1, 2, 2], "expand_ratios": [1, 6, 6],
    }  # fmt: skip
    config = hf.AlignConfig(text_config=text, vision_config=vision, projection_dim=64)
    outputs = tuple(EmbeddingOutput(name=name, size=64) for name in ("image_embeds", "text_embeds"))
    return hf.AlignModel(config), described("align", picture(), words(24), outputs=outputs)


class SoundAndText(Pair):
    """HuBERT's mean over time beside RoBERTa's first token."""

    def forward(self, speech: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        heard = self.first(speech).last_hidden_state.mean(dim=1)
        return self.fused(heard, self.second(input_ids, attention_mask).last_hidden_state[:, 0])


def hubert_roberta() -> Made:
    convolutions: dict[str, Any] = {
        "conv_dim": (64,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    speech = hf.HubertModel(hf.HubertConfig(**SIZE, **convolutions))
    text = hf.RobertaModel(hf.RobertaConfig(**SIZE, vocab_size=1000, max_position_embeddings=32))
    return SoundAndText(speech, text, 256), described("hubert_roberta", tensor("speech", shape=(1, 8000)), words(24))


class FramesAndText(Pair):
    """VideoMAE's mean of patches beside DeBERTa's first token."""

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = self.first(pixel_values).last_hidden_state.mean(1)
        read = self.second(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return self.fused(seen, read)


def videomae_deberta() -> Made:
    video = hf.VideoMAEModel(hf.VideoMAEConfig(**SIZE, image_size=48, patch_size=16, num_frames=4))
    text = hf.DebertaV2Model(hf.DebertaV2Config(**SIZE, vocab_size=1000, max_position_embeddings=24))
    frames = arrays("video", ("pixel_values", "float32", (4, 3, 48, 48)))
    return FramesAndText(video, text, 256), described("videomae_deberta", frames, words(24))


class Document(nn.Module):
    """LayoutLMv3's classification of a page: words, where they stand, and the page itself."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model, self.head = hf.LayoutLMv3Model(config), nn.Linear(128, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, bbox: Tensor, pixel_values: Tensor) -> Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, bbox=bbox, pixel_values=pixel_values)
        logits: Tensor = self.head(found.last_hidden_state[:, 0])
        return logits


def layout_lm() -> Made:
    config = hf.LayoutLMv3Config(
        **SIZE, vocab_size=1000, max_position_embeddings=32, max_2d_position_embeddings=128, coordinate_size=22,
        shape_size=20, input_size=64, patch_size=16,
    )  # fmt: skip
    page = arrays("text", ("input_ids", "int32", (24,)), ("attention_mask", "int32", (24,)), ("bbox", "int32", (24, 4)))
    return Document(config), described("layout_lm", page, picture())


def blip2_retrieval() -> Made:
    former = SIZE | {"vocab_size": 1000, "max_position_embeddings": 24, "encoder_hidden_size": 128}
    config = hf.Blip2Config(
        vision_config=SIZE | PATCHES, qformer_config=former | {"use_qformer_text_input": True}, num_query_tokens=8,
        image_text_hidden_size=64,
    )  # fmt: skip
    outputs = (EmbeddingOutput(name="image_embeds", size=8 * 64), EmbeddingOutput(name="text_embeds", size=64))
    return Retrieval(hf.Blip2ForImageTextRetrieval(config)), described(
        "blip2_retrieval", picture(), words(24), outputs=outputs
    )


class Retrieval(nn.Module):
    """BLIP-2's embeddings of a picture and a text."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask,
            use_image_text_matching_head=False,
        )  # fmt: skip
        return found.image_embeds.flatten(1), found.text_embeds


def bridge_tower() -> Made:
    text = SIZE | {"vocab_size": 1000, "max_position_embeddings": 32}
    vision = {"hidden_size": 128, "num_hidden_layers": 3, "patch_size": 16, "image_size": 64}
    config = hf.BridgeTowerConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, text_config=text, vision_config=vision
    )
    match = ClassOutput(name="logits", labels=("other", "match"))
    model = hf.BridgeTowerForImageAndTextRetrieval(config)
    return model, described("bridge_tower", picture(), words(24), outputs=(match,))


ENTRIES = (
    Entry(mobilenet_lstm, WORDS, ("classifier.3",)),
    Entry(conformer_tabular, {"categories": Ids(7)}, ("head",)),
    Entry(perceiver, {}, ("head",)),
    Entry(q_former, WORDS, ("head",)),
    Entry(align, WORDS, ("text_projection",)),
    Entry(hubert_roberta, WORDS, ("head",)),
    Entry(videomae_deberta, WORDS, ("head",)),
    Entry(layout_lm, {"input_ids": Ids(1000), "attention_mask": Mask(), "bbox": Ids(60)}, ("head",)),
    Entry(blip2_retrieval, WORDS, ("model.text_projection",)),
    Entry(bridge_tower, WORDS, ("itm_score.fc",)),
)
