"""What keys of the cache are made of: all that decides a result, and no more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.model import splits
from edgefuse.datasets.cache import Cache, digest
from edgefuse.datasets.sample import Splits
from edgefuse.graph import StageGraph
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.explicit import split


class Key(Exception):  # noqa: N818 - no error, but what was asked for
    """The key that a cache was asked for."""


class Asked(Cache):
    """A cache that gives out its keys."""

    def entry(self, kind: str, key: object, make: Any) -> Path:
        raise Key(digest(key))


class Only(nn.Module):
    def forward(self, features: dict[str, Tensor], present: Tensor) -> Tensor:
        return features["sensor"]


def key_of(call: Any) -> str:
    with pytest.raises(Key) as caught:
        call()
    return str(caught.value)


def edited(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Let a file of this package have other text, for all that hashes it."""
    read = Path.read_bytes
    place = Path(fingerprint.__file__).parents[2] / path
    assert place.is_file()
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + (b"# edited" if self == place else b""))
    fingerprint.of_source.cache_clear()


@pytest.fixture(autouse=True)
def _anew() -> Any:
    yield
    fingerprint.of_source.cache_clear()


@pytest.mark.parametrize(
    "path", ["runtime/backends/backend.py", "graph/stage_graph.py", "compiler/evaluation/evaluator.py"]
)
def test_passes_depend_on_what_runs_them(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    described = spec.ModelSpec(
        name="one",
        modalities=(spec.tensor("sensor", shape=(1, 2)),),
        outputs=(spec.ClassOutput(labels=("a", "b")),),
    )
    specs = tuple(stage.spec for stage in split(FusionModel(described, {"sensor": nn.Linear(2, 2)}, Only())))
    subject: Any = SimpleNamespace(specs=specs, spec=described, graph=StageGraph(specs, described.modalities))
    data: Any = SimpleNamespace(digest="d")
    evaluator = Evaluator(subject, data, Asked(tmp_path), lambda _: None)
    runners: Any = {stage.name: SimpleNamespace(identity="file") for stage in specs}

    def keys() -> tuple[str, str]:
        leaf = next(stage for stage in specs if stage.modality)
        return (
            key_of(lambda: evaluator.features(leaf, runners)),
            key_of(lambda: evaluator.run(("sensor",), runners)),
        )

    before = keys()
    assert keys() == before
    edited(monkeypatch, path)
    assert not set(before) & set(keys())


@pytest.mark.parametrize(
    ("modality", "libraries"),
    [
        (spec.image("x", height=4, width=4), {"pillow"}),
        (spec.audio("x", sample_rate_hz=8000, samples=80), {"soxr", "soundfile"}),
        (spec.text("x", tokenizer="t.json", max_length=4), {"tokenizers"}),
        (spec.video("x", height=4, width=4, frames=2, fps=1), {"av", "pillow"}),
        (spec.tensor("x", shape=(1, 2)), set()),
    ],
)
def test_a_split_depends_on_the_libraries_that_it_goes_through(
    modality: spec.Modality, libraries: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = spec.ModelSpec(name="one", modalities=(modality,), outputs=(spec.ClassOutput(labels=("a", "b")),))
    data = Splits(calibration=[], validation=[], test=[], digest="d")

    def key(**versions: str) -> str:
        monkeypatch.setattr(splits, "version", lambda name: versions.get(name, "1"))
        return key_of(lambda: splits.load_split("test", data, described, {}, {}, Asked(tmp_path), lambda *_: None))

    everything = {"av", "pillow", "soxr", "soundfile", "tokenizers"}
    assert {name for name in everything if key(**{name: "2"}) != key()} == libraries


@pytest.mark.parametrize("path", ["stages/examples.py", "graph/stage_graph.py", "export/target.py"])
def test_results_depend_on_the_compiler(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint.of_compiler()
    edited(monkeypatch, path)
    assert fingerprint.of_compiler() != before
