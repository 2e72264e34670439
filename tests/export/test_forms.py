"""Forms of operators that exporters lack, unroll or get wrong: each computes what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.bundle import spec
from edgefuse.export.torch.forms import ALL, apply_forms
from edgefuse.export.torch.tables import without_projections
from edgefuse.registry import create
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.running import run_torch

aten = torch.ops.aten
WINDOW = torch.hann_window(40)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


class Calls(nn.Module):
    """Calls a function with its parts and an input."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(*self.parts, x)


def short_time(x: Tensor, **options: Any) -> Tensor:
    return torch.stft(x, 40, 16, window=WINDOW, return_complex=True, **options)


def back(spectrum: Tensor, **options: Any) -> Tensor:
    return torch.istft(spectrum, 40, 16, window=WINDOW, **options)


def steps_of(x: Tensor) -> Tensor:
    """Return which of seven places each number of a sequence goes to."""
    return (x.abs() * 3).clamp(max=6).long()


def reduced(x: Tensor, way: str) -> Tensor:
    """Return what a reduction leaves with what was there, and without; the second place gets nothing."""
    shared = (torch.arange(30) % 5 * 2).unsqueeze(-1).expand_as(x)
    before = torch.full((1, 9, 4), 0.5)
    one = before.scatter_reduce(1, shared, x, way, include_self=False)
    other = before.scatter_reduce(1, steps_of(x[:, :20]), x, way)
    return torch.cat([one, other], 1)


TURNS = torch.polar(torch.ones(40, 2), torch.arange(80.0).reshape(40, 2))


def rotated(x: Tensor) -> Tensor:
    """Turn pairs of a sequence by a table of complex numbers, as rotary positions are first written."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * TURNS[: x.shape[1]][None]).flatten(2)


class Spectral(nn.Module):
    """Mixes channels of each frequency by complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("bki,io->bko", torch.fft.rfft(x, dim=1), self.weight)
        found: Tensor = torch.fft.irfft(mixed, n=30, dim=1)
        return found


def filtered(x: Tensor) -> Tensor:
    """Keep the low frequencies, put into zeros as operators of Fourier layers (arXiv:2010.08895) are written."""
    spectrum = torch.fft.rfft(x, n=60, dim=1)
    low = torch.zeros(x.shape[0], 31, 4, dtype=torch.cfloat)
    low[:, :7] = spectrum[:, :7] * 2
    high = torch.zeros_like(low)
    high[:, -3] = spectrum[:, -3].conj()
    joined = torch.cat([low + high, torch.where(x[:, :1] > 0, low, high)], 2)
    found: Tensor = torch.fft.irfft(joined, n=60, dim=1)
    return found


def matrices(x: Tensor, size: int) -> Tensor:
    """Return well-conditioned matrices [1, matrices, size, size] of what a sequence holds."""
    count = x.numel() // size**2
    return x.flatten()[: count * size**2].reshape(1, count, size, size) + 4 * torch.eye(size)


def turned(x: Tensor) -> Tensor:
    """Return pairs of channels turned by angles that grow with the step, as positions of transformers are written."""
    angles = torch.polar(torch.ones(30, 2), torch.arange(60.0).reshape(30, 2))
    pairs: Tensor = torch.view_as_real(torch.view_as_complex(x.reshape(1, 30, 2, 2)) * angles)
    return pairs.flatten(2)


