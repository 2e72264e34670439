"""The grammar of schemes, spelled out: what a recipe may name beyond what a quantizer offers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal, get_args

from edgefuse.bundle.manifest import Calibrator, Scheme

FP16 = Scheme(name="fp16")
INT4 = Scheme(name="dynamic_wi4_af32")

_GRANULARITIES: tuple[Literal["channel", "tensor"], ...] = ("channel", "tensor")


def static(*signs: Literal["u8", "s8"], correctable: bool) -> Iterator[Scheme]:
    """Yield every static scheme over these signs of activations; with and without corrected biases if possible."""
    choices = product(
        signs, _GRANULARITIES, get_args(Calibrator), (False, True), (False, True) if correctable else (False,)
    )
    for sign, granularity, calibrator, balanced, corrected in choices:
        yield Scheme(
            name="static_wi8_ai8",
            activation=sign,
            granularity=granularity,
            calibrator=calibrator,
            balanced=balanced,
            corrected=corrected,
        )


def dynamic() -> Iterator[Scheme]:
    """Yield every scheme whose activations are quantized per run: with weights in int8, and in int4."""
    for granularity, balanced in product(_GRANULARITIES, (False, True)):
        yield Scheme(name="dynamic_wi8_af32", granularity=granularity, balanced=balanced)
    yield INT4
