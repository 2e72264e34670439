"""`edgefuse prepare`: build a bundle's engines on this device, and measure its rungs, once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgefuse.bundle.manifest import Figure
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.commands import console
from edgefuse.measure import rungs
from edgefuse.progress import Progress
from edgefuse.runtime import signals
from edgefuse.runtime.backends.backend import EngineBuilder, SessionOptions
from edgefuse.runtime.backends.choice import Backends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--threads", type=int, default=1, help="threads per rung (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--again", action="store_true", help="measure even if this machine was measured before")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Build engines; measure the rungs, or show what was measured before, and keep the figures beside the bundle."""
    with console.drawn_progress() as progress, open_bundle(arguments.bundle) as bundle:
        machine = rungs.describe(bundle, threads=arguments.threads, backend=arguments.backend)
        engines = build_engines(bundle, arguments.backend, progress)
        known = [entry for entry in signals.read_prepared(bundle.path, bundle.digest) if entry.machine == machine]
        if known and not arguments.again:
            measured = rungs.Measured(known[0].figures, known[0].pressure)
            path, fresh = signals.prepared_path(bundle.path), False
        else:
            measured = rungs.measure_all(
                bundle, threads=arguments.threads, backend=arguments.backend, progress=progress
            )
            path = signals.write_prepared(bundle.path, bundle.digest, machine, measured.figures, measured.pressure)
            fresh = True
    if arguments.json:
        pressure = {"pressure": measured.pressure, "busy": measured.pressure.seen}
        console.write_json(
            {"path": str(path), "measured_now": fresh, "figures": measured.figures, "engines": engines} | pressure
        )
        return 0
    if engines:
        console.write(f"engines: {engines['built']} built, {engines['known']} known")
    on = f"{machine.cpu}, {machine.threads} thread{'s' * (machine.threads > 1)}"
    console.write(", ".join(filter(None, (on, console.runtimes(machine), "rungs interleaved, cache off:"))))
    console.write(figures_table(measured.figures))
    if measured.pressure.busy:
        console.write(f"{console.busy(measured.pressure.seen)}: --again measures anew")
    console.write(f"{'written to' if fresh else 'measured before (--again measures anew), kept in'} {path}")
    return 0


def build_engines(bundle: Bundle, backend: str | None, progress: Progress) -> dict[str, int]:
    """Build what backends build from files on a device; return how many were built and known, if any does at all.

    Args:
        bundle: with the files.
        backend: another one than the bundle names, or None.
        progress: is told which file is built.
    """
    backends, candidates = Backends(bundle.manifest, backend), bundle.manifest.candidates
    done = {"built": 0, "known": 0}
    for position, candidate in enumerate(candidates):
        runtime = backends.of(candidate)
        if not isinstance(runtime, EngineBuilder):
            continue
        progress(position, len(candidates), f"prepare {candidate.id}")
        outcome = runtime.prepare(bundle.read(candidate.file), candidate.inputs, SessionOptions(plan=candidate.plan))
        if outcome:
            done[outcome] += 1
    if not any(done.values()):
        return {}
    progress(len(candidates), len(candidates), "prepare engines")
    return done


def figures_table(figures: dict[str, Figure]) -> list[str]:
    """Lay out figures by rung."""
    header = ("rung", "p50 ms", "p90 ms", "p99 ms", "runs", "peak memory")
    rows = ((name, *console.figure(figure)) for name, figure in figures.items())
    return console.table(header, rows)
