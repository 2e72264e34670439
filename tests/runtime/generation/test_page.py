"""The examples of docs/generation.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "generation.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path / "cache"))
    assert "assert" in example
    exec(compile(example, "docs/generation.md", "exec"), {})


def test_there_are_three() -> None:
    assert len(EXAMPLES) == 3
