"""Compile `digits`, verify both bundles, run them on real files and benchmark them: what `make demo` does.

Every step is a command of the `edgefuse` command line, printed before it runs, so that it can be repeated by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.report import summary
from edgefuse.datasets import digits

HERE = Path(os.path.relpath(Path(__file__).parent))
BUNDLES = ("digits-onnx.edgefuse", "digits-tflite.edgefuse")
HELD_OUT = (3, 1000, 1999)


def edgefuse(*arguments: str | Path) -> None:
    """Print and run a command; end the demo with its exit code where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ edgefuse {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "edgefuse", *words], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for bundles, report and samples")
    out: Path = parser.parse_args().out
    started = time.monotonic()
    edgefuse("compile", HERE / "recipe.toml", "-o", out)
    print(f"compile took {time.monotonic() - started:.1f} s", flush=True)
    samples = out / "samples"
    digits.export_files(digits.items("test"), HELD_OUT, samples)
    for name in BUNDLES:
        edgefuse("verify", out / name)
    labels = json.loads((samples / "labels.json").read_text(encoding="utf-8"))
    for stem, label in labels.items():
        text = (samples / f"{stem}.txt").read_text(encoding="utf-8").strip()
        print(f"\n# held-out item {stem}: its label is {label}", flush=True)
        for name in BUNDLES:
            files = ("--image", samples / f"{stem}.png", "--audio", samples / f"{stem}.wav", "--text", text)
            edgefuse("run", out / name, *files)
    print("\n# the same item without a picture and a text: absence is an input, not an error", flush=True)
    edgefuse("run", out / BUNDLES[0], "--audio", samples / f"{stem}.wav")
    for name in BUNDLES:
        edgefuse("bench", out / name)
    report = parse(json.loads((out / "report.json").read_text(encoding="utf-8")))
    print(f"\n{summary(report)}")
    print(f"\nreport: {out / 'report.html'} and {out / 'report.json'}; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
