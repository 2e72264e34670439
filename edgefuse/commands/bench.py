"""`edgefuse bench`: latency and memory of a bundle here, against a reference if one is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgefuse.bundle.manifest import Machine
from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.commands import console, modalities
from edgefuse.errors import MeasureError, needing
from edgefuse.measure import rungs
from edgefuse.measure.latency import Interleaved, Summary
from edgefuse.measure.rungs import ColdStart
from edgefuse.measure.statistics import Interval
from edgefuse.progress import Progress
from edgefuse.runtime.pipeline import Inputs, load

TAKES_EXTRA = True
SCENARIOS = ("single-stream",)
_MAX_SECONDS = 120.0


@dataclass(frozen=True)
class Baseline:
    """What a bundle is compared with: a name for the table, a call that predicts once, and what it is in words."""

    name: str
    call: Callable[[], object]
    describe: Callable[[], str]


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found; mappings are by rung, and `steady` has the reference, too.

    Attributes:
        inputs: where they came from, and what is present.
        feature_cache: always off: caching across queries would measure the cache.
        baseline: what `speedup` is over, in words; None without `--against`.
        steady: from one interleaved run.
        speedup_over_float: over the rung of float stages in the same runtime, where the bundle has one.
        cold: each in a process of its own.
    """

    scenario: str
    machine: Machine
    inputs: str
    feature_cache: bool
    rounds: int
    baseline: str | None
    steady: dict[str, Summary]
    speedup: dict[str, Interval]
    speedup_over_float: dict[str, Interval]
    cold: dict[str, ColdStart]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "Inputs are the golden ones of the bundle, or files, given as 'edgefuse run' takes them."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--against", metavar="BUNDLE|MODULE:CALLABLE", help="another bundle, or what builds a torch model"
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0])
    parser.add_argument("--rung", action="append", help="measure this one only; may be repeated (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="threads for each of them (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--rounds", type=int, default=rungs.P99_ROUNDS, help="at the least; p99 needs 662 (default)")
    parser.add_argument("--seed", type=int, default=0, help="of the order within the rounds")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Measure cold starts, then all rungs and the reference in turn."""
    with console.drawn_progress() as progress, open_bundle(arguments.bundle) as bundle:
        benchmark = _measure(bundle, arguments, *_inputs(bundle, arguments, extra), progress)
    if arguments.json:
        console.write_json(benchmark)
    else:
        _print(benchmark)
    return 0


def _measure(
    bundle: Bundle, arguments: argparse.Namespace, inputs: Inputs, origin: str, progress: Progress
) -> Benchmark:
    rung_of = {rung.name: rung for rung in bundle.manifest.rungs}
    names = [bundle.manifest.rung(name).name for name in dict.fromkeys(arguments.rung or rung_of)]
    options = {"threads": arguments.threads, "backend": arguments.backend}
    cold: dict[str, ColdStart] = {}
    with ExitStack() as stack:
        calls = rungs.open_rungs(stack, bundle, inputs, names, **options)
        for name in names:
            cold[name] = rungs.cold_start(bundle.path, inputs, rung=name, **options)
            progress(len(cold), len(names), "cold starts")
        baseline = None
        if arguments.against:
            progress(0, 0, "open the reference")
            baseline = _baseline(stack, arguments, inputs)
            calls[baseline.name] = baseline.call
        timing = Interleaved(min_rounds=arguments.rounds, max_seconds=_MAX_SECONDS, seed=arguments.seed)
        latencies = timing(calls, progress)
    floats = next((name for name in names if rung_of[name].objective == "float"), None)
    return Benchmark(
        scenario=arguments.scenario,
        machine=rungs.describe(bundle, **options),
        inputs=f"{origin} ({' + '.join(inputs.present)})",
        feature_cache=False,
        rounds=latencies.rounds,
        baseline=baseline.describe() if baseline else None,
        steady={name: latencies.summary(name) for name in calls},
        speedup={name: latencies.ratio(baseline.name, name) for name in names} if baseline else {},
        speedup_over_float={n: latencies.ratio(floats, n) for n in names if n != floats} if floats else {},
        cold=cold,
    )


def _inputs(bundle: Bundle, arguments: argparse.Namespace, extra: Sequence[str]) -> tuple[Inputs, str]:
    raw = modalities.parse(bundle.manifest.model, extra, arguments.parser)
    if not raw:
        return rungs.golden_inputs(bundle), "golden inputs"
    with load(bundle, backend="null") as pipeline:
        return pipeline.preprocess(**raw), "files"


def _baseline(stack: ExitStack, arguments: argparse.Namespace, inputs: Inputs) -> Baseline:
    """Open what the bundle is compared with."""
    against: str = arguments.against
    if ":" in against and not Path(against).exists():
        return _torch_baseline(against, arguments.threads, inputs)
    other = stack.enter_context(open_bundle(Path(against)))
    wanted = {key: (value.dtype, value.shape) for key, value in inputs.values.items()}
    known = {f"{m.name}.{tensor.name}" for m in other.manifest.model.modalities for tensor in m.tensors}
    known |= {f"{m.name}.length" for m in other.manifest.model.modalities if m.length}
    if set(wanted) - known:
        raise MeasureError(
            "the two bundles do not take the same inputs",
            got=", ".join(sorted(wanted)),
            expected=", ".join(sorted(known)),
        )
    rung = other.manifest.default_rung
    calls = rungs.open_rungs(stack, other, inputs, [rung], threads=arguments.threads, backend=None)
    name = f"{Path(against).stem}/{rung}"
    return Baseline(name, calls[rung], lambda: f"{against}, rung '{rung}', backend {other.manifest.backend}")


def _torch_baseline(factory: str, threads: int, inputs: Inputs) -> Baseline:
    with needing("a torch reference", extra="compile"):
        from edgefuse.compiler.reference import open_reference
    reference = open_reference(factory, threads)
    reference.run(inputs.values, inputs.present)
    return Baseline("torch", lambda: reference.run(inputs.values, inputs.present), lambda: reference.description)


def _print(benchmark: Benchmark) -> None:
    threads = benchmark.machine.threads
    runtimes = ", ".join(f"{name} {version}" for name, version in benchmark.machine.runtimes.items())
    console.write(f"{benchmark.scenario}, batch 1, {threads} thread{'s' * (threads > 1)} on {benchmark.machine.cpu}")
    console.write(f"{runtimes}; {benchmark.rounds} rounds, interleaved; feature cache off; {benchmark.inputs}")
    if benchmark.baseline:
        console.write(f"reference: {benchmark.baseline}")
    console.write("\nsteady state (percentiles: MLPerf early stopping; '-' where it asks for more rounds)")
    console.write(console.table(_STEADY, (_steady_row(benchmark, name) for name in benchmark.steady)))
    console.write("\ncold start and memory, each in a process of its own")
    header = ("name", "import ms", "load ms", "first ms", "peak memory", "growth in 200 calls")
    rows = (
        (
            name,
            *(console.milliseconds(value) for value in (cold.import_ms, cold.load_ms, cold.first_inference_ms)),
            console.size(cold.peak_rss_bytes),
            console.size(cold.growth_bytes),
        )
        for name, cold in benchmark.cold.items()
    )
    console.write(console.table(header, rows))


_STEADY = ("name", "p50 ms", "p90 ms", "p99 ms", "mean ms", "speed-up [95 %]", "over float [95 %]")


def _steady_row(benchmark: Benchmark, name: str) -> tuple[str, ...]:
    summary = benchmark.steady[name]
    latencies = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.mean_ms)
    ratios = (benchmark.speedup.get(name), benchmark.speedup_over_float.get(name))
    return name, *map(console.milliseconds, latencies), *map(_spelled, ratios)


def _spelled(ratio: Interval | None) -> str:
    return f"{ratio.value:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "-"
