"""The example of docs/streams.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "streams.md").read_text(encoding="utf-8")


def test_the_example_runs_as_it_stands(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bundle.rename(tiny_bundle.with_suffix(".edgefuse"))
    monkeypatch.chdir(tiny_bundle.parent)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/streams.md", "exec"), {})
