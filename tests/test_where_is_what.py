"""The newcomer's page and the packages' docstrings say what the tree holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "where-is-what.md"
PACKAGES = sorted(path.parent for path in (ROOT / "edgefuse").rglob("__init__.py"))
# A path in backquotes: it has a slash, or it is a file at the root.
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|setup\.cfg)`")


def first_line(folder: Path) -> str:
    """Return the first line of a package's docstring."""
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def documents(folder: Path) -> list[str]:
    """Return the modules that the docstring of a package lists, in order."""
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    return re.findall(r"^- `(\w+)`: ", ast.get_docstring(tree) or "", re.MULTILINE)


def test_every_path_that_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 100
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_page_names_every_package() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    packages = [f"{folder.relative_to(ROOT).as_posix()}/" for folder in PACKAGES if folder.name != "edgefuse"]
    assert not [package for package in packages if package not in named]


def test_the_page_says_of_every_package_what_its_docstring_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(edgefuse/[\w/]+)/` \| (.+) \|$", page, re.MULTILINE))
    said = {
        folder.relative_to(ROOT).as_posix(): first_line(folder).removesuffix(".")
        for folder in PACKAGES
        if folder.name != "edgefuse"
    }
    assert rows == said


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_a_newcomer_is_led_to_the_page(document: str) -> None:
    assert "(docs/where-is-what.md)" in (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_paths_in_other_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = [name for name in NAMED.findall(text) if name.startswith(("edgefuse/", "tests/", "docs/", "benchmarks/"))]
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_package_lists_its_modules(folder: Path) -> None:
    modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    packages = [path.name for path in folder.iterdir() if (path / "__init__.py").exists()]
    assert sorted(documents(folder)) == sorted(modules + packages)
