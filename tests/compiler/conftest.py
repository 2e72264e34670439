from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgefuse.compiler import CompileResult, compile

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


@pytest.fixture(scope="session")
def own_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its module in a folder of their own, as a user has them."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(OWN / "pair.py", folder)
    shutil.copy(OWN / "recipe.toml", folder)
    return folder / "recipe.toml"


@pytest.fixture(scope="session")
def compiled(own_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The two-input model compiled for ONNX."""
    out, cache = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache")
    return Compiled(own_recipe, out, cache, compile(own_recipe, out, cache=cache))
