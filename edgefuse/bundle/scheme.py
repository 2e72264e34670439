"""The grammar of schemes: how numeric precision is written down, for all targets alike."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from edgefuse.bundle.spec import Record

Calibrator: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]

GRAMMAR = re.compile(r"(?:[a-z]+[0-9]*|[a-z]+_w[a-z]+[0-9]+_a[a-z]+[0-9]+)(?:\.[a-z][a-z0-9]*)*")
"""A name, then qualifiers after dots: `float`, `fp16`, `static_wi8_ai8.u8.percentile`.

The name is a type, or how activations are quantized, with the types of weights (`w`) and activations (`a`) in bits:
integers (`i`) or floats (`f`).
"""

_EXCLUDED = msgspec.Meta(max_length=1024)


class Scheme(Record, frozen=True, kw_only=True):
    """A numeric precision.

    Attributes:
        name: `float`, `fp16` (weights; for `tensorrt` the arithmetic as well), `dynamic_wi8_af32` (int8 weights,
            activations quantized per run), `dynamic_wi4_af32` (the same with int4 weights), `static_wi8_ai8` (int8
            weights and activations, ranges from calibration), or what else a quantizer calls by the grammar.
        activation: sign of static activations: `u8` or `s8`; empty where it does not apply.
        granularity: of the weights.
        calibrator: how static ranges are chosen.
        balanced: whether ranges were evened out between layers before (SmoothQuant, cross-layer equalisation).
        corrected: whether biases were moved by the mean error that quantization made.
        fitted: whether weights were rounded by the inputs that they are multiplied with, not each to the nearest step.
        table_bits: of embedding tables in a scheme with int8 weights; tables lose less by four bits than products do.
        exclude: patterns of operator types or node names that stay float.
        rest: the type of the values that are not quantized: `float` (float32) or `fp16`.
    """

    name: str
    activation: Literal["", "u8", "s8"] = ""
    granularity: Literal["channel", "tensor"] = "channel"
    calibrator: Calibrator = "minmax"
    balanced: bool = False
    corrected: bool = False
    fitted: bool = False
    table_bits: Literal[4, 8] = 8
    exclude: Annotated[tuple[str, ...], _EXCLUDED] = ()
    rest: Literal["float", "fp16"] = "float"

    @property
    def id(self) -> str:
        """The scheme as text that is safe in file names, such as `static_wi8_ai8.u8`; of `exclude`, a hash."""
        parts: list[str] = [self.name]
        if self.activation:
            parts.append(self.activation)
        if self.granularity != "channel":
            parts.append(self.granularity)
        if self.calibrator != "minmax":
            parts.append(self.calibrator)
        parts += ["balanced"] * self.balanced + ["corrected"] * self.corrected
        parts += ["fitted"] * self.fitted + ["table4"] * (self.table_bits == 4)
        if self.rest != "float":
            parts.append(self.rest)
        if self.exclude:
            parts.append("x" + hashlib.sha256("\n".join(self.exclude).encode()).hexdigest()[:8])
        return ".".join(parts)
