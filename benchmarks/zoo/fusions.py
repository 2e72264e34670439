"""Ways to fuse sequences: scales and shifts, gates, outer products, attention across, bottlenecks, shared encoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn

from benchmarks.zoo.entry import LABELS, Entry, Ids, arrays, described
from benchmarks.zoo.transformers_models import Made
from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, Modality, ValuesOutput, tensor

WIDTH = 192


def sequence(name: str, steps: int, width: int) -> Modality:
    """Describe a sequence of features."""
    return tensor(name, shape=(1, steps, width))


class Encoder(nn.Module):
    """A transformer of torch's own layers over a sequence."""

    def __init__(self, width_in: int, width: int = WIDTH, layers: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(width_in, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(self.enter(x))
        return y


class Film(nn.Module):
    """A question scales and shifts every block of a picture's residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.question = nn.Embedding(500, 64), nn.GRU(64, 128, batch_first=True)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU()
        )
        self.blocks = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(64, affine=False) for _ in range(3))
        self.conditions = nn.ModuleList(nn.Linear(128, 128) for _ in range(3))
        self.head = nn.Linear(64, 8)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        state = self.question(self.table(ids))[0][:, -1]
        x = self.stem(pixels)
        for block, norm, condition in zip(self.blocks, self.norms, self.conditions, strict=True):
            scale, shift = condition(state)[:, :, None, None].chunk(2, 1)
            x = x + F.relu(norm(block(x)) * (1 + scale) + shift)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits


def film() -> Made:
    picture = arrays("image", ("pixels", "float32", (3, 128, 128)))
    return Film(), described("film", picture, arrays("question", ("ids", "int32", (16,))))


class Gated(nn.Module):
    """A gated multimodal unit: a sigmoid of both decides how much each is worth."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.motion = Encoder(40), Encoder(24)
        self.left, self.right, self.gate = (nn.Linear(size, WIDTH) for size in (WIDTH, WIDTH, 2 * WIDTH))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        heard, felt = self.sound(sound).mean(1), self.motion(motion).mean(1)
        gate = torch.sigmoid(self.gate(torch.cat([heard, felt], 1)))
        logits: Tensor = self.head(gate * torch.tanh(self.left(heard)) + (1 - gate) * torch.tanh(self.right(felt)))
        return logits


def gated_fusion() -> Made:
    return Gated(), described("gated_fusion", sequence("sound", 48, 40), sequence("motion", 32, 24))


class TensorFusion(nn.Module):
    """The outer product of three vectors, each with a one appended (tensor fusion networks)."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.LSTM(300, 128, batch_first=True)
        self.audio = nn.Sequential(nn.Linear(74, 128), nn.ReLU(), nn.Linear(128, 16))
        self.video = nn.Sequential(nn.Linear(35, 128), nn.ReLU(), nn.Linear(128, 16))
        self.narrow, self.hidden, self.head = nn.Linear(128, 32), nn.Linear(33 * 17 * 17, 128), nn.Linear(128, 8)

    def forward(self, text: Tensor, audio: Tensor, video: Tensor) -> Tensor:
        read = self.narrow(self.text(text)[1][0][0])
        one = torch.ones_like(read[:, :1])
        parts = (read, self.audio(audio.mean(1)), self.video(video.mean(1)))
        a, b, c = (torch.cat([one, part], 1) for part in parts)
        cube = torch.einsum("bi,bj,bk->bijk", a, b, c).flatten(1)
        logits: Tensor = self.head(self.hidden(cube).relu())
        return logits


def tensor_fusion() -> Made:
    modalities = (sequence("text", 50, 300), sequence("audio", 50, 74), sequence("video", 50, 35))
    return TensorFusion(), described("tensor_fusion", *modalities)


class Across(nn.Module):
    """Layers in which one sequence attends to another."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(layers))
        self.wide = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 * layers))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        for place, (attention, wide, narrow) in enumerate(zip(self.attention, self.wide, self.narrow, strict=True)):
            memory = self.norms[3 * place + 1](other)
            x = x + attention(self.norms[3 * place](x), memory, memory, need_weights=False)[0]
            x = x + narrow(wide(self.norms[3 * place + 2](x)).relu())
        return x


