"""The example of docs/ladder.md does what it says."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from edgefuse.bundle.manifest import Manifest
from tests.runtime.ladder.simulated import manifest_of

PAGE = (Path(__file__).parents[3] / "docs" / "ladder.md").read_text(encoding="utf-8")


def test_the_example_runs_as_it_stands(tiny_manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with caplog.at_level(logging.INFO, "edgefuse"):
        exec(compile(example, "docs/ladder.md", "exec"), {"manifest": manifest_of(tiny_manifest)})
    assert [record.getMessage().split()[0] for record in caplog.records] == ["down", "down", "up", "up"]
