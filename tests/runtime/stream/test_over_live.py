"""A stream over a `Live`, with a ladder: rungs change by the device's heat, bundles by hand, and no answer is lost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.manifest import Figure, Machine, Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.runtime.ladder import Ladder, Reading, Replay, Settings
from edgefuse.runtime.stream.stream import Stream
from tests.runtime.second import second

MACHINE = Machine(architecture="aarch64", cpu="simulated", cores=1, features=(), runtimes={}, threads=1)
HOT, COOL = Reading(temperature_c=95.0), Reading(temperature_c=50.0)


@pytest.fixture
def first(tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes]) -> Path:
    """The tiny bundle, whose rung `small` takes half of the time of `float`."""
    rungs = tuple(
        msgspec.structs.replace(rung, figures=(Figure(machine=MACHINE, runs=100, p50_ms=p50_ms),))
        for rung, p50_ms in zip(tiny_manifest.rungs, (7.0, 3.5), strict=True)
    )
    write_bundle(tmp_path / "first", msgspec.structs.replace(tiny_manifest, rungs=rungs), tiny_contents)
    return tmp_path / "first"


def test_a_ladder_steps_down_and_up_again_across_a_swap(first: Path, tmp_path: Path) -> None:
    signals = Replay([(0.0, COOL), (10.0, HOT), (30.0, COOL)])
    settings = Settings(hold_s=1.0, sustained_s=1.0, calm_s=1.0, every_s=0.0, first_wait_s=1.0, trial_s=0.0)
    clock, seen = [0.0], []
    with edgefuse.Live(first) as live:
        ladder = Ladder(live.pipeline.manifest, signals, settings)
        with Stream(live, hop_s=None, ladder=ladder, now=lambda: clock[0]) as stream:
            for second_s in range(50):
                clock[0] = float(second_s)
                if second_s == 20:
                    live.swap(second(tmp_path / "second"))
                stream.push("image", np.zeros((8, 8), np.uint8), float(second_s))
                answer = stream.predict()
                seen.append((answer.rung, live.path.name))
    assert len(seen) == stream.predictions == 50
    assert {rung for rung, _ in seen[:10]} == {"float"}
    assert {rung for rung, _ in seen[13:30]} == {"small"}
    assert seen[-1] == ("float", "second")
    assert [name for _, name in seen] == ["first"] * 20 + ["second"] * 30
    assert ladder.answered == [sum(rung == step.rung for rung, _ in seen) for step in ladder.steps]
