"""Heads of attention as people write it: found by what a forward pass computes, and removed, or kept with a reason."""

from __future__ import annotations

import copy
import pickle
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
from tests.prune.attentions import HEADS, STYLES, WIDTH, Encoder, FromTheStream, Reshaped, SplitByWidth


def step(method: str, ratio: float = 0.5) -> PruningStep:
    return PruningStep(method=method, ratio=ratio)


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
@pytest.mark.parametrize("method", [pytest.param("hidden", marks=pytest.mark.exhaustive), "structured"])
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
        ("FromTheStream", "hidden"),
        *(
            pytest.param(style, method, marks=pytest.mark.exhaustive)
            for style, method in [
                ("SplitByWidth", "hidden"),
                ("Torch", "structured"),
                ("FromTheStream", "structured"),
            ]
        ),
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


class Padded(nn.Module):
    """Torch's own encoder as it comes, under a mask of what is padded: in eval mode it packs the rest by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, WIDTH)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True), 2)
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        absent = (torch.arange(x.shape[1]) > 4).expand(x.shape[0], -1)
        y: Tensor = self.layers(self.enter(x), src_key_padding_mask=absent)
        return self.head(y[:, 0])  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_torchs_encoder_is_pruned_under_a_mask_of_what_is_padded(stage_of: Any, examples_of: Any) -> None:
    stage = stage_of(Padded(), (1, 7, 6))
    pruned: Any = apply_steps(stage, [step("structured")], examples_of(stage))
    assert pruned.layers.layers[0].linear1.out_features == 32
    assert pruned.layers.layers[1].self_attn.heads == HEADS // 2
    inputs, (expected,) = examples_of(stage).batch(range(5))
    with torch.no_grad():
        assert pruned(*inputs).shape == expected.shape
        assert torch.equal(restore(stage.module, save(pruned))(*inputs), pruned(*inputs))


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
