"""Runners of a stage over samples: a candidate's file in its runtime, or torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from edgefuse.bundle.spec import ModelSpec, StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.subject import Subject
from edgefuse.runtime.backends.backend import Session
from edgefuse.runtime.decoding import repeated
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Feeds, TorchStage

Array: TypeAlias = npt.NDArray[np.generic]

Block: TypeAlias = list[Array]
"""One value of some samples, each with a batch of one: shapes may differ."""


class Runner(Protocol):
    """Something that runs a stage: a candidate's file in its runtime, or torch.

    `identity` tells what runs, for cache keys; `batch` is how many samples one call may take (files: the deployed 1).
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    @property
    def batch(self) -> int: ...  # noqa: D102

    def session(self) -> Session: ...  # noqa: D102


@dataclass(frozen=True)
class TorchRunner:
    """A stage in torch at full precision: the reference that accuracy is held against."""

    stage: TorchStage
    batch: int = 32

    @cached_property
    def identity(self) -> str:
        """The stage's weights and code; hashing them takes a while."""
        return fingerprint.once(self.stage.module) + torch.__version__

    def session(self) -> Session:
        """Return itself: a module needs no opening."""
        return self

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the module on a whole batch."""
        return run_torch(self.stage, feeds)


def in_torch(subject: Subject) -> dict[str, Runner]:
    """Return runners in torch for all stages of a subject."""
    return {stage.spec.name: TorchRunner(stage) for stage in subject.stages}


def over_blocks(
    runners: Mapping[str, Runner], spec: ModelSpec
) -> Callable[[StageSpec, dict[str, Block]], dict[str, Block]]:
    """Return what runs a stage on a block of samples, as a stage graph's executor wants it; files are opened once.

    Args:
        runners: by stage.
        spec: of the model.
    """
    sessions: dict[str, Session] = {}

    def run_stage(stage: StageSpec, feeds: dict[str, Block]) -> dict[str, Block]:
        runner = runners[stage.name]
        session = sessions.get(stage.name) or sessions.setdefault(stage.name, session_of(stage, runner, spec))
        samples = [dict(zip(feeds, values, strict=True)) for values in zip(*feeds.values(), strict=True)]
        alone = any(value.size == 0 for value in samples[0].values())  # each sentence goes on from its own tokens
        results = list(_batched(session, samples, 1 if alone else runner.batch))
        return {port: [result[port] for result in results] for port in results[0]}

    return run_stage


def session_of(stage: StageSpec, runner: Runner, spec: ModelSpec) -> Session:
    """Return what runs a stage once; of a decoder, all its steps.

    Args:
        stage: to run.
        runner: of it.
        spec: of the model.
    """
    return repeated(runner.session(), stage, spec)


def _batched(session: Session, feeds: Sequence[Feeds], batch: int) -> Iterator[dict[str, Array]]:
    """Run a session over feeds, stacking up to `batch` neighbours of the same shapes; yield one result per feed."""
    pending: list[Feeds] = []
    for feed in feeds:
        if pending and (len(pending) == batch or not _same_shapes(pending[0], feed)):
            yield from _stacked(session, pending)
            pending = []
        pending.append(feed)
    yield from _stacked(session, pending)


def _same_shapes(one: Feeds, other: Feeds) -> bool:
    return all(one[name].shape == other[name].shape for name in one)


def _stacked(session: Session, feeds: Sequence[Feeds]) -> Iterator[dict[str, Array]]:
    if len(feeds) <= 1:
        yield from (session.run(feed) for feed in feeds)
        return
    results = session.run({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
    for index in range(len(feeds)):
        yield {name: array[index : index + 1] for name, array in results.items()}
