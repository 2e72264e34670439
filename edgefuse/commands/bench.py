"""`edgefuse bench`: latency and memory of a bundle here or on a device, against a reference if one is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import get_args

import msgspec

from edgefuse.bundle.reader import Bundle, open_bundle
from edgefuse.commands import console, modalities
from edgefuse.commands.arguments import seconds, whole
from edgefuse.device import bench as remote
from edgefuse.device.device import TIMEOUT_SECONDS, device_of
from edgefuse.device.session import PYTHON, DeviceSession
from edgefuse.errors import MeasureError, needing
from edgefuse.measure import placement, rungs
from edgefuse.measure.benchmark import Baseline, Benchmark, Scenario, Settings, against
from edgefuse.measure.latency import BURST
from edgefuse.measure.statistics import Interval
from edgefuse.progress import Progress
from edgefuse.runtime import pressure
from edgefuse.runtime.pipeline import Inputs, load

TAKES_EXTRA = True
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "Inputs are the golden ones of the bundle, or files, given as 'edgefuse run' takes them."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--against", metavar="BUNDLE|MODULE:CALLABLE", help="another bundle, or a callable that returns a torch model"
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0])
    parser.add_argument("--rung", action="append", help="rung to measure; may be repeated (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contender (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument(
        "--rounds",
        type=whole(1, 10**9),
        default=rungs.P99_ROUNDS,
        help=f"least number of rounds, each of {BURST} timed calls; p99 needs {rungs.P99_ROUNDS} (default)",
    )
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of the order of calls within a round")
    console.add_min_placement(parser)
    console.add_strict(parser)
    parser.add_argument("--device", metavar="URI", help="device to measure on: ssh://user@host[:port] or adb://serial")
    parser.add_argument(
        "--device-python", default=PYTHON, metavar="PATH", help=f"the device's Python (default: {PYTHON})"
    )
    parser.add_argument(
        "--device-timeout",
        type=seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"seconds that the device may take to answer (default: {TIMEOUT_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Measure cold starts, then all rungs and the reference in turn: here, or on a device."""
    settings = Settings(
        rungs=tuple(arguments.rung or ()),
        threads=arguments.threads,
        backend=arguments.backend,
        rounds=arguments.rounds,
        seed=arguments.seed,
        scenario=arguments.scenario,
    )
    with console.drawn_progress() as progress, open_bundle(arguments.bundle) as bundle:
        inputs, origin = _inputs(bundle, arguments, extra)
        measure = _here if arguments.device is None else _there
        benchmark = measure(bundle, settings, inputs, origin, arguments, progress)
    if arguments.json:
        console.write_json(msgspec.to_builtins(benchmark) | {"busy": benchmark.busy})
    else:
        _print(benchmark)
    if arguments.min_placement is not None:
        placement.require(benchmark.placement, arguments.min_placement)
    if arguments.strict:
        pressure.require("the rungs were", benchmark.busy)
    return 0


def _inputs(bundle: Bundle, arguments: argparse.Namespace, extra: Sequence[str]) -> tuple[Inputs, str]:
    raw = modalities.parse(bundle.manifest.model, extra, arguments.parser)
    if not raw:
        return rungs.golden_inputs(bundle), "golden inputs"
    with load(bundle, backend="null") as pipeline:
        return pipeline.preprocess(**raw), "files"


def _here(
    bundle: Bundle,
    settings: Settings,
    inputs: Inputs,
    origin: str,
    arguments: argparse.Namespace,
    progress: Progress,
) -> Benchmark:
    with ExitStack() as stack:
        return settings(bundle, inputs, origin, progress, _baseline(stack, arguments, inputs))


def _there(
    bundle: Bundle,
    settings: Settings,
    inputs: Inputs,
    origin: str,
    arguments: argparse.Namespace,
    progress: Progress,
) -> Benchmark:
    if arguments.against and _is_factory(arguments.against):
        raise MeasureError(
            "a torch reference cannot run on a device",
            got=f"--against {arguments.against} with --device",
            expected="a bundle",
        )
    progress(0, 0, "connect")
    device = device_of(arguments.device)
    with DeviceSession(device, arguments.device_python, arguments.device_timeout) as session:
        return remote.bench(session, bundle.path, settings, inputs, origin, progress, arguments.against)


def _baseline(
    stack: ExitStack, arguments: argparse.Namespace, inputs: Inputs
) -> Callable[[ExitStack], Baseline] | None:
    """Return what opens the reference, if one is given."""
    given: str | None = arguments.against
    if given is None:
        return None
    if _is_factory(given):
        opened = cache(lambda: _torch_baseline(given, arguments.threads, inputs))  # it may be compiled, for minutes
        return lambda _: opened()
    return against(stack.enter_context(open_bundle(Path(given))), given, inputs, arguments.threads)


def _is_factory(given: str) -> bool:
    return ":" in given and not Path(given).exists()


def _torch_baseline(factory: str, threads: int, inputs: Inputs) -> Baseline:
    with needing("a torch reference", extra="compile"):
        from edgefuse.compiler.evaluation.reference import open_reference
    reference = open_reference(factory, threads)
    reference.run(inputs.values, inputs.present)
    return Baseline("torch", lambda: reference.run(inputs.values, inputs.present), lambda: reference.description)


def _print(benchmark: Benchmark) -> None:
    threads = benchmark.machine.threads
    console.write(f"{benchmark.scenario}, batch 1, {threads} thread{'s' * (threads > 1)} on {benchmark.machine.cpu}")
    rounds = f"{benchmark.rounds} rounds of {BURST} calls, interleaved; feature cache off; {benchmark.inputs}"
    console.write(f"{console.runtimes(benchmark.machine)}; {rounds}")
    if benchmark.baseline:
        console.write(f"reference: {benchmark.baseline}")
    console.write("", "steady state (percentiles: MLPerf early stopping; '-' where it asks for more rounds)")
    console.write(console.table(_STEADY, (_steady_row(benchmark, name) for name in benchmark.steady)))
    console.write("", "cold start and memory, each in a process of its own")
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
    if benchmark.tokens:
        console.write("", "tokens, one after the other")
        rates = (
            (name, console.milliseconds(rate.first_token_ms), f"{rate.tokens_per_second:.0f}", str(rate.tokens))
            for name, rate in benchmark.tokens.items()
        )
        console.write(console.table(("name", "first token ms", "tokens/s", "tokens"), rates))
    if benchmark.placement:
        console.write("", "runs where asked")
        shares = ((found.candidate, placement.spelled(found)) for found in benchmark.placement)
        console.write(console.table(("candidate", "operators"), shares))
    if benchmark.busy:
        console.write("", console.busy(benchmark.busy))


_STEADY = ("name", "p50 ms", "p90 ms", "p99 ms", "mean ms", "speed-up [95 %]", "over float [95 %]")


def _steady_row(benchmark: Benchmark, name: str) -> tuple[str, ...]:
    summary = benchmark.steady[name]
    latencies = (summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.mean_ms)
    ratios = (benchmark.speedup.get(name), benchmark.speedup_over_float.get(name))
    return name, *map(console.milliseconds, latencies), *map(_spelled, ratios)


def _spelled(ratio: Interval | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.value:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}]" + " busy" * ratio.marked
