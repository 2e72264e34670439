"""Run every target of the Makefile once and check what each leaves: `make test-all`.

What takes long in full runs in small: a few items, one variant, one system. What is made goes to `out/all`, what is
tracked stays as it is. `EXCLUDED` says why a target is not run; `tests/test_makefile.py` holds that none is forgotten.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefuse.bundle.reader import open_bundle

ROOT = Path(__file__).parents[2]
OUT = "out/all"
RECIPE = "tests/targets/pruned.toml"
SEED = "20261126"


@dataclass(frozen=True)
class Target:
    """One run of make.

    Attributes:
        name: of the target.
        check: raises `AssertionError` if something that the target promises is missing in the folder it made.
        variables: of the Makefile, besides `OUT`.
        environment: variables of the environment.
    """

    name: str
    check: Callable[[Path], None]
    variables: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def nothing(made: Path) -> None:
    """Promise nothing but to succeed."""


def demo(made: Path) -> None:
    """Promise two bundles, a report and the samples that were answered."""
    for name in ("digits-onnx.edgefuse", "digits-tflite.edgefuse"):
        with open_bundle(made / "demo" / name) as bundle:
            assert bundle.manifest.rung().within_budget, name
    assert "<html" in (made / "demo" / "report.html").read_text(encoding="utf-8")
    assert len(_json(made / "demo" / "report.json")["bundles"]) == 2
    assert len(_json(made / "demo" / "samples" / "labels.json")) == 3


def compress(made: Path) -> None:
    """Promise a bundle that holds a pruned stage, and a report that shows its recovery."""
    with open_bundle(made / "targets" / "digits-onnx.edgefuse") as bundle:
        chosen = [candidate for candidate in bundle.manifest.candidates if candidate.pruning is not None]
    assert _json(made / "targets" / "report.json")["recoveries"], "nothing was recovered"
    assert chosen, "no rung has a pruned stage"


def attack(made: Path) -> None:
    """Promise a row for every area, all of them right."""
    rows = _json(made / "attack.json")
    assert rows, "no areas"
    assert all(row["ok"] and row["tried"] for row in rows), rows


def train(made: Path) -> None:
    """Promise weights that the model takes, and how they came about."""
    from edgefuse.models.digits import build

    build(made / "train" / "digits.safetensors")
    record = _json(made / "train" / "training.json")
    assert record["curve"], "no epochs"
    assert len(record["test"]) == 7, record["test"]


def systems(made: Path) -> None:
    """Promise figures of one system for both targets, and that it shows what it must."""
    (system,) = _json(made / "systems.json")
    assert set(system["targets"]) == {"onnx", "tflite"}, system
    assert system["verdicts"], system


def soak(made: Path) -> None:
    """Promise that what was asked for shows what it must."""
    lines = _json(made / "soak.json")
    assert [one["line"] for one in lines] == ["contributions", "pushes", "shares", "swaps"], lines
    assert all(one["ok"] for one in lines), lines


def soak_services(made: Path) -> None:
    """Promise that what was asked for shows what it must: not what a busy machine would make late."""
    (line,) = _json(made / "soak-services.json")
    assert line["line"] == "token", line
    assert line["ok"], line


def peers(made: Path) -> None:
    """Promise figures of the reference, of the peer and of edgefuse."""
    rows = {row["system"]: row for row in _json(made / "peers.json")}
    assert {"torch eager", "onnxruntime float"} < set(rows), list(rows)
    assert any(name.startswith("edgefuse onnx") for name in rows), list(rows)
    assert not [row for row in rows.values() if row.get("error")], rows
    assert "onnxruntime float" in (made / "peers.md").read_text(encoding="utf-8")


def portability(made: Path) -> None:
    """Promise verified rows for the newest and the oldest runtime."""
    rows = _json(made / "portability.json")
    assert len({row["version"] for row in rows}) >= 2, rows
    assert all(row["verified"] for row in rows), rows
    assert "## arm64/digits-tflite" in (made / "portability.md").read_text(encoding="utf-8")


def wheel(made: Path) -> None:
    """Promise one wheel."""
    (found,) = (made / "dist").glob("edgefuse-*.whl")
    assert found.stat().st_size > 100_000, found


def gpu(made: Path) -> None:
    """Promise that a plan makes no record: no figure comes from a machine without a GPU."""
    assert not (made / "gpu.json").exists()


# In this order: the cheap first, and peers compares the bundle that compress makes.
TARGETS = (
    Target("check", nothing),
    Target("wheel", wheel, (f"DIST={OUT}/dist",)),
    Target("gpu", gpu, ("GPU_ARGS=--dry-run",)),  # the plan: there may be no GPU
    Target("test", nothing),
    Target("test-exhaustive", nothing),
    Target("demo", demo),
    Target("compress", compress, (f"COMPRESS={RECIPE}",), (("TORCHDYNAMO_DISABLE", "1"),)),
    Target("systems", systems, ("SYSTEMS_ARGS=--only digits",)),  # what `demo` compiled
    Target("soak", soak, ("SOAK_ARGS=--only swaps --only contributions --only pushes --only shares --minutes 0.1",)),
    Target("soak-services", soak_services, ("SOAK_SERVICES_ARGS=--only token --minutes 0.1",)),
    Target(
        "peers",
        peers,
        (
            f"COMPRESS={RECIPE}",
            f"PEERS={RECIPE}",
            "PEERS_ARGS=--systems 'onnxruntime float' --items 40 --rounds 11",
        ),
    ),
    Target(
        "portability",
        portability,
        ("ARM64=tests/targets/arm64.toml", f"PORTABILITY_ARGS=--here --items 20 --docs {OUT}/portability.md"),
    ),
    Target("train", train, ("TRAIN_ARGS=--epochs 1 --max-epochs 1 --epoch-items 128 --items 100",)),
    Target("attack", attack, ("ATTACK_ARGS=--short --tries 5", f"SEED={SEED}")),
)
EXCLUDED = {
    "test-all": "it is what runs the others",
    "clean": "it removes the environment that runs this: tests/test_makefile.py runs it on a folder of its own",
}


def main() -> int:
    """Run all targets, or those named; return 1 at the first that fails or breaks a promise."""
    named = sys.argv[1:]
    made = ROOT / OUT
    shutil.rmtree(made, ignore_errors=True)
    before = _changes()
    seconds = {}
    for target in TARGETS:
        if named and target.name not in named:
            continue
        began = time.monotonic()
        command = ["make", "--no-print-directory", target.name, f"OUT={OUT}", *target.variables]
        print(f"\n== {subprocess.list2cmdline(command)}", flush=True)
        done = subprocess.run(command, cwd=ROOT, env=os.environ | dict(target.environment), check=False)
        seconds[target.name] = round(time.monotonic() - began)
        if done.returncode:
            print(f"tests.targets: make {target.name} ended with {done.returncode}", file=sys.stderr)
            return 1
        target.check(made)
        assert _changes() == before, f"make {target.name} changed what is tracked: {_changes()}"
    print(f"\nall targets did what they promise, in seconds: {seconds}")
    return 0


def _changes() -> str:
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
