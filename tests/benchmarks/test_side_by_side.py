"""The benchmark of encoders side by side runs, and tells what a pipeline chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.side_by_side import main


def test_all_ways_are_timed(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.runtime.backends.backend.checked_threads", lambda threads: threads)
    assert main([str(tiny_bundle), "--rounds", "3"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["model"], told["backend"], told["rung"]) == ("tiny", "onnx", "float")
    assert isinstance(told["chosen"], bool)
    assert set(told["encoders"]["each_us"]) == {"image", "text", "motion"}
    for part in ("encoders", "calls", "alone"):
        assert min(told[part][f"{way}_us"] for way in ("one_thread", "two_threads", "side_by_side")) > 0
        low, high = told[part]["side_by_side_over_two_threads"]["ci95"]
        assert 0 < low <= high
