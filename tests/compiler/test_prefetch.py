from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile, prefetch
from edgefuse.compiler import engine as engines
from edgefuse.compiler import recipe as recipes
from edgefuse.compiler.cache import Cache
from edgefuse.compiler.engine import Crew
from edgefuse.compiler.final import TestSplit
from edgefuse.compiler.narrowing import narrowed_set
from edgefuse.compiler.pruning import pruned
from edgefuse.compiler.rungs import finish
from edgefuse.compiler.sets import CandidateSet, compile_sets
from edgefuse.compiler.subject import Subject, prepare
from edgefuse.compiler.timing import HERE
from edgefuse.datasets.seal import SEAL
from edgefuse.progress import Progress, silent

if TYPE_CHECKING:
    from tests.compiler.conftest import Compiled

PARALLEL = (("local", 2), ("ray", 2))
_PRUNED = """
[[prune.variants]]
stages = ["image_encoder", "sensor_encoder"]
steps = [{ method = "structured", ratio = 0.5 }]
[recover]
epochs = 2
batch = 16
"""


def entries(cache: Path, *kinds: str) -> dict[str, str]:
    """Return the files of finished cache entries by path, with their hashes."""
    return {
        path.relative_to(cache).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in kinds
        for path in sorted((cache / kind).rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != SEAL
    }


@engines.in_one_thread()  # as a compile does: the weights of the model are computed, and so are part of all keys
def prepared(recipe: Path, cache: Path) -> Subject:
    return prepare(recipe, recipes.load(recipe), Cache(cache), silent)


def crew(recipe: Path, cache: Path, jobs: int, progress: Progress = silent) -> Crew:
    return Crew(shared=cache, jobs=jobs, paths=(str(recipe.parent),), progress=progress)


class Told(set[str]):
    """All that was said."""

    def __call__(self, done: int, total: int, what: str) -> None:
        self.add(what)


@pytest.mark.parametrize(("name", "count"), PARALLEL)
def test_workers_make_what_a_serial_compile_makes(name: str, count: int, compiled: Compiled, tmp_path: Path) -> None:
    subject = prepared(compiled.recipe, tmp_path)
    prefetch.build(subject, Cache(tmp_path), engines.create(name, crew(compiled.recipe, tmp_path, count)))
    made = entries(tmp_path, "stage-onnx", "features", "outputs")
    there = entries(compiled.cache, "stage-onnx", "features", "outputs")
    assert entries(tmp_path, "stage-onnx") == entries(compiled.cache, "stage-onnx")
    assert len(made) > 30
    assert made.items() <= there.items()  # under the same keys: a compile finds all of it, and makes none of it anew


def test_workers_judge_what_was_chosen_on_the_test_split(compiled: Compiled, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    shutil.copytree(compiled.cache, cache.folder)
    subject = prepared(compiled.recipe, cache.folder)
    sets = [CandidateSet.of(subject)]
    results = [compile_sets(sets, target, cache, silent, HERE) for target in subject.recipe.compile.targets]
    shutil.rmtree(cache.folder / "features")
    prefetch.judge(sets, results, cache, engines.create("local", crew(compiled.recipe, cache.folder, 2)))
    made = entries(cache.folder, "features")
    assert made
    assert made.items() <= entries(compiled.cache, "features").items()
    test = TestSplit(subject, cache, lambda what: pytest.fail(what) if what.startswith("features of") else None)
    for found in results:
        finish(sets, found, test)


def test_workers_recover_as_one_process_does(compiled: Compiled, tmp_path: Path) -> None:
    recipe = compiled.recipe.with_name("pruned.toml")
    recipe.write_text(compiled.recipe.read_text(encoding="utf-8") + _PRUNED, encoding="utf-8")
    alone, together = tmp_path / "alone", tmp_path / "together"
    serial, parallel = Told(), Told()
    with engines.in_one_thread():
        subject = prepared(recipe, alone)
        forms = pruned(subject, Cache(alone), serial).variants
    assert {stage: len(found) for stage, found in forms.items()} == {"image_encoder": 1, "sensor_encoder": 1}
    engine = engines.create("local", crew(recipe, together, 2, parallel))
    prefetch.recover(prepared(recipe, together), Cache(together), engine, silent)
    epochs = {what for what in serial if what.startswith("recover ")}
    assert len(epochs) == 4
    assert epochs == {what.partition(": ")[2] for what in parallel if ": recover " in what}
    assert "job 1 of 2: prune image_encoder structured50" in parallel
    modules = {path: sha256 for path, sha256 in entries(alone, "pruned").items() if not path.endswith("curve.json")}
    assert len(modules) == 2
    assert modules.items() <= entries(together, "pruned").items()  # a curve tells how long its epochs took, too


def test_a_worker_narrows_the_model_as_one_process_does(compiled: Compiled, tmp_path: Path) -> None:
    recipe = compiled.recipe.with_name("narrowed.toml")
    narrow = "[prune]\nnarrow = 0.5\n[recover]\nepochs = 1\n"
    recipe.write_text(compiled.recipe.read_text(encoding="utf-8") + narrow, encoding="utf-8")
    alone, together = tmp_path / "alone", tmp_path / "together"
    with engines.in_one_thread():
        assert narrowed_set(prepared(recipe, alone), Cache(alone), silent) is not None
    engine = engines.create("local", crew(recipe, together, 2))
    prefetch.recover(prepared(recipe, together), Cache(together), engine, silent)
    made = {path: sha256 for path, sha256 in entries(alone, "narrowed").items() if not path.endswith("curve.json")}
    assert len(made) == 4  # three modules and their wiring
    assert made.items() <= entries(together, "narrowed").items()


def test_many_jobs_are_an_argument_of_compile_and_relative_paths_are_right_for_them(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entries(compiled.cache, "stage-onnx", "figures")
    monkeypatch.chdir(tmp_path)
    recipe, cache = (Path(os.path.relpath(path)) for path in (compiled.recipe, compiled.cache))
    result = compile(recipe, "out", cache=cache, jobs=2)
    assert result.bundles == (Path("out/pair-onnx.edgefuse"),)  # as it was asked for
    with open_bundle(compiled.result.bundles[0]) as one, open_bundle(result.bundles[0]) as other:
        assert one.manifest.candidates == other.manifest.candidates
        assert one.manifest.rungs == other.manifest.rungs
    assert entries(compiled.cache, "stage-onnx", "figures") == before
