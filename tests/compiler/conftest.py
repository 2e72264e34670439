from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgefuse.compiler import CompileResult, compile
from edgefuse.runtime import pressure

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
def undisturbed() -> Iterator[None]:
    """Whatever runs beside these tests marks none of their timings; in no other folder, where loads are measured."""
    with unwatched():
        yield


@pytest.fixture(scope="session")
def own_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its module in a folder of their own, as a user has them."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(OWN / "pair.py", folder)
    shutil.copy(OWN / "recipe.toml", folder)
    return folder / "recipe.toml"


@pytest.fixture(scope="session")
def compiled(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The two-input model compiled for ONNX: once in a run, whose workers each get a copy to work on."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    own = tmp_path_factory.mktemp("compiled")
    with FileLock(f"{shared}.lock"):
        if not (shared / "result").is_file():
            with unwatched():
                made = compile(own_recipe, shared / "out", cache=shared / "cache")
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
    return Compiled(own_recipe, out, own / "cache", result)