IMAGE, SEQUENCE, SAMPLES, IDS, VOLUME = (1, 3, 13, 18), (1, 30, 4), (1, 400), (1, 6), (1, 4, 7, 9, 10)
BAGS: dict[str, dict[str, Any]] = {
    "sum": {"mode": "sum"},
    "mean": {"mode": "mean"},
    "max": {"mode": "max"},
    "mean without padding": {"mode": "mean", "padding_idx": 0},
    "max without padding": {"mode": "max", "padding_idx": 0},
}
TURNED: dict[str, dict[str, Any]] = {
    "output padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "more added than cut": {"kernel_size": 5, "stride": 3, "padding": 0, "output_padding": (2, 1)},
    "groups": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 3},
}
UNEVEN: dict[str, dict[str, Any]] = {
    "sum": {"mode": "sum"},
    "mean, an empty one": {"mode": "mean"},
    "mean without padding": {"mode": "mean", "padding_idx": 0},
    "max, an empty one": {"mode": "max"},
    "sum up to the end": {"mode": "sum", "include_last_offset": True},
}
DILATED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "dilated": (IMAGE, lambda: nn.ConvTranspose2d(3, 6, 3, 2, 1, dilation=2)),
    "dilated, in groups": (IMAGE, lambda: nn.ConvTranspose2d(3, 6, (3, 2), 2, groups=3, dilation=(2, 3), bias=False)),
    "dilated, more added than kept": (IMAGE, lambda: nn.ConvTranspose2d(3, 2, 2, 3, 4, 2, dilation=3)),
    "dilated steps": (SEQUENCE, lambda: nn.ConvTranspose1d(30, 4, 3, 2, dilation=2)),
    "volumes": (VOLUME, lambda: nn.ConvTranspose3d(4, 6, 3, 2, 1, 1)),
    "volumes twice as large": (VOLUME, lambda: nn.ConvTranspose3d(4, 2, 2, 2)),
    "volumes, in groups": (VOLUME, lambda: nn.ConvTranspose3d(4, 6, 2, (2, 1, 1), groups=2, dilation=(1, 2, 1))),
}
CASES: dict[str, tuple[tuple[int, ...], Callable[..., Any], tuple[Callable[[], nn.Module], ...]]] = {
    "mean of unequal regions": (IMAGE, lambda x: functional.adaptive_avg_pool2d(x, (3, 5)), ()),
    "mean of steps": (SEQUENCE, lambda x: functional.adaptive_avg_pool1d(x.mT, 7), ()),
    "maximum of regions": (IMAGE, lambda x: functional.adaptive_max_pool2d(x, (4, 6)), ()),
    "maximum of steps": (SEQUENCE, lambda x: functional.adaptive_max_pool1d(x.mT, 7), ()),
    "maximum of all": (IMAGE, lambda x: functional.adaptive_max_pool2d(x, 1), ()),
    "nearest, larger": (IMAGE, lambda x: functional.interpolate(x, size=(25, 35), mode="nearest"), ()),
    "nearest, smaller": (IMAGE, lambda x: functional.interpolate(x, size=(7, 5), mode="nearest"), ()),
    "nearest, exact": (IMAGE, lambda x: functional.interpolate(x, size=(25, 35), mode="nearest-exact"), ()),
    "nearest, scaled": (IMAGE, lambda x: functional.interpolate(x, scale_factor=1.7, mode="nearest"), ()),
    "nearest steps": (SEQUENCE, lambda x: functional.interpolate(x, size=7, mode="nearest"), ()),
    "reflected": (SAMPLES, lambda x: functional.pad(x.unsqueeze(1), (7, 9), mode="reflect"), ()),
    "cat of types": (SEQUENCE, lambda x: torch.cat([x[..., 0], (x[..., 1] > 0).long(), x[..., 2] > 0], 1), ()),
    "stack of types": (SEQUENCE, lambda x: torch.stack([x[..., 0], (x[..., 1] > 0).int()], 1), ()),
    "eye": ((1, 6, 6), lambda x: x.masked_fill(torch.eye(6, dtype=torch.bool), 0) + torch.eye(6), ()),
    "sort": (SEQUENCE, lambda x: torch.sort(x, dim=1).values, ()),
    "sort, falling, places": (SEQUENCE, lambda x: x.gather(2, torch.sort(x, dim=2, descending=True)[1]), ()),
    "argsort": (SEQUENCE, lambda x: torch.argsort(x, dim=1).float(), ()),
    "quantile": (SEQUENCE, lambda x: torch.quantile(x, 0.9, dim=1), ()),
    "quantiles": (
        SEQUENCE,
        lambda x: torch.quantile(x, torch.tensor([0.1, 0.5]), dim=1, keepdim=True).movedim(0, 1),
        (),
    ),
    "median": (SEQUENCE, lambda x: x.median(1).values, ()),
    "kth value": (SEQUENCE, lambda x: x.kthvalue(3, 1).values, ()),
    "topk of columns": (SEQUENCE, lambda x: x.topk(2).values, ()),
    "topk of rows": (SEQUENCE, lambda x: x.topk(4, 1).values, ()),
    "power of a spectrum": (SAMPLES, lambda x: short_time(x).abs() ** 2, ()),
    "size of a spectrum": (SAMPLES, lambda x: short_time(x, center=False, normalized=True).abs(), ()),
    "parts of a spectrum": (SAMPLES, lambda x: torch.view_as_real(short_time(x, onesided=False)).sum(-1), ()),
    "product of spectra": (SAMPLES, lambda x: ((z := short_time(x)) * z.conj() * 2).real, ()),
    "angle": (SAMPLES, lambda x: short_time(x).transpose(1, 2).angle()[..., 1:-1].cos(), ()),
    "rfft": (SEQUENCE, lambda x: torch.fft.rfft(x, dim=1, norm="ortho").abs(), ()),
    "samples of a spectrum": (SAMPLES, lambda x: back(short_time(x) * 0.5), ()),
    "so many samples of a spectrum": (SAMPLES, lambda x: back(short_time(x)[0], length=390)[None], ()),
    "samples of two sides": (
        SAMPLES,
        lambda x: back(short_time(x, onesided=False, normalized=True), onesided=False, normalized=True),
        (),
    ),
    "irfft of some": (SEQUENCE, lambda x: torch.fft.irfft(torch.complex(x, x.flip(1)), n=57, dim=1), ()),
    "fft, filled up": (SEQUENCE, lambda x: torch.fft.ifft(torch.fft.rfft(x, n=40, dim=1), n=25, dim=1).imag, ()),
    "spectra of two axes": (SEQUENCE, lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * 2), ()),
    "spectra of spectra": (SEQUENCE, lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, ()),
    "low frequencies": (SEQUENCE, filtered, ()),
    "inverse of two rows": (SEQUENCE, lambda x: torch.linalg.inv(matrices(x, 2)), ()),
    "inverse of three rows": (SEQUENCE, lambda x: torch.inverse(matrices(x, 3)), ()),
    "inverse of four rows": (SEQUENCE, lambda x: torch.linalg.inv(matrices(x, 4)), ()),
    "complex weights": (SEQUENCE, lambda part, x: part(x), (Spectral,)),
    "turned positions": (SEQUENCE, turned, ()),
    "mean of unequal regions of a volume": (VOLUME, lambda x: functional.adaptive_avg_pool3d(x, (3, 5, 4)), ()),
    "mean of equal regions of a volume": (VOLUME, lambda x: functional.adaptive_avg_pool3d(x, (7, 3, 5)), ()),
    "maximum of regions of a volume": (VOLUME, lambda x: functional.adaptive_max_pool3d(x, (3, 3, 4)), ()),
    "groups of a volume": (VOLUME, lambda part, x: part(x), (lambda: nn.Conv3d(4, 6, 2, groups=2),)),
    "bilinear, scaled": (IMAGE, lambda x: functional.interpolate(x, scale_factor=0.6, mode="bilinear"), ()),
    "bilinear, smoothed": (IMAGE, lambda x: functional.interpolate(x, (7, 5), mode="bilinear", antialias=True), ()),
    "bicubic": (IMAGE, lambda x: functional.interpolate(x, (7, 25), mode="bicubic", align_corners=True), ()),
    "added at an index": (SEQUENCE, lambda x: torch.zeros(1, 7, 4).scatter_add_(1, steps_of(x), x), ()),
    "slices added": (SEQUENCE, lambda x: torch.ones(1, 4, 9).index_add(-1, torch.arange(30) % 7, x.mT, alpha=2), ()),
    "rows of ones and zeros": (IDS, lambda x: functional.one_hot(x.long(), 9).float(), ()),
}
for name in ("sum", "mean", "amax", "amin"):
    CASES[f"{name} at an index"] = (SEQUENCE, lambda x, name=name: reduced(x, name), ())
