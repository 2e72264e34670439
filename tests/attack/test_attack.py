"""A slice of every area of `make attack`, always the same one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.__main__ import area_names

ROOT = Path(__file__).parents[2]
SEED = 20261126


@pytest.mark.parametrize("name", area_names())
def test_every_attempt_is_refused_or_answered_rightly(name: str, tmp_path: Path) -> None:
    out = tmp_path / "attack.json"
    command = [sys.executable, "-m", "tests.attack", "--short", "--seed", str(SEED), "--areas", name, "--jobs", "1"]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    assert row["ok"], done.stdout
    assert row["tried"] == row["refused"] + row["accepted_equal"] > 0