class CrossModal(nn.Module):
    """Three sequences, each of which attends to both others, and then to itself (MulT)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.enter = nn.ModuleDict(
            {name: nn.Conv1d(size, width, 3, padding=1) for name, size in (("text", 64), ("audio", 74), ("video", 35))}
        )
        names = tuple(self.enter)
        self.pairs = nn.ModuleDict({f"{a}_{b}": Across(width, 4) for a in names for b in names if a != b})
        self.memories = nn.ModuleDict({name: Encoder(2 * width, 2 * width, 1) for name in names})
        self.hidden, self.head = nn.Linear(6 * width, 6 * width), nn.Linear(6 * width, 8)

    def forward(self, text: Tensor, audio: Tensor, video: Tensor) -> Tensor:
        given = {"text": text, "audio": audio, "video": video}
        entered = {name: layer(given[name].transpose(1, 2)).transpose(1, 2) for name, layer in self.enter.items()}
        ends = []
        for a, memory in self.memories.items():
            seen = torch.cat([self.pairs[f"{a}_{b}"](entered[a], entered[b]) for b in entered if b != a], 2)
            ends.append(memory(seen)[:, -1])
        fused = torch.cat(ends, 1)
        logits: Tensor = self.head(fused + self.hidden(fused).relu())
        return logits


def cross_modal_transformer() -> Made:
    modalities = (sequence("text", 20, 64), sequence("audio", 50, 74), sequence("video", 30, 35))
    return CrossModal(), described("cross_modal_transformer", *modalities)


class Bottleneck(nn.Module):
    """Two transformers that exchange what fits into four tokens, layer by layer (attention bottlenecks)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.image, self.audio = nn.Conv2d(3, width, 16, 16), nn.Linear(128, width)
        self.alone = nn.ModuleList(self._layer(width) for _ in range(2))
        self.shared = nn.Parameter(torch.randn(1, 4, width))
        self.layers = nn.ModuleList(self._layer(width) for _ in range(4))
        self.head = nn.Linear(2 * width, 8)

    @staticmethod
    def _layer(width: int) -> nn.Module:
        return nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True, activation="gelu")

    def forward(self, pixels: Tensor, spectrogram: Tensor) -> Tensor:
        seen = self.alone[0](self.image(pixels).flatten(2).transpose(1, 2))
        heard = self.alone[1](self.audio(spectrogram))
        shared = self.shared.expand(len(pixels), -1, -1)
        for left, right in zip(self.layers[::2], self.layers[1::2], strict=True):
            first = left(torch.cat([seen, shared], 1))
            second = right(torch.cat([heard, shared], 1))
            seen, heard = first[:, :-4], second[:, :-4]
            shared = (first[:, -4:] + second[:, -4:]) / 2
        logits: Tensor = self.head(torch.cat([seen.mean(1), heard.mean(1)], 1))
        return logits


def bottleneck_fusion() -> Made:
    picture = arrays("image", ("pixels", "float32", (3, 96, 96)))
    sound = arrays("audio", ("spectrogram", "float32", (48, 128)))
    return Bottleneck(), described("bottleneck_fusion", picture, sound)


class Siamese(nn.Module):
    """One encoder for both pictures, and a verdict on what differs."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in ((3, 32), (32, 64), (64, 128), (128, 128)):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64))
        self.hidden, self.head = nn.Linear(128, 64), nn.Linear(64, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.encoder(left), self.encoder(right)
        logits: Tensor = self.head(self.hidden(torch.cat([(a - b).abs(), a * b], 1)).relu())
        return logits


def siamese() -> Made:
    pictures = [tensor(name, shape=(1, 3, 128, 128)) for name in ("left", "right")]
    return Siamese(), described("siamese", *pictures, outputs=(ClassOutput(labels=("other", "same")),))


class TwoHeads(nn.Module):
    """What it is, how much of it, and an embedding to find it by; as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 96, 3, 2, 1)
        )
        self.signal, self.trunk = Encoder(40), nn.Linear(96 + WIDTH, 128)
        self.classes, self.amounts, self.space = nn.Linear(128, 8), nn.Linear(128, 2), nn.Linear(96, 32)

    def forward(self, picture: Tensor, signal: Tensor) -> dict[str, Tensor]:
        seen = self.picture(picture).mean((2, 3))
        trunk = self.trunk(torch.cat([seen, self.signal(signal).mean(1)], 1)).relu()
        embedding = F.normalize(self.space(seen), dim=1)
        return {"logits": self.classes(trunk), "amounts": self.amounts(trunk), "embedding": embedding}


def two_heads() -> Made:
    outputs = (LABELS, ValuesOutput(name="amounts", labels=("mass", "volume")), EmbeddingOutput(size=32))
    modalities = (tensor("picture", shape=(1, 3, 128, 128)), sequence("signal", 48, 40))
    return TwoHeads(), described("two_heads", *modalities, outputs=outputs)


class Block(nn.Module):
    """A block with one matrix for query, key and value, as nanoGPT writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = self.qkv(self.before(x)).split(width, dim=2)
        q, k, v = (y.view(batch, steps, self.heads, width // self.heads).transpose(1, 2) for y in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(batch, steps, width))
        y: Tensor = x + self.narrow(F.gelu(self.wide(self.after(x))))
        return y


class Blocks(nn.Module):
    """Sound and words in blocks of their own, and one over both."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.audio, self.table = nn.Linear(40, width), nn.Embedding(500, width)
        self.heard, self.read = (nn.Sequential(*(Block(width, 4) for _ in range(2))) for _ in range(2))
        self.fusion, self.norm, self.head = Block(width, 4), nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, audio: Tensor, ids: Tensor) -> Tensor:
        x = torch.cat([self.heard(self.audio(audio)), self.read(self.table(ids))], 1)
        logits: Tensor = self.head(self.norm(self.fusion(x)).mean(1))
        return logits


def plain_blocks() -> Made:
    return Blocks(), described("plain_blocks", sequence("audio", 64, 40), arrays("text", ("ids", "int32", (24,))))


ENTRIES = (
    Entry(film, {"ids": Ids(500)}, ("head",)),
    Entry(gated_fusion, {}, ("head",)),
    Entry(tensor_fusion, {}, ("head",)),
    Entry(cross_modal_transformer, {}, ("head",)),
    Entry(bottleneck_fusion, {}, ("head",)),
    Entry(siamese, {}, ("head",)),
    Entry(two_heads, {}, ("classes",)),
    Entry(plain_blocks, {"ids": Ids(500)}, ("head",)),
)