for name, (shape, part) in DILATED.items():
    CASES[f"transposed, {name}"] = (shape, lambda c, x: c(x), (part,))
for name, options in UNEVEN.items():
    offsets = torch.tensor([0, 2, 2, 3] + [6] * ("include_last_offset" in options))
    CASES[f"uneven bag, {name}"] = (
        IDS,
        lambda b, x, offsets=offsets: b(x.flatten(), offsets).flatten()[None],
        (lambda o=options: nn.EmbeddingBag(9, 4, **o),),  # type: ignore[misc]
    )
CASES["rotary positions"] = (SEQUENCE, rotated, ())
CASES["bilinear"] = (SEQUENCE, lambda b, x: b(x, x * x), (lambda: nn.Bilinear(4, 4, 5),))
CASES["bilinear without a bias"] = (SEQUENCE, lambda b, x: b(x, x * x), (lambda: nn.Bilinear(4, 4, 5, bias=False),))
CASES["limits of two kinds"] = (SEQUENCE, lambda x: x.clamp(-1, 0.5) + torch.clamp(x, max=1, min=0.25), ())
for name, options in TURNED.items():
    CASES[f"transposed, {name}"] = (IMAGE, lambda c, x: c(x), (lambda o=options: nn.ConvTranspose2d(3, 6, **o),))  # type: ignore[misc]
