"""How fast tokens come: the time to the first one, and how many a second after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from edgefuse.bundle.reader import Bundle
from edgefuse.measure.latency import single_stream
from edgefuse.measure.rungs import makes_tokens, open_rungs, with_tokens
from edgefuse.progress import Progress
from edgefuse.runtime.decoding import TOKEN
from edgefuse.runtime.pipeline import Inputs

_ROUNDS, _MAX_SECONDS = 31, 30.0


@dataclass(frozen=True)
class TokenRate:
    """The speed of a rung that makes tokens.

    Attributes:
        first_token_ms: the median time from preprocessed inputs to the first token: encoders, fusion and one step.
        tokens_per_second: of the tokens after it, by the medians of a generation of one token and of `tokens`.
        tokens: of a generation that was timed: as many as the model makes at most.
    """

    first_token_ms: float
    tokens_per_second: float
    tokens: int


def token_rates(
    bundle: Bundle, inputs: Inputs, names: Sequence[str], *, threads: int, backend: str | None, progress: Progress
) -> dict[str, TokenRate]:
    """Return how fast rungs make tokens, by name, all timed in one interleaved run; nothing of another model.

    Args:
        bundle: that has the rungs.
        inputs: preprocessed.
        names: of the rungs.
        threads: of each session.
        backend: another one than the bundle names, or None.
        progress: is told what is timed.
    """
    if not makes_tokens(bundle.manifest):
        return {}
    every = with_tokens(inputs, bundle.manifest)
    count = every.values[TOKEN].shape[1]
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for kind, some in (("first", with_tokens(inputs, bundle.manifest, 1)), ("all", every)):
            opened = open_rungs(stack, bundle, some, names, threads=threads, backend=backend)
            calls |= {f"{kind} {name}": call for name, call in opened.items()}
        latencies = single_stream(rounds=_ROUNDS, max_seconds=_MAX_SECONDS)(calls, progress)
    rates = {}
    for name in names:
        first, whole = latencies.p50_ms(f"first {name}"), latencies.p50_ms(f"all {name}")
        rates[name] = TokenRate(first, 1e3 * max(count - 1, 1) / max(whole - first, 1e-6), count)
    return rates
