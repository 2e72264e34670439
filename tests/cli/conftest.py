from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Completed: TypeAlias = "subprocess.CompletedProcess[str]"
Cli: TypeAlias = Callable[..., Completed]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `edgefuse` as a process in an empty folder; keywords are variables of its environment."""

    def run(*arguments: str | Path, **environment: str) -> Completed:
        command = [sys.executable, "-m", "edgefuse", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
        )

    return run
