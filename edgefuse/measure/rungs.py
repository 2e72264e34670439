"""What each rung of a bundle costs on this device: steady latency, cold start and memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.bundle.manifest import Figure, Machine, Manifest
from edgefuse.bundle.reader import Bundle
from edgefuse.bundle.spec import TokensOutput
from edgefuse.errors import BundleError
from edgefuse.graph.decoding import decoder_of
from edgefuse.measure import memory
from edgefuse.measure.agreement import read_tensor
from edgefuse.measure.latency import BURST, Interleaved, Latencies, single_stream
from edgefuse.progress import Progress, silent
from edgefuse.runtime import signals
from edgefuse.runtime.backends.backend import Array, versions_of
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.decoding import TOKEN
from edgefuse.runtime.pipeline import Inputs, load
from edgefuse.runtime.pressure import Pressure
from edgefuse.runtime.processor import checked_threads

P99_ROUNDS = math.ceil(662 / BURST)
"""Rounds of a single stream from which on MLPerf's early stopping gives a p99."""

_PRESENT = "present"


@dataclass(frozen=True)
class ColdStart:
    """The way from nothing to the first answer, in a fresh process, and the memory that it takes.

    Attributes:
        import_ms: of edgefuse and numpy.
        load_ms: reading, checking and opening the files, the import of the runtime included.
        first_inference_ms: the first call.
        peak_rss_bytes: of the process.
        growth_bytes: by how much its memory grew over the 200 calls after the first.
        waited: the share of its time that it waited for a processor; None where the system does not tell.
    """

    import_ms: float
    load_ms: float
    first_inference_ms: float
    peak_rss_bytes: int
    growth_bytes: int
    waited: float | None = None

    @property
    def total_ms(self) -> float:
        """From nothing to the first answer."""
        return self.import_ms + self.load_ms + self.first_inference_ms


def golden_inputs(bundle: Bundle) -> Inputs:
    """Return inputs for a whole pipeline, put together from the first golden case of each stage.

    Raises:
        BundleError: if the golden vectors do not cover a modality.
    """
    manifest = bundle.manifest
    first = {case.stage: case for case in reversed(manifest.golden)}
    values: dict[str, Array] = {}
    for stage in manifest.stages:
        kept = {tensor.port: tensor for tensor in first[stage.name].inputs} if stage.name in first else {}
        for port in stage.inputs:
            if port.source.kind in ("modality", "length") and port.tensor.name in kept:
                values[port.source.key] = read_tensor(bundle, kept[port.tensor.name])
    for modality in manifest.model.modalities:
        for tensor in modality.tensors:
            if f"{modality.name}.{tensor.name}" not in values:
                raise BundleError(
                    f"the golden vectors of this bundle do not cover the modality '{modality.name}'",
                    fix="measure with files, or compile it again",
                )
    inputs = Inputs(values=values, present=tuple(modality.name for modality in manifest.model.modalities))
    return with_tokens(inputs, manifest) if makes_tokens(manifest) else inputs


def makes_tokens(manifest: Manifest) -> bool:
    """Tell whether a bundle's model makes one token after the other."""
    return decoder_of(manifest.stages) is not None


def with_tokens(inputs: Inputs, manifest: Manifest, count: int | None = None) -> Inputs:
    """Return inputs with tokens for a decoder, so that every rung takes the same number of steps.

    Args:
        inputs: preprocessed.
        manifest: of a bundle whose model makes tokens.
        count: of tokens; as many as it makes at most if None.
    """
    output: TokensOutput = manifest.model.outputs[0]  # type: ignore[assignment] # `bundle.decoders` says so
    tokens = np.full((1, output.steps if count is None else count), output.start, np.int32)
    return replace(inputs, values={**inputs.values, TOKEN: tokens})


