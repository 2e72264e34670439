from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgefuse.compiler import CompileResult, compile
from edgefuse.runtime import pressure

from .hurry import hurried

OWN = Path(__file__).parent / "own"


@dataclass(frozen=True)
class Compiled:
    """A compile of the two-input model, with what it left on disk."""

    recipe: Path
    out: Path
    cache: Path
    result: CompileResult

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.result.report_json.read_text(encoding="utf-8"))
        return found


class Nothing:
    """A system that tells nothing of its load."""

    processors = 1

    def __call__(self) -> pressure.Reading:
        return pressure.Reading(at_ns=0, processor_ns=0)


@contextmanager
def unwatched() -> Iterator[None]:
    """Mark no timing, whatever else runs: what is compiled twice is timed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pressure, "SYSTEM", Nothing())
        patch.setattr(pressure, "MOST_DRIFT", math.inf)
        yield


@pytest.fixture(scope="module", autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever runs beside these tests marks none of their timings; in no other folder, where loads are measured.

    What a compile measures is not what these tests are about, but for those that say so.
    """
    with unwatched(), nullcontext() if getattr(request.module, "MEASURED", False) else hurried():
        yield


@pytest.fixture(scope="session")
def own_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its module in a folder of their own, as a user has them."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(OWN / "pair.py", folder)
    shutil.copy(OWN / "recipe.toml", folder)
    return folder / "recipe.toml"


def _once(name: str, factory: pytest.TempPathFactory, recipe: Path, make: Callable[[Path], CompileResult]) -> Compiled:
    """Compile once in a run; the workers each get a copy to work on.

    Args:
        name: of the compile.
        factory: of folders.
        recipe: that is compiled.
        make: compiles into `out` of a folder, with the cache `cache`.
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    own = factory.mktemp(name)
    with FileLock(f"{shared}.lock"):
        if not (shared / "result").is_file():
            with unwatched(), hurried():
                made = make(shared)
            (shared / "result").write_bytes(pickle.dumps(made))
        shutil.copytree(shared, own, dirs_exist_ok=True)
    result: CompileResult = pickle.loads((own / "result").read_bytes())
    out = own / "out"
    result = replace(
        result,
        bundles=tuple(out / path.name for path in result.bundles),
        report_json=out / result.report_json.name,
        report_html=out / result.report_html.name,
    )
    return Compiled(recipe, out, own / "cache", result)


@pytest.fixture(scope="session")
def compiled(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The two-input model compiled for ONNX."""

    def make(folder: Path) -> CompileResult:
        return compile(own_recipe, folder / "out", cache=folder / "cache")

    return _once("compiled", tmp_path_factory, own_recipe, make)


@pytest.fixture(scope="session")
def joined(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The two-input model compiled for TFLite, and for that joined with ONNX, which gets no bundle of its own."""

    def make(folder: Path) -> CompileResult:
        shutil.copytree(compiled.cache, folder / "cache", dirs_exist_ok=True)
        return compile(compiled.recipe, folder / "out", targets=["tflite", "onnx+tflite"], cache=folder / "cache")

    return _once("joined", tmp_path_factory, compiled.recipe, make)