for name, options in BAGS.items():
    CASES[f"bag, {name}"] = (IDS, lambda b, x: b(x), (lambda o=options: nn.EmbeddingBag(9, 4, **o),))  # type: ignore[misc]

LACKING = {
    *(aten.istft.default, aten.fft_irfft.default, aten.fft_fft.default, aten.view_as_complex.default),
    *(aten.adaptive_avg_pool3d.default, aten.adaptive_max_pool3d.default, aten.conv_transpose3d.input),
    *(aten.scatter_add_.default, aten.scatter_reduce.two, aten.index_add.default, aten.one_hot.default),
    *(aten._upsample_bilinear2d_aa.vec, aten.upsample_bicubic2d.vec, aten.upsample_bilinear2d.vec),
    *(aten.stft.default, aten.fft_rfft.default, aten.complex.default, aten.eye.default, aten.sort.default),
    *(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool1d.default, aten.embedding_bag.padding_idx),
    *(aten.quantile.scalar, aten.quantile.default, aten.upsample_nearest2d.vec, aten._upsample_nearest_exact2d.vec),
    *(aten.bilinear.default, aten.linalg_inv.default, aten.inverse.default),
    *(aten.median.dim, aten.kthvalue.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default),
}


def value_of(shape: tuple[int, ...]) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 9, shape, dtype=torch.int32) if shape is IDS else torch.randn(shape)


@pytest.mark.parametrize("name", CASES)
def test_a_form_computes_what_torch_computes(name: str) -> None:
    shape, function, parts = CASES[name]
    model = Calls(function, *map(seeded, parts)).eval()
    x = value_of(shape)
    program = apply_forms(torch.export.export(model, (x,)), ALL)
    assert not {node.target for node in program.graph.nodes} & LACKING
    expected = model(x)
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-4 * (1 + expected.abs().max().item()))


