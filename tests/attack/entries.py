"""Entries of every kind that the cache keeps, small, made and read by the code that compiles use."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.spec import ClassOutput, ModelSpec, Record, tensor
from edgefuse.compiler.cache.arrays import ArrayStore, write_arrays
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.metrics.named import metrics_of
from edgefuse.compiler.model.splits import load_split
from edgefuse.compiler.recovery.kept import read_form, read_history, write_form
from edgefuse.datasets import Sample, Splits, packages
from edgefuse.datasets.cache import Cache
from edgefuse.datasets.digits.pool import Pool
from edgefuse.datasets.digits.speech import Clips
from edgefuse.datasets.stamps import debian, glosses
from edgefuse.export.target import Lowered
from edgefuse.progress import silent
from edgefuse.prune import checkpoint
from edgefuse.prune.training import Epoch
from edgefuse.stages.stage import TorchStage

_ITEMS = importlib.import_module("edgefuse.datasets.digits.items")  # a function of its package has the same name
_NOUNS = '00058743 04 n 01 escape 0 000 | the act of fleeing; "he made his escape"\n'


class Tools:
    """A target, a quantizer and a backend that need no converter: a lowered stage is its weights."""

    name, suffix, backend = "onnx", ".onnx", "onnx"

    def versions(self) -> dict[str, str]:
        return {"tools": "1"}

    def lower(self, stage: TorchStage) -> Lowered:
        weights = b"".join(value.numpy().tobytes() for value in stage.module.state_dict().values())
        return Lowered(weights, (), (), "ai.onnx 21", None)


def module(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return made.eval()


def stage(seed: int = 0) -> TorchStage:
    return TorchStage(cast(Any, _Named("fusion")), module(seed))


@dataclass(frozen=True)
class _Named:
    """As much of a stage's wiring as an entry depends on."""

    name: str


class Figures(Record, frozen=True, kw_only=True):
    """A record such as those of measurements."""

    p50_ms: tuple[float, ...]


def figures(cache: Cache) -> object:
    made = Figures(p50_ms=(1.25, 0.1))
    return cache.record("figures", ["figures"], Figures, lambda: made)


def balances(cache: Cache) -> object:
    return cache.record("balances", ["balances"], bool, lambda: True)


def features(cache: Cache) -> object:
    rng = np.random.default_rng(0)
    samples = [{"a": rng.normal(size=(1, n)).astype(np.float32), "b": np.zeros((1, 3), np.int32)} for n in (3, 1, 4)]
    store = ArrayStore(cache.entry("features", ["features"], lambda folder: write_arrays(folder, samples)))
    return [{key: (value.tolist(), value.dtype.str) for key, value in store[i].items()} for i in range(len(store))]


def split(cache: Cache) -> object:
    spec = ModelSpec(name="m", modalities=(tensor("x", shape=(1, 3)),), outputs=(ClassOutput(labels=("a", "b")),))
    samples = [Sample({"x": np.full((1, 3), value, np.float32)}, value % 2) for value in range(5)]
    metrics = metrics_of(spec, Path())
    found = load_split("test", Splits(samples, samples, samples, digest="five"), spec, metrics, {}, cache, silent)
    return (
        found.targets["logits"].values.tolist(),
        found.present.tolist(),
        [found.values[i]["x.values"].tolist() for i in range(5)],
    )


def stage_file(cache: Cache) -> object:
    tools = cast(Any, Tools())
    built = Toolchain(tools, tools, tools, cache).lower(stage())
    return built.read(), built.opset, built.id


def pruned(cache: Cache) -> object:
    entry = cache.entry(
        "pruned", ["pruned"], lambda folder: write_form(folder, module(1), (Epoch(0, 1.0, {"a": 0.5}),))
    )
    pruning = Pruning(steps=(PruningStep(method="structured", ratio=0.5),))
    form = read_form(entry, stage(), pruning)
    return [value.tolist() for value in form.module.state_dict().values()], read_history(entry)


def recovering(cache: Cache) -> object:
    """A checkpoint is used, or recovery begins anew: a wrong one is not used."""
    path = cache.folder / "recovering" / "student.pt"
    weights = module(2).state_dict()
    if not os.path.lexists(path.parent):
        checkpoint.save(path, "key", {"module": weights})
    found = checkpoint.load(path, "key")
    if found is not None:
        assert all(torch.equal(found["module"][name], value) for name, value in weights.items()), "other weights"
        checkpoint.save(path, "key", found)
    return None


def package(cache: Cache) -> object:
    def download(distribution: str, version: str, folder: Path, source_sha256: str | None) -> Path:
        path = folder / "words-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("words/data.txt", b"seven")
        return path

    sha256 = packages._sha256(b"seven")
    with _replaced(packages, "_download", download):
        return packages.fetch("words", "1.0", "words/data.txt", sha256).read_bytes()


def wordnet(cache: Cache) -> object:
    glosses.entries.cache_clear()
    with _replaced(debian, "members", lambda *_: {"usr/share/wordnet/data.noun": _NOUNS.encode()}):
        return glosses.entries()


def digits(cache: Cache) -> object:
    clips = Clips(pcm=np.arange(9, dtype=np.int16), ends=np.array([4, 9]), labels=np.array([1, 2]))
    made = Pool(pictures=np.ones((2, 3, 3), np.uint8), labels=np.array([1, 2]), clips=clips)
    with _replaced(_ITEMS, "_make_pool", lambda *_: made):
        found = _ITEMS.pool("test")
    return [array.tolist() for array in (found.pictures, found.labels, found.clips.pcm, found.clips.ends)]


class _replaced:  # noqa: N801 - a context manager
    """Puts something in the place of what fetches from outside."""

    def __init__(self, where: Any, name: str, value: Any) -> None:
        self._where, self._name, self._value = where, name, value
        self._before = getattr(where, name)

    def __enter__(self) -> None:
        setattr(self._where, self._name, self._value)

    def __exit__(self, *_: object) -> None:
        setattr(self._where, self._name, self._before)


KINDS: Mapping[str, Callable[[Cache], object]] = {
    each.__name__: each
    for each in (figures, balances, features, split, stage_file, pruned, recovering, package, wordnet, digits)
}
"""Reads an entry of each kind, or makes it, and returns all that it says."""
