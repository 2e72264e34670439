"""`edgefuse verify`: is this bundle whole, does it compute here what it computed in torch, and where does it run?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.commands import console
from edgefuse.measure import agreement, placement, trial
from edgefuse.measure.agreement import GoldenResult
from edgefuse.measure.placement import Placement
from edgefuse.runtime import suitability
from edgefuse.runtime.backends.backend import SessionOptions
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.processor import Processor, processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument("--threads", type=int, default=1)
    console.add_min_placement(parser)
    parser.add_argument(
        "--allow-saturation",
        action="store_true",
        help="accept int8 files whose sums this CPU clips, if they meet the golden vectors",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Check hashes, golden vectors (in another process first), CPU and placement; 1 if something is not met."""
    with console.drawn_progress() as progress, open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        for done, entry in enumerate(bundle.manifest.files, start=1):
            bundle.read(entry.path)
            progress(done, len(bundle.manifest.files), "check hashes")
        options = SessionOptions(threads=arguments.threads)
        trial.check(bundle, options, progress=progress)
        results = agreement.check(bundle, options, progress=progress)
        if not arguments.allow_saturation:
            results = exact_here(bundle, results, processor())
        placements = placement.measure(bundle, None, options, progress=progress)
        failed = [result for result in results if not result.ok]
        if arguments.json:
            report = {
                "digest": bundle.digest,
                "backend": bundle.manifest.backend,
                "ok": not failed,
                "files": len(bundle.manifest.files),
            }
            console.write_json(report | {"golden": results, "placement": placements})
        else:
            _print(bundle, results, placements, failed)
    if arguments.min_placement is not None:
        placement.require(placements, arguments.min_placement)
    return 1 if failed else 0


def exact_here(bundle: Bundle, results: Sequence[GoldenResult], cpu: Processor) -> tuple[GoldenResult, ...]:
    """Fail the candidates whose int8 sums a CPU clips: golden vectors are few, and other inputs clip more.

    Args:
        bundle: with the candidates.
        results: of the golden vectors.
        cpu: of this machine.
    """
    backends = Backends(bundle.manifest)
    clipped = {c.id for c in bundle.manifest.candidates if suitability.saturates(c, backends, cpu)}
    reason = suitability.reason(cpu)
    return tuple(
        replace(result, ok=False, reason="; ".join(filter(None, (result.reason, reason))))
        if result.candidate in clipped
        else result
        for result in results
    )


def _print(
    bundle: Bundle, results: Sequence[GoldenResult], placements: Sequence[Placement], failed: Sequence[GoldenResult]
) -> None:
    console.write(f"{bundle.path}: {len(bundle.manifest.files)} files match their hashes, digest {bundle.digest}")
    console.write(f"golden vectors on the backend '{bundle.manifest.backend}':")
    header = ("stage", "candidate", "max |error|", "SNR dB", "tolerance", "", "runs where asked")
    shares = {found.candidate: placement.spelled(found) for found in placements}
    rows = [
        (
            result.stage,
            result.candidate,
            f"{result.max_abs_error:.2e}",
            "exact" if result.snr_db == math.inf else f"{result.snr_db:.1f}",
            result.tolerance,
            "ok" if result.ok else "FAILED",
            shares[result.candidate],
        )
        for result in results
    ]
    console.write(console.table(header, rows))
    for result in failed:
        console.write(f"{result.candidate} fails: {result.reason}")
    console.write(f"{len(results) - len(failed)} of {len(results)} candidates are within their tolerance")
