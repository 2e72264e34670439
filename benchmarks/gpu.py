"""The reference models in full precision on a GPU of NVIDIA: `python benchmarks/gpu.py --out out/gpu.json`.

torch and numpy are all that it needs, Python 3.11 or newer, and a checkout of this repository; no network. `digits` and
`assistant` run eagerly in float32, without TF32 and with it; `digits` also in float16, compiled and as CUDA graphs,
in TensorRT and in ONNX Runtime's CUDA provider where they are there. Batch 1 and the batch that fills the card;
transfers apart. Every answer is held to this machine's CPU. What fails leaves its reason and the rest goes on.

    python benchmarks/gpu.py --dry-run          # the plan, what travels and how long it takes; needs nothing
    python benchmarks/gpu.py --show FILE        # a record as tables
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu_reference import page  # noqa: E402 - found by the line above on a machine that has it installed nowhere

SCHEMA = 1
LIMIT_S = 470.0
_TRAVELS = (
    "edgefuse",
    "benchmarks/gpu.py",
    "benchmarks/gpu_reference",
    "tests/gpu",
    "examples/digits/digits.safetensors",
)
_START_S = 8.0
"""A process that has less than this left is not started."""

METHOD = (
    "Every timed call waits for the card before its clock stops. 'whole' sends a batch from pinned memory, computes "
    "and fetches the answers, and waits once; 'compute' is on inputs that are there; transfers are timed by themselves "
    "and are the same for all variants of a batch.",
    "p50 with its 95 % bootstrap interval over rounds in which all variants of a process take turns, in random order; "
    "'speedup' is over eager float32 of the same process, the median of the rounds' ratios.",
    "The batch that fills the card is found by doubling with eager float32 until throughput rises by less than 5 % "
    "twice or memory is short; of the batches tried it is the one with the highest throughput.",
    "float32 is without TF32. float16 is mixed precision: weights, products and convolutions in float16, frontends, "
    "norms and softmax in float32.",
    "'max_abs_error' is the largest error over 16 items and all outputs against float32 on the CPU of this machine; "
    "'tolerance' is absolute + relative of the largest answer. Inputs are seeded noise in the ranges of real ones.",
)


@dataclass(frozen=True)
class Part:
    """A process to start: what it does, with which model, and for how long at the most."""

    name: str
    model: str
    seconds: float
    about: str

    @property
    def title(self) -> str:
        """Its name in plans and records."""
        return f"{self.name} {self.model}".strip()


PARTS = (
    Part("torch", "digits", 230.0, "eager float32, TF32 and float16, torch.compile, CUDA graphs; batch 1 and filled"),
    Part("torch", "assistant", 80.0, "eager float32 and TF32; batch 1 and filled; seeded weights"),
    Part("tensorrt", "digits", 60.0, "engines of one ONNX file per batch, float32 and TF32"),
    Part("onnxruntime", "digits", 45.0, "the same files in the CUDA provider"),
    Part("tests/gpu", "", 35.0, "the tests that need TensorRT on a GPU, with pytest"),
)


@dataclass
class Run:
    """All parts in turn, and the record that they make."""

    arguments: argparse.Namespace
    began: float = field(default_factory=time.monotonic)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """The seconds that are left of the limit."""
        return float(self.arguments.limit) - (time.monotonic() - self.began)

    def child(self, part: Part, batch: int | None = None, without: str = "") -> tuple[dict[str, Any], str]:
        """Return what a part found, and why it did not come to its end; both may be empty."""
        seconds = min(part.seconds, self.left)
        if seconds < _START_S:
            return {}, "the time was up before it began"
        request = {"part": part.name, "model": part.model, "device": self.arguments.device, "seconds": seconds}
        request |= {"rounds": self.arguments.rounds, "max_batch": self.arguments.max_batch}
        request |= {"batch": batch, "without": without or self.arguments.without}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "found.json")
            command = [sys.executable, "-m", "benchmarks.gpu_reference", str(out)]
            why = _ended(command, json.dumps(request), seconds)
            found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        return found, why or found.pop("error", "")

    def torch(self, part: Part) -> dict[str, Any]:
        """Return a model's entry; if what may take its process along did so, the rest is measured without it."""
        found, why = self.child(part)
        entry: dict[str, Any] = {
            "name": part.model,
            "weights": "unknown",
            "parameters": None,
            "filled": None,
            "rows": [],
        }
        if why:
            again, still = self.child(part, without=f"left out: with it, {why}")
            known = {(row["batch"], row["system"]) for row in found.get("rows", [])}
            rows = [row for row in again.get("rows", []) if (row["batch"], row["system"]) not in known]
            rows = [*found.get("rows", []), *rows, *([_failed("torch", still)] if still else [])]
            found = found | again | {"rows": rows}
        return entry | found

    def engine(self, part: Part, model: dict[str, Any]) -> None:
        """Add a part's rows to its model."""
        found, why = self.child(part, batch=(model["filled"] or {"batch": 1})["batch"])
        model["rows"] += found.get("rows", []) + ([_failed(part.name, why)] if why else [])

    def tests(self, part: Part) -> dict[str, Any]:
        """Run the tests that need a GPU and return their last line."""
        if self.arguments.device != "cuda" or self.left < _START_S:
            return {"name": part.title, "ok": False, "outcome": "not run: there is no GPU or no time left"}
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=min(part.seconds, self.left),
            )
        except subprocess.TimeoutExpired:
            return {"name": part.title, "ok": False, "outcome": "stopped at its time limit"}
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        said = _last(done.stdout) or _last(done.stderr) or "nothing was said"
        why = next((line for line in lines if line.startswith("SKIPPED") or "Error: " in line), said)
        return {
            "name": part.title,
            "ok": done.returncode == 0 and "passed" in said,
            "outcome": (said if why == said else f"{said}: {why}")[:300],
        }

    def all(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of all parts, which is written after each; `facts` are those of the probe."""
        models: dict[str, dict[str, Any]] = {}
        self.record = {
            "schema": SCHEMA,
            "is_gpu": self.arguments.device == "cuda",
            "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
            "seconds": 0.0,
            "device": facts["device"],
            "clocks": {"before": facts["clocks"], "after": None},
            "versions": facts["versions"],
            "method": list(METHOD),
            "models": [],
            "parts": [],
        }
        for part in self._chosen():
            print(f"gpu: {part.title}: {part.about}", file=sys.stderr, flush=True)
            if part.name == "torch":
                models[part.model] = self.torch(part)
                self.record["models"] = list(models.values())
            elif part.name == "tests/gpu":
                self.record["parts"].append(self.tests(part))
            elif part.model in models:
                self.engine(part, models[part.model])
            self.save()
        self.record["clocks"]["after"] = self.child(Part("probe", "", 60.0, ""))[0].get("clocks")
        self.save()
        return self.record

    def save(self) -> None:
        """Write what there is so far."""
        self.record["seconds"] = round(time.monotonic() - self.began, 1)
        self.arguments.out.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")

    def _chosen(self) -> list[Part]:
        wanted, skipped = self.arguments.models, self.arguments.skip
        return [one for one in PARTS if one.name not in skipped and (not one.model or one.model in wanted)]


def _failed(system: str, why: str) -> dict[str, Any]:
    empty = (
        "tolerance",
        "whole",
        "compute",
        "to_device",
        "to_host",
        "items_per_s",
        "speedup",
        "max_abs_error",
        "agrees",
    )
    return {"batch": 1, "system": system, "precision": "float32"} | dict.fromkeys(empty) | {"error": why[:300]}


def _environment() -> dict[str, str]:
    """Return the environment of a child: this checkout comes first."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


def _ended(command: Sequence[str], given: str, seconds: float) -> str:
    """Run a child and return why it did not come to its end; nothing if it did."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # what it starts, as torch.compile does, ends with it
    )
    try:
        _, said = child.communicate(given, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"its process was stopped after {seconds:.0f} s"
    finally:  # when this program is interrupted, too
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode < 0:
        return f"its process ended with {signal.Signals(-child.returncode).name}"
    return f"its process ended with {child.returncode}: {_last(said)}" if child.returncode else ""


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def plan() -> str:
    """Return what would be done, what travels and how long it takes."""
    files = [path for name in _TRAVELS for path in _files(ROOT / name)]
    size = sum(path.stat().st_size for path in files)
    lines = [f"{part.title:20} at most {part.seconds:3.0f} s  {part.about}" for part in PARTS]
    return "\n".join(
        (
            *lines,
            f"time: at most {LIMIT_S:.0f} s all together; whatever has no time left says so",
            f"travels: {size} bytes ({size / 1e6:.1f} MB) in {len(files)} files of the repository, nothing else: "
            f"{', '.join(_TRAVELS)}",
            "weights: digits as trained; assistant seeded, in the shapes of the trained ones, which come from packages",
            "needs: a GPU of NVIDIA, Python 3.11 or newer, torch 2.8 or newer with CUDA, numpy",
            "uses if there: nvidia-smi, a C compiler, onnx and onnxscript, TensorRT, ONNX Runtime, pytest",
        )
    )


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--out", type=Path, default=Path("out/gpu.json"), help="the record")
    add("--dry-run", action="store_true", help="show the plan and its size, and do nothing")
    add("--show", type=Path, metavar="FILE", help="show a record as tables, and do nothing")
    add("--models", nargs="+", choices=tuple(page.SYSTEMS), default=tuple(page.SYSTEMS))
    add("--skip", nargs="+", choices=sorted({part.name for part in PARTS}), default=(), help="parts to leave out")
    add("--limit", type=float, default=LIMIT_S, help="seconds for all of it")
    add("--rounds", type=int, default=40, help="of interleaved timing per batch, at the most")
    add("--max-batch", type=int, default=16_384, help="the largest batch to try")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for tests: the record says that it is no GPU")
    add("--without", default="", metavar="REASON", help="leave torch.compile and CUDA graphs out, for this reason")
    return made


def refused(sentence: str) -> int:
    """Say why nothing was measured, and return the exit code."""
    print(f"gpu.py: {sentence}", file=sys.stderr)
    return 2


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write and print."""
    arguments = parser().parse_args(given)
    if arguments.show:
        try:
            print(page.markdown(json.loads(arguments.show.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return refused(f"{arguments.show} is no record of this program: {error!r}.")
        return 0
    if arguments.dry_run:
        print(plan())
        return 0
    if arguments.rounds < 1 or arguments.max_batch < 1 or not arguments.limit > 0:
        return refused("--rounds, --max-batch and --limit must be more than 0.")
    run = Run(arguments)
    facts, why = run.child(Part("probe", "", 90.0, ""))
    if why:
        return refused(f"torch cannot be used here: {why}. Fix: run it with a Python that has torch 2.8 or newer.")
    if arguments.device == "cuda" and not facts["available"]:
        return refused(
            f"torch {facts['versions']['torch']} sees no GPU on this machine, and nothing was measured. Fix: run it "
            "where there is a GPU of NVIDIA and a torch with CUDA; --dry-run shows the plan anywhere."
        )
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.open("ab").close()  # known now, and not when minutes on a card are spent
        print(page.markdown(run.all(facts)))
    except OSError as error:
        return refused(f"{arguments.out} cannot be written: {error.strerror}.")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no child outlives this program
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
