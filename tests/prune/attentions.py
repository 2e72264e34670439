"""Attention as people write it: a block in every style, and a small encoder around two of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS = 32, 4
Styled = Callable[[], nn.Module]


class SplitByWidth(nn.Module):
    """nanoGPT: one projection, split by the width of the stream, heads by that width over their number."""

    fused = True

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.n_head, self.n_embd = HEADS, WIDTH
        self.register_buffer("bias", torch.tril(torch.ones(24, 24)).view(1, 1, 24, 24))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (y.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for y in (q, k, v))
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.get_buffer("bias")[:, :, :t, :t] == 0, float("-inf"))
            y = functional.softmax(scores, dim=-1) @ v
        z: Tensor = self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return z


class SplitByWidthSpelledOut(SplitByWidth):
    fused = False


class Reshaped(nn.Module):
    """timm: one projection, reshaped to three times the heads, and back to the width of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = HEADS, WIDTH // HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.q_norm, self.k_norm = nn.LayerNorm(WIDTH // HEADS), nn.LayerNorm(WIDTH // HEADS)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q) * self.scale, self.k_norm(k)
        x = self.drop((q @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        z: Tensor = self.proj(x.transpose(1, 2).reshape(b, n, c))
        return z


class Own(nn.Module):
    """Hugging Face's BERT: three projections, sizes in attributes, the reading layer in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = HEADS, WIDTH // HEADS, WIDTH
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def parts(y: Tensor) -> Tensor:
            return y.view(*y.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

        q, k, v = parts(self.query(x)), parts(self.key(x)), parts(self.value(x))
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention_head_size), dim=-1)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        return y.view((*y.shape[:-2], self.all_head_size)), weights


class ReadElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = Own()
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.dense(self.self(x)[0])
        return z


class LeftToTheView(nn.Module):
    """Hugging Face's CLIP: views that find the number of heads by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = WIDTH, HEADS, WIDTH // HEADS
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        y = functional.scaled_dot_product_attention(q, k, v)
        z: Tensor = self.out_proj(y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())
        return z


class InTheBatch(nn.Module):
    """fairseq: heads are folded into the batch, time comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        t, b, c = x.size()
        q = self.q_proj(x) * (c // HEADS) ** -0.5
        q, k, v = (
            y.contiguous().view(t, b * HEADS, WIDTH // HEADS).transpose(0, 1)
            for y in (q, self.k_proj(x), self.v_proj(x))
        )
        y = torch.bmm(functional.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)
        z: Tensor = self.out_proj(y.transpose(0, 1).contiguous().view(t, b, WIDTH)).transpose(0, 1)
        return z


class Constants(nn.Module):
    """Heads are constants, and lie between queries, keys and values of one head each (GPT-NeoX)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 96), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 4, 24).transpose(1, 2).chunk(3, dim=-1)
        y = functional.scaled_dot_product_attention(_rotated(q), _rotated(k), v)
        z: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return z


def _rotated(x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-2]).float()[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)


class Sliced(nn.Module):
    """Queries, keys and values are cut out; heads by Einstein's sums over the last axis but one."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        qkv = self.to_qkv(x)
        q, k, v = (y.unflatten(-1, (HEADS, -1)) for y in (qkv[..., :d], qkv[..., d : 2 * d], qkv[..., 2 * d :]))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(d // HEADS)
        y = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
        z: Tensor = self.to_out(y.flatten(2))
        return z


class Torch(nn.Module):
    """nn.MultiheadAttention, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.inner(x, x, x, need_weights=False)[0].transpose(0, 1)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Frames [B, T, 6] through two blocks around an attention to a feature [B, 5]."""

    def __init__(self, style: Styled) -> None:
        super().__init__()
        self.enter = nn.Linear(6, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mixers = nn.ModuleList(style() for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm, mixer, mlp in zip(self.norms, self.mixers, self.mlps, strict=True):
            x = x + mixer(norm(x))
            x = x + mlp(x)
        y: Tensor = self.head(x.mean(dim=1))
        return y


class FromTheStream(nn.Module):
    """Attention without a module of its own, all of whose sizes are those of the stream that it adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, WIDTH)
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        y: Tensor = self.head((x + self.mlp(x)).mean(dim=1))
        return y


class InTorchsLayers(nn.Module):
    """Torch's own encoder layers; its eval mode computes each of them at once."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, norm_first=True)
        self.enter, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layers(self.enter(x)).mean(dim=1))
        return y


STYLES: dict[str, Styled] = {
    **{
        style.__name__: lambda style=style: Encoder(style)  # type: ignore[misc]
        for style in (
            SplitByWidth, SplitByWidthSpelledOut, Reshaped, ReadElsewhere, LeftToTheView, InTheBatch, Constants, Sliced,
            Torch,
        )
    },
    "FromTheStream": FromTheStream,
    "InTorchsLayers": InTorchsLayers,
}  # fmt: skip
