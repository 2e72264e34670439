"""Heads of attention as people write it: found by what a forward pass computes, and removed, or kept with a reason."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.bundle.manifest import PruningStep
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.prune.multihead import open_one
from edgefuse.prune.persist import restore, save
from edgefuse.prune.pruner import Verdict, apply_steps
from edgefuse.prune.trial import try_widths
from edgefuse.stages.stage import TorchStage

WIDTH, HEADS = 32, 4
Styled = Callable[[], nn.Module]


def step(method: str, ratio: float = 0.5) -> PruningStep:
    return PruningStep(method=method, ratio=ratio)


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


def _heads(verdicts: tuple[Verdict, ...]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.kind == "heads"]


@pytest.mark.parametrize("style", STYLES)
def test_heads_of_every_style_can_be_removed_and_so_can_everything_else(stage_of: Any, style: str) -> None:
    verdicts = try_widths(stage_of(STYLES[style](), (1, 7, 6)))
    heads = _heads(verdicts)
    assert [verdict.size for verdict in heads] == [HEADS] * (1 if style == "FromTheStream" else 2)
    # Only the width of the feature, which is the stage's interface, stays.
    assert [verdict.name for verdict in verdicts if not verdict.narrows] == ["head"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", ["hidden", "structured"])
def test_a_stage_with_half_of_its_heads_runs_comes_back_and_lowers(
    stage_of: Any, examples_of: Any, style: str, method: str
) -> None:
    stage = stage_of(STYLES[style](), (1, 7, 6))
    before = sum(p.numel() for p in stage.module.parameters())
    pruned = apply_steps(stage, [step(method)], examples_of(stage))
    share = sum(p.numel() for p in pruned.parameters()) / before
    assert share < (0.6 if method == "hidden" else 0.4)
    inputs, (expected,) = examples_of(stage).batch(range(5))
    with torch.no_grad():
        assert pruned(*inputs).shape == expected.shape
        again = restore(stage.module, save(pruned))
        assert torch.equal(again(*inputs), pruned(*inputs))
        assert again.training is False
    assert save(again) == save(pruned)
    OnnxTarget().lower(TorchStage(stage.spec, pruned))  # compares the file with torch


@pytest.mark.parametrize(
    ("style", "method"),
    [
        ("SplitByWidth", "structured"),
        ("SplitByWidth", "hidden"),
        ("Torch", "structured"),
        ("FromTheStream", "structured"),
        ("FromTheStream", "hidden"),
    ],
)
def test_it_lowers_to_tflite(stage_of: Any, examples_of: Any, style: str, method: str) -> None:
    stage = stage_of(STYLES[style](), (1, 7, 6))
    pruned = apply_steps(stage, [step(method)], examples_of(stage))
    TfliteTarget().lower(TorchStage(stage.spec, pruned))


class SharedKeys(nn.Module):
    """Two heads look at the keys and values of one (grouped queries)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q = self.q(x).view(b, t, HEADS, d // HEADS).transpose(1, 2)
        k, v = self.kv(x).view(b, t, 2, 2, 8).permute(2, 0, 3, 1, 4).repeat_interleave(2, dim=2)
        y = functional.scaled_dot_product_attention(q, k, v)
        z: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return z


class Biased(Reshaped):
    """Each head adds a bias of its own to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(HEADS, 7, 7))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.table)
        z: Tensor = self.proj(y.transpose(1, 2).reshape(b, n, c))
        return z


class Jointly(SplitByWidth):
    """The queries of all heads are normalised together: a head less changes the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(c, dim=2)
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in (self.norm(q), k, v))
        y = functional.scaled_dot_product_attention(q, k, v)
        z: Tensor = self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return z


class Tied(SplitByWidth):
    """Another layer uses the weights of the reading one."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)
        self.again.weight = self.c_proj.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(super().forward(x))
        return y


KEPT = {
    SharedKeys: "its heads do not have rows and columns of linear layers to themselves",
    Biased: "The size of tensor",
    Jointly: "its heads do not have rows and columns of linear layers to themselves",
    Tied: "shares its weights with another layer",
}


@pytest.mark.parametrize("style", KEPT)
def test_heads_that_cannot_go_stay_with_a_reason_and_the_rest_is_pruned(
    stage_of: Any, examples_of: Any, style: type[nn.Module]
) -> None:
    stage = stage_of(Encoder(style), (1, 7, 6))
    if style is Tied:
        for mixer in stage.module.mixers:
            mixer.again.weight = mixer.c_proj.weight
    verdicts = try_widths(stage)
    assert [verdict.narrows for verdict in _heads(verdicts)] == [False, False]
    for verdict, name in zip(_heads(verdicts), ("mixers.0", "mixers.1"), strict=True):
        assert verdict.reason.startswith(f"'{name}' keeps its 4 heads: ")
        assert KEPT[style] in verdict.reason
    assert [v.name for v in verdicts if v.kind == "channels" and v.hidden and v.narrows] == ["mlps.1.1", "mlps.0.1"]
    pruned: Any = apply_steps(stage, [step("structured")], examples_of(stage))
    inputs, (expected,) = examples_of(stage).batch(range(5))
    assert pruned(*inputs).shape == expected.shape
    # The stream goes through attention as well: its views no longer take their sizes from it.
    assert pruned.enter.out_features == (WIDTH if style is Tied else WIDTH // 2)
    assert pruned.mlps[0][1].out_features == 32


class Cross(nn.Module):
    """Two streams look at each other through nn.MultiheadAttention with masks; one of the inputs has fewer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)
        self.mixer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x[:, :4])
        mask = torch.zeros(7, 4, dtype=torch.bool)
        mask[0, 1] = True
        padding = x[:, :4, 0] > 10
        y = left + self.mixer(left, right, right, key_padding_mask=padding, attn_mask=mask)[0]
        z: Tensor = self.head(y.mean(dim=1))
        return z


