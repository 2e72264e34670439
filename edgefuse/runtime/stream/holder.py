"""What a stream runs on, and who may change that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edgefuse.bundle.manifest import Manifest, Rung
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.cache import FeatureCache
from edgefuse.runtime.graph import Inputs
from edgefuse.runtime.incremental import Incremental
from edgefuse.runtime.preprocess import Preprocessor


class Runner(Protocol):
    """What a stream needs of a `Pipeline`; see there."""

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""

    @property
    def rung(self) -> Rung:
        """That it runs at."""

    @property
    def cache(self) -> FeatureCache:
        """Of the open bundle."""

    @property
    def preprocessors(self) -> Mapping[str, Preprocessor]:
        """By modality, in the order of the model's."""

    @property
    def streaming(self) -> tuple[str, ...]:
        """The modalities that can be encoded chunk by chunk at its rung."""

    def incremental(self, modality: str) -> Incremental:
        """Return what does that."""

    def infer(self, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name."""

    def at(self, rung: str | None) -> Any:
        """Return one at another rung of the same open bundle."""


class Holder(Protocol):
    """Whoever holds the pipeline that runs now: a stream asks for it at each prediction.

    `pipeline` can be set, too: to the same at another rung.
    """

    @property
    def pipeline(self) -> Runner:
        """The one to run next."""


class Change(Protocol):
    """What a ladder decides."""

    @property
    def rung(self) -> str:
        """To run at."""

    @property
    def without(self) -> tuple[str, ...]:
        """Modalities that are left out wherever others are given."""


class Ladder(Protocol):
    """Whoever decides at which rung to run."""

    def observe(self, now_s: float, took_s: float, deadline_s: float, rung: str) -> None:
        """Note how long a prediction took.

        Args:
            now_s: by the clock of this machine.
            took_s: from when it was due to the answer, without pauses of whoever asks.
            deadline_s: that it was to take at most; infinite if the stream has none.
            rung: at which it ran.
        """

    def decide(self, now_s: float) -> Change | None:
        """Return what to change, if anything."""