def test_what_needs_no_form_stays_as_it_is() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    before = torch.export.export(model, (torch.zeros(IMAGE),))
    written = str(before.graph)
    assert str(apply_forms(before, ALL).graph) == written


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_without_its_projection_gives_the_same_states(layers: int, directions: bool) -> None:
    lstm = seeded(lambda: nn.LSTM(4, 12, layers, batch_first=True, proj_size=3, bidirectional=directions))
    plain = without_projections(lstm)
    assert not any(isinstance(part, nn.LSTM) and part.proj_size for part in plain.modules())
    x, count = torch.randn(2, 9, 4), layers * (1 + directions)
    for states in (None, (torch.randn(count, 2, 3), torch.randn(count, 2, 12))):
        y, (hidden, cell) = lstm(x, states)
        found, (found_hidden, found_cell) = plain(x, states)
        for one, other in ((found, y), (found_hidden, hidden), (found_cell, cell)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_module_without_a_projection_is_not_copied() -> None:
    model = nn.LSTM(3, 4)
    assert without_projections(model) is model


def several(names: list[str]) -> nn.Module:
    """Return a module that concatenates what several cases of one shape give."""
    made = [Calls(CASES[name][1], *map(seeded, CASES[name][2])) for name in names]

    def function(*parts: Any) -> Tensor:
        *calls, x = parts
        return torch.cat([call(x).flatten(1) for call in calls], 1)

    return Calls(function, *made)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "shape", [IMAGE, SEQUENCE, SAMPLES, IDS, VOLUME], ids=["image", "sequence", "samples", "ids", "volume"]
)
def test_files_have_all_forms_and_answer_like_torch(shape: tuple[int, ...], target: str) -> None:
    names = [name for name, case in CASES.items() if case[0] is shape and name not in ("angle", "argsort")]
    if shape is SEQUENCE:
        lstm = seeded(lambda: nn.LSTM(4, 12, batch_first=True, proj_size=3))
        module: nn.Module = Calls(
            lambda rest, lstm, x: torch.cat([rest(x), lstm(x)[0].flatten(1)], 1), several(names), lstm
        )
    else:
        module = several(names)
    width = module(value_of(shape)).shape[1]
    dtype: spec.DType = "int32" if shape is IDS else "float32"
    values = spec.tensor("x", shape=shape, dtype=dtype)
    module.spec = spec.ModelSpec(name="m", modalities=(values,), outputs=(spec.EmbeddingOutput(size=width),))  # type: ignore[assignment]
    (stage,) = split(module.eval())
    made = create("targets", target)
    lowered = made.lower(stage)
    session = create("backends", made.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=2, seed=5):
        expected = run_torch(stage, feeds)["embedding"]
        error = np.abs(session.run(feeds)["embedding"] - expected).max()
        assert error <= 1e-4 + 1e-4 * np.abs(expected).max()


class Pyramid(nn.Module):
    """Pools an image in four grids, none but the first of which divides it, as a pyramid of a scene does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 16, 3, 2, 1)
        self.mixed = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(4))
        self.head = nn.Conv2d(48, 16, 1)
        size = spec.EmbeddingOutput(size=16 * 15)
        self.spec = spec.ModelSpec(
            name="pyramid", modalities=(spec.tensor("x", shape=(1, 3, 40, 52)),), outputs=(size,)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.body(x))
        pools = [mix(functional.adaptive_avg_pool2d(y, n)) for n, mix in zip((1, 3, 6, 7), self.mixed, strict=True)]
        back = [functional.interpolate(pool, y.shape[2:], mode="bilinear", align_corners=True) for pool in pools]
        return functional.adaptive_avg_pool2d(self.head(torch.cat([y, *back], 1)), (3, 5)).flatten(1)


@pytest.mark.parametrize(("target", "most"), [("onnx", 30), ("tflite", 45)])
def test_unequal_pools_are_no_larger_than_their_weights_and_few_operators(target: str, most: int) -> None:
    (stage,) = split(Pyramid().eval())
    made = create("targets", target)
    lowered = made.lower(stage)
    weights = 4 * sum(weight.numel() for weight in stage.module.parameters())
    matrices = 4 * sum((20 + 26) * n for n in (3, 6, 7)) + 4 * (20 * 3 + 26 * 5)
    operations = made.operations(lowered.data, {"x_values": (1, 3, 40, 52)}).operations
    assert len(operations) <= most
    assert len(lowered.data) <= weights + matrices + 400 * len(operations)
    session = create("backends", made.backend).open(lowered.data, lowered.inputs, lowered.outputs, SessionOptions())
    for feeds in example_feeds(stage, count=2, seed=5):
        expected = run_torch(stage, feeds)["embedding"]
        assert np.abs(session.run(feeds)["embedding"] - expected).max() <= 1e-4