def test_cross_attention_of_torch_loses_heads_and_width(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Cross(), (1, 7, 6))
    pruned: Any = apply_steps(stage, [step("structured")], examples_of(stage))
    assert pruned.mixer.in_proj_weight.shape == (3 * 16, 16)
    assert pruned.left.out_features == pruned.right.out_features == 16
    inputs, (expected,) = examples_of(stage).batch(range(5))
    with torch.no_grad():
        assert pruned(*inputs).shape == expected.shape


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_an_opened_attention_answers_as_torchs_own_does(batch_first: bool, alone: bool, own: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x, y = torch.randn(3, 3, 16), torch.randn(3, 3, 16)
    x, y = (x[0], y[0]) if alone else (x, y)
    query, key, value = (x, x, x) if own else (x, y, y.clone())
    mask = torch.ones(3, 3).triu(1).bool()
    padding = torch.tensor([False, False, True])
    masks: dict[str, Any] = {"attn_mask": mask, "key_padding_mask": padding if alone else padding.expand(3, 3)}
    with torch.no_grad():
        expected = whole(query, key, value, **masks)
        open_one(whole)
        got = whole(query, key, value, **masks)
    torch.testing.assert_close(got, expected)


def test_what_is_pruned_twice_and_copied_runs(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(FromTheStream(), (1, 7, 6))
    pruned: Any = apply_steps(stage, [step("hidden"), step("structured"), step("structured", 0.0)], examples_of(stage))
    assert pruned.qkv.weight.shape == (3 * 8, 16)
    inputs, _ = examples_of(stage).batch(range(5))
    with torch.no_grad():
        expected = pruned(*inputs)
        for other in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), restore(stage.module, save(pruned))):
            assert torch.equal(other(*inputs), expected)
    assert type(pruned).__name__ == "FromTheStream"
    assert isinstance(pruned, FromTheStream)


class Stubborn(nn.Module):
    """One width of three is a constant in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.fixed, self.free = nn.Linear(6, 40), nn.Linear(40, 32), nn.Linear(32, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fixed(torch.relu(self.enter(x))).reshape(-1, 4, 8).transpose(1, 2).reshape(-1, 32)
        z: Tensor = self.head(torch.relu(self.free(y)))
        return z


@pytest.mark.parametrize("method", ["hidden", "structured"])
def test_a_width_that_is_a_constant_stays_and_the_others_are_narrowed(
    stage_of: Any, examples_of: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_of(Stubborn(), (1, 6))
    pruned: Any = apply_steps(stage, [step(method)], examples_of(stage))
    assert (pruned.enter.out_features, pruned.fixed.out_features, pruned.free.out_features) == (24, 32, 24)
    stuck = [verdict for verdict in try_widths(stage) if verdict.is_stuck]
    assert [(verdict.name, verdict.size) for verdict in stuck] == [("fixed", 32)]
    assert stuck[0].reason in caplog.text
    assert (
        "'fixed' keeps its 32 channels: with fewer the stage does not run, or not right "
        "(RuntimeError: shape '[-1, 4, 8]'" in caplog.text
    )


class Shuffled(nn.Module):
    """Channels change places by a view that would run with fewer of them, and take others for those that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.head = nn.Linear(6, 32), nn.Linear(32, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.enter(x))
        y = y.view(len(x), 4, -1).transpose(1, 2).reshape(len(x), -1)
        z: Tensor = self.head(torch.relu(self.middle(y)))
        return z


def test_a_width_that_runs_narrower_but_wrong_stays(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Shuffled(), (1, 6))
    (stuck,) = [verdict for verdict in try_widths(stage) if verdict.is_stuck]
    assert stuck.name == "enter"
    assert "it takes other channels for those that are left" in stuck.reason
    pruned: Any = apply_steps(stage, [step("structured")], examples_of(stage))
    assert (pruned.enter.out_features, pruned.middle.out_features) == (32, 24)
