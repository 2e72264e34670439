"""What a decoder's step costs over the bare runtime's own: `python -m benchmarks.decoder_steps BUNDLE`.

The bare runtime runs the same opened file with buffers of its own: ONNX Runtime with I/O binding, of which each state
has two; LiteRT with its tensors set, and states handed on. Both take the same tokens, in shuffled order. Compared is
the processor's time of the thread (single-threaded runtimes): medians, and a bootstrap interval of their ratio.

With `--generations N`, so many greedy ones follow, and by how much the memory of the process grew meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.reader import open_bundle
from edgefuse.measure.memory import current_rss_bytes
from edgefuse.measure.rungs import golden_inputs, with_tokens
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.decoding import TOKEN, DecoderSession
from edgefuse.runtime.pipeline import load

Array: TypeAlias = npt.NDArray[Any]
_ROUNDS, _WARM, _DRAWS = 400, 40, 2000


def main(arguments: list[str] | None = None) -> int:
    """Measure the default rung of a bundle, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--rung")
    parser.add_argument("--generations", type=int, default=0)
    given = parser.parse_args(arguments)
    with open_bundle(given.bundle) as bundle, load(bundle, rung=given.rung, cache=False) as pipeline:
        inputs = golden_inputs(bundle)
        with pipeline._calling() as graph:
            decoder, feeds = graph.decoder, graph.before_decoder(inputs.values, inputs.present)
        if decoder is None:
            parser.error("this bundle's model makes no tokens")
        candidate = bundle.manifest.candidate(pipeline.rung.candidates[bundle.manifest.stages[-1].name])
        tokens = with_tokens(inputs, bundle.manifest).values[TOKEN]
        bare = _bare(decoder, feeds, tokens, candidate.inputs, candidate.outputs)
        found: dict[str, object] = {"model": bundle.manifest.model.name, "candidate": candidate.id}
        found |= {"backend": candidate.backend, "rung": pipeline.rung.name}
        found |= _compared(bare, lambda: decoder.run({**feeds, decoder.ports.token: tokens}), tokens.shape[1])
        if given.generations:
            found |= _grown(lambda: pipeline.infer(inputs), given.generations)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def _compared(bare: Callable[[], object], ours: Callable[[], object], steps: int) -> dict[str, object]:
    """Return the medians of a step in microseconds, and their ratio with its 95 % interval."""
    calls = {"bare": bare, "ours": ours}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    for number in range(_WARM + _ROUNDS):
        for name in rng.permutation(list(calls)):
            before = time.thread_time_ns()
            calls[name]()
            if number >= _WARM:
                taken[name].append((time.thread_time_ns() - before) / steps / 1e3)
    times = {name: np.array(values) for name, values in taken.items()}
    drawn = rng.integers(0, _ROUNDS, (_DRAWS, _ROUNDS))
    ratios = np.median(times["ours"][drawn], axis=1) / np.median(times["bare"][drawn], axis=1)
    return {
        "steps": steps,
        "bare_us": float(np.median(times["bare"])),
        "ours_us": float(np.median(times["ours"])),
        "ratio": float(np.median(times["ours"]) / np.median(times["bare"])),
        "ci95": [float(edge) for edge in np.quantile(ratios, (0.025, 0.975))],
    }


def _grown(call: Callable[[], object], count: int) -> dict[str, object]:
    for _ in range(200):
        call()
    before = current_rss_bytes()
    for _ in range(count):
        call()
    return {"generations": count, "growth_bytes": current_rss_bytes() - before}


def _bare(
    decoder: DecoderSession,
    feeds: Mapping[str, Array],
    tokens: Array,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
) -> Callable[[], object]:
    """Return a call that takes all steps with the runtime's own interface, and picks a token of each."""
    session: Any = decoder.step
    bare = _bare_litert if hasattr(session, "interpreter") else _bare_onnx
    return bare(session, decoder, feeds, tokens, inputs, outputs)


def _bare_onnx(
    session: Any,
    decoder: DecoderSession,
    feeds: Mapping[str, Array],
    tokens: Array,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
) -> Callable[[], object]:
    runtime, states, shared = session._session, dict(decoder.ports.states), onnxruntime.OrtValue.ortvalue_from_numpy
    made = [{one.port: np.zeros(one.shape, one.dtype) for one in outputs} for _ in range(2)]
    fixed = {one.port: np.array(feeds[one.port], one.dtype) for one in inputs if one.port in feeds}
    numbers = {port: np.zeros(1, np.int32) for port in (decoder.ports.token, decoder.ports.position) if port}
    bindings = []
    for before, after in ((made[1], made[0]), (made[0], made[1])):
        binding = runtime.io_binding()
        for one in inputs:
            value = before[states[one.port]] if one.port in states else {**fixed, **numbers}[one.port]
            binding.bind_ortvalue_input(one.tensor, shared(value))
        for one in outputs:
            binding.bind_ortvalue_output(one.tensor, shared(after[one.port]))
        bindings.append(binding)

    def call() -> None:
        for taken, given in states.items():
            np.copyto(made[1][given], fixed[taken])
        for at, token in enumerate(tokens[0].tolist()):
            numbers[decoder.ports.token][0] = token
            if decoder.ports.position:
                numbers[decoder.ports.position][0] = at
            runtime.run_with_iobinding(bindings[at % 2])
            int(made[at % 2][decoder.ports.result].argmax())

    return call


def _bare_litert(
    session: Any,
    decoder: DecoderSession,
    feeds: Mapping[str, Array],
    tokens: Array,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
) -> Callable[[], object]:
    interpreter, ports = session.interpreter, decoder.ports
    places = {one.port: session._input_indices[one.tensor] for one in inputs}
    results = dict(zip((one.port for one in outputs), session._output_indices, strict=True))

    def call() -> None:
        session.holder = None  # its buffers are used behind its back
        state = {port: feeds[port] for port, _ in ports.states}
        for port, value in feeds.items():
            if port != ports.token:
                interpreter.set_tensor(places[port], value)
        for at, token in enumerate(tokens[0].tolist()):
            interpreter.set_tensor(places[ports.token], np.array([token], np.int32))
            if ports.position:
                interpreter.set_tensor(places[ports.position], np.array([at], np.int32))
            for port, value in state.items():
                interpreter.set_tensor(places[port], value)
            interpreter.invoke()
            made = {port: interpreter.get_tensor(index) for port, index in results.items()}
            int(made[ports.result].argmax())
            state = {taken: made[given] for taken, given in ports.states}

    return call


if __name__ == "__main__":
    sys.exit(main())