def open_rungs(
    stack: ExitStack, bundle: Bundle, inputs: Inputs, names: Iterable[str], *, threads: int, backend: str | None
) -> dict[str, Callable[[], object]]:
    """Open rungs, feature cache off, and return by name a call that predicts once; `stack` closes them.

    Args:
        stack: closes them.
        bundle: that has the rungs.
        inputs: preprocessed: each call predicts from them.
        names: of the rungs.
        threads: of each session.
        backend: another one than the bundle names, or None.
    """
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        pipeline = stack.enter_context(load(bundle, rung=name, threads=threads, backend=backend, cache=False))
        calls[name] = partial(pipeline.infer, inputs)
    return calls


def cold_start(bundle: Path, inputs: Inputs, *, rung: str, threads: int, backend: str | None) -> ColdStart:
    """Open a rung in a fresh process and predict.

    Args:
        bundle: its path.
        inputs: preprocessed.
        rung: its name.
        threads: of each session.
        backend: another one than the bundle names, or None.

    Raises:
        MeasureError: if the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        arrays: dict[str, Any] = {**inputs.values, _PRESENT: np.array(inputs.present)}
        np.savez(path, **arrays)
        value, peak = memory.call_in_child(
            memory.live,
            bundle=str(bundle.resolve()),
            inputs=str(path),
            rung=rung,
            threads=threads,
            backend=backend,
        )
    return ColdStart(**value, peak_rss_bytes=peak)


def describe(bundle: Bundle, *, threads: int, backend: str | None, names: Collection[str] | None = None) -> Machine:
    """Describe this machine as the key of figures of this bundle's runtime.

    Args:
        bundle: whose backends are described.
        threads: of each session.
        backend: another one than the bundle names, or None.
        names: of the rungs whose runtimes are described; all if None.
    """
    manifest, backends = bundle.manifest, Backends(bundle.manifest, backend)
    rungs = [rung for rung in manifest.rungs if names is None or rung.name in names]
    used = {candidate: None for rung in rungs for candidate in rung.candidates.values()}
    runtimes = {runtime.name: runtime for runtime in (backends.of(manifest.candidate(one)) for one in used)}
    return signals.describe(checked_threads(threads), versions_of(runtimes[name] for name in sorted(runtimes)))


def figure(latencies: Latencies, name: str, on: Machine, *, peak_rss_bytes: int | None) -> Figure:
    """Return what the manifest keeps of a measurement.

    Args:
        latencies: of an interleaved run.
        name: of the contender.
        on: the machine.
        peak_rss_bytes: of a process that ran it; None if it was not measured.
    """
    summary = latencies.summary(name)
    return Figure(
        machine=on,
        runs=summary.runs,
        p50_ms=summary.p50_ms,
        p90_ms=summary.p90_ms,
        p99_ms=summary.p99_ms,
        peak_rss_bytes=peak_rss_bytes,
    )


@dataclass(frozen=True)
class Measured:
    """The figures of a bundle's rungs, and what else the machine did while they were timed."""

    figures: dict[str, Figure]
    pressure: Pressure


def measure_all(
    bundle: Bundle,
    *,
    threads: int = 1,
    backend: str | None = None,
    timing: Interleaved | None = None,
    progress: Progress = silent,
) -> Measured:
    """Measure every rung of a bundle here, interleaved, and the peak memory of each in a process of its own.

    By default there are as many rounds as a p99 needs.

    Args:
        bundle: with the rungs.
        threads: of each session.
        backend: another one than the bundle names, or None.
        timing: how to time; a single stream of as many rounds as a p99 needs if None.
        progress: is told what is measured.
    """
    inputs = golden_inputs(bundle)
    names = [rung.name for rung in bundle.manifest.rungs]
    on = describe(bundle, threads=threads, backend=backend)
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        calls = open_rungs(stack, bundle, inputs, names, threads=threads, backend=backend)
        for name in names:
            start = cold_start(bundle.path, inputs, rung=name, threads=threads, backend=backend)
            peaks[name] = start.peak_rss_bytes
            progress(len(peaks), len(names), "measure memory")
        latencies = (timing or single_stream(rounds=P99_ROUNDS, max_seconds=60.0))(calls, progress)
    figures = {name: figure(latencies, name, on, peak_rss_bytes=peaks[name]) for name in names}
    return Measured(figures, latencies.pressure)
