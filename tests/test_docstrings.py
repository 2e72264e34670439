"""Public functions with three or more parameters say what each of them is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "edgefuse"
SOURCES = sorted(ROOT.rglob("*.py"))
FEW = 2
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters, the instance or class not among them."""
    found = function.args
    everything = [*found.posonlyargs, *found.args, *([found.vararg] if found.vararg else []), *found.kwonlyargs]
    everything += [found.kwarg] if found.kwarg else []
    return [argument.arg for argument in everything if argument.arg.strip("_") not in ("self", "cls", "")]


def documented(function: Function) -> list[str]:
    """Return the names in the section `Args:` of a docstring."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", ast.get_docstring(function) or "", re.MULTILINE)
    return re.findall(r"^ {4}\*{0,2}(\w+): ", section[1] if section else "", re.MULTILINE)


def public(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, ast.ClassDef | None, Function]]:
    """Give the public functions of a module and the public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):  # the last one of the name explains all forms
                continue
            yield within + node.name, None, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for name, _, method in public(node.body, f"{within}{node.name}."):
                yield name, node, method


def of_protocols() -> set[tuple[str, ...]]:
    """Return (name, parameters …) of the methods that a protocol or an abstract class documents for all others."""
    found = set()
    for path in SOURCES:
        for _, owner, method in public(ast.parse(path.read_text(encoding="utf-8")).body):
            bases = [ast.unparse(base) for base in owner.bases] if owner else []
            abstract = "Protocol" in bases or ast.unparse(method.body[-1]) == "raise NotImplementedError"
            if abstract and set(parameters(method)) <= set(documented(method)):
                found.add((method.name, *parameters(method)))
    return found


PROTOCOLS = of_protocols()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_parameters_are_explained(path: Path) -> None:
    silent = {
        f"{name} (line {function.lineno})": missing
        for name, _, function in public(ast.parse(path.read_text(encoding="utf-8")).body)
        if len(parameters(function)) > FEW and (function.name, *parameters(function)) not in PROTOCOLS
        if (missing := [one for one in parameters(function) if one not in documented(function)])
    }
    assert not silent
