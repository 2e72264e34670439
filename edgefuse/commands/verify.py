"""`edgefuse verify`: is this bundle whole, and does it compute here what it computed in torch?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.commands import console
from edgefuse.measure import agreement
from edgefuse.measure.agreement import GoldenResult
from edgefuse.runtime.backends.backend import SessionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Check every hash and every candidate's golden vectors; 1 if one is not met."""
    with console.drawn_progress() as progress, open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        for done, entry in enumerate(bundle.manifest.files, start=1):
            bundle.read(entry.path)
            progress(done, len(bundle.manifest.files), "check hashes")
        options = SessionOptions(threads=arguments.threads)
        results = agreement.check(bundle, options, progress=progress)
        backend = bundle.manifest.backend
        failed = [result for result in results if not result.ok]
        if arguments.json:
            report = {
                "digest": bundle.digest,
                "backend": backend,
                "ok": not failed,
                "files": len(bundle.manifest.files),
            }
            console.write_json(report | {"golden": results})
        else:
            _print(bundle, backend, results, failed)
    return 1 if failed else 0


def _print(bundle: Bundle, backend: str, results: Sequence[GoldenResult], failed: Sequence[GoldenResult]) -> None:
    console.write(f"{bundle.path}: {len(bundle.manifest.files)} files match their hashes, digest {bundle.digest}")
    console.write(f"golden vectors on the backend '{backend}':")
    header = ("stage", "candidate", "max |error|", "SNR dB", "tolerance", "")
    rows = [
        (
            result.stage,
            result.candidate,
            f"{result.max_abs_error:.2e}",
            "exact" if result.snr_db == math.inf else f"{result.snr_db:.1f}",
            result.tolerance,
            "ok" if result.ok else "FAILED",
        )
        for result in results
    ]
    console.write(console.table(header, rows))
    for result in failed:
        console.write(f"{result.candidate} fails: {result.reason}")
    console.write(f"{len(results) - len(failed)} of {len(results)} candidates are within their tolerance")
