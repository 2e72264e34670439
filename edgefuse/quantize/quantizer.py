"""The protocol of a quantizer: how a scheme is applied to a target's float file."""

from __future__ import annotations

from typing import Protocol

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.export.target import Lowered
from edgefuse.stages.stage import FeedSource


class Quantizer(Protocol):
    """Applies schemes to the files of one target."""

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return the schemes worth trying on a stage, `float` not among them. A frontend gets none."""

    def known(self) -> tuple[Scheme, ...]:
        """Return every scheme that a recipe may name by its id, those for special cases among them.

        A scheme with `balanced` applies to the float file of a stage that went through `balance.balance`, one with
        `fitted` to that of a stage that went through `fitting.fit`.
        """

    def layers(self, lowered: Lowered, scheme: Scheme) -> tuple[str, ...]:
        """Name the layers with weights that a scheme quantizes in a float file, in order, as `exclude` knows them."""

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file.

        Args:
            lowered: the float file; its interface (ports, types, shapes) is kept.
            scheme: what to apply.
            calibration: starts a pass over feeds of this stage; only static schemes call it.

        Raises:
            QuantizeError: if the scheme cannot be applied or calibration is impossible (no feeds, NaN).
        """

    def versions(self) -> dict[str, str]:
        """Return the versions of the tools that decide the bytes of a quantized file."""
