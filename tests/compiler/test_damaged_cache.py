"""A compile over a damaged cache makes anew what is damaged, says so, and ends with the same bytes."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgefuse.compiler import compile
from edgefuse.datasets.seal import SEAL
from tests.attack import damage

KINDS = (
    *("features", "figures", "golden", "lowering-seconds", "outputs", "pruned", "rehearsed", "split", "stage-onnx"),
    "timings",
)
# On another architecture than this one a cost is counted instead of times measured: nothing is left to chance.
_RECIPE = """
[[prune.variants]]
stages = ["sensor_encoder"]
steps = [{ method = "structured", ratio = 0.5 }]
[recover]
epochs = 1
batch = 64
"""


@dataclass(frozen=True)
class Whole:
    """A compile with every kind of entry in its cache."""

    recipe: Path
    cache: Path
    bundle: bytes

    def entries(self, kind: str) -> list[Path]:
        """Return the entries of a kind, relative to the cache."""
        return sorted(path.relative_to(self.cache) for path in (self.cache / kind).iterdir() if path.is_dir())

    def again(self, folder: Path, jobs: int = 1) -> bytes:
        """Compile into a folder with the cache in it, and return the bundle."""
        shutil.rmtree(folder / "out", ignore_errors=True)
        result = compile(self.recipe, folder / "out", cache=folder / "cache", jobs=jobs)
        assert result.within_budget
        return result.bundles[0].read_bytes()


@pytest.fixture(scope="module")
def stopped_clock() -> Iterator[None]:
    """Take no time: how long something took is all that differs between two reports."""
    with pytest.MonkeyPatch.context() as patch:
        stopped = types.SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0)
        for module in ("compiler.compilation", "prune.training"):
            patch.setattr(f"edgefuse.{module}.time", stopped)
        yield


@pytest.fixture(scope="module")
def whole(own_recipe: Path, stopped_clock: None, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(own_recipe.with_name("pair.py"), folder)
    text = own_recipe.read_text(encoding="utf-8").replace('["onnx"]', '["onnx"]\ndevice = "arm64"') + _RECIPE
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    result = compile(folder / "recipe.toml", folder / "out", cache=folder / "cache")
    assert {path.name for path in (folder / "cache").iterdir()} == {*KINDS, "recovering"}
    return Whole(folder / "recipe.toml", folder / "cache", result.bundles[0].read_bytes())


@pytest.fixture
def copy(whole: Whole, tmp_path: Path) -> Path:
    """A folder with a copy of the cache in it, free to be damaged."""
    shutil.copytree(whole.cache, tmp_path / "cache")
    return tmp_path


def flipped(entry: Path) -> None:
    """Flip one bit of the largest file of an entry."""
    files = [path for path in entry.rglob("*") if path.is_file() and path.name != SEAL]
    damage.flip(max(files, key=lambda path: path.stat().st_size), random.Random(0))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for record in caplog.records if "made anew" in (line := record.getMessage())]


def test_a_whole_cache_gives_the_same_bytes(whole: Whole, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert whole.again(copy) == whole.bundle
    over_the_old = compile(whole.recipe, copy / "out", cache=copy / "cache")
    assert over_the_old.bundles[0].read_bytes() == whole.bundle
    assert said(caplog) == []


@pytest.mark.parametrize(
    "kind", [kind if kind == "stage-onnx" else pytest.param(kind, marks=pytest.mark.exhaustive) for kind in KINDS]
)
def test_flipped_bits_are_found_and_mended(
    kind: str, whole: Whole, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for entry in whole.entries(kind):
        flipped(copy / "cache" / entry)
    if kind == "features":  # which are not read where all that follows from them is there
        shutil.rmtree(copy / "cache" / "outputs")
    assert whole.again(copy) == whole.bundle
    lines = said(caplog)
    assert len(lines) == len({line.partition(" is damaged")[0] for line in lines}) > 0
    assert all(f"/{kind}/" in line and "has another content" in line for line in lines)


def test_entries_in_each_others_place_are_found(whole: Whole, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in KINDS:
        places = [copy / "cache" / entry for entry in whole.entries(kind)]
        asides = [place.rename(place.with_name(f"{place.name}-aside")) for place in places]
        for aside, other in zip(asides, [*places[1:], *places[:1]], strict=True):
            aside.rename(other)
    assert whole.again(copy) == whole.bundle
    assert len(said(caplog)) > 50
    assert all(line.endswith("it is another entry") for line in said(caplog))
    caplog.clear()
    assert whole.again(copy) == whole.bundle
    assert said(caplog) == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_all_entries_at_once_damaged_in_all_ways(
    seed: int, whole: Whole, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    ways = [way for name, way in sorted({**damage.CONTENT, **damage.PLACE}.items()) if not name.endswith("closed")]
    for kind in KINDS:
        for entry in whole.entries(kind):
            rng.choice(ways)(copy / "cache" / entry, rng)
    assert whole.again(copy) == whole.bundle
    assert len(said(caplog)) > 50


@pytest.mark.exhaustive
def test_workers_tell_of_each_damaged_entry_once(whole: Whole, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("features", "outputs", "split", "stage-onnx"):
        for entry in whole.entries(kind):
            flipped(copy / "cache" / entry)
    with caplog.at_level(logging.WARNING):
        assert whole.again(copy, jobs=2) == whole.bundle
    entries = [line.partition(" is damaged")[0] for line in said(caplog)]
    assert len(entries) == len(set(entries)) > 50


def test_the_command_line_tells_on_stderr_and_goes_on(whole: Whole, copy: Path) -> None:
    for entry in whole.entries("stage-onnx"):
        flipped(copy / "cache" / entry)
    (copy / "cache").chmod(0o777)
    done = _compiled(whole.recipe, copy / "out", copy / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is damaged and made anew: ") == len(whole.entries("stage-onnx"))
    assert (
        f"WARNING: others can write to {copy / 'cache'} (user {os.geteuid()}, drwxrwxrwx) in the cache" in done.stderr
    )
    assert "is damaged" not in done.stdout


def test_a_cache_that_cannot_be_is_one_sentence_on_the_command_line(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = _compiled(whole.recipe, tmp_path / "out", tmp_path / "file")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"edgefuse: error: the cache {tmp_path / 'file'} cannot be used: got File exists at ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def _compiled(recipe: Path, out: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tests.compiler.hurry",
        "compile",
        str(recipe),
        "-o",
        str(out),
        "--cache",
        str(cache),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)
