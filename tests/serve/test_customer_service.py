"""The example `customer_service`: a class and a reply from two bundles, behind Ray Serve and from two services."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.customer_service.desk import reply
from tests.serve import voice

ROOT = Path(__file__).parents[2]


def test_the_reply_is_what_a_generation_ends_with() -> None:
    events = b'event: token\ndata: {"text":"on"}\n\nevent: done\ndata: {"text":"on \\u00e9","tokens":2}\n\n'
    assert reply(events) == "on é"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_both_ways_give_the_same_class_and_reply(tmp_path: Path) -> None:
    bundles = [str(voice.intents(tmp_path / "intents.edgefuse")), str(voice.replies(tmp_path / "replies.edgefuse"))]
    command = [sys.executable, "-m", "examples.customer_service.compare", *bundles, "--replicas", "1"]
    done = subprocess.run(
        [*command, "--clients", "2", "--requests", "8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    behind_ray, answer, figures, services, same, others = done.stdout.splitlines()
    assert "1 replicas of each" in behind_ray
    assert services == "two services of a process each"
    assert '"reply": "turn on the light"' in answer
    assert answer == same
    assert figures.endswith("ms")
    assert others.endswith("ms")
