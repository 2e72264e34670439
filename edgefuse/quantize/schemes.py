"""The grammar of schemes: the ones that a recipe may name beyond those that a quantizer offers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal, get_args

import msgspec

from edgefuse.bundle.scheme import Calibrator, Scheme

FP16 = Scheme(name="fp16")
INT4 = Scheme(name="dynamic_wi4_af32")
INT4_TABLE = Scheme(name="dynamic_wi8_af32", table_bits=4)

SMALLEST_PRODUCT = 4096
"""Weights of a matrix product below which converting the activation costs more than int8 saves."""

QUANTIZABLE = f"a convolution, or a matrix product by {SMALLEST_PRODUCT:,} weights or more,"
"""What a stage must hold for int8 to be worth a try, for errors."""

_TABLES: tuple[Literal[4, 8], ...] = (8, 4)
_GRANULARITIES: tuple[Literal["channel", "tensor"], ...] = ("channel", "tensor")


def static(*signs: Literal["u8", "s8"], correctable: bool) -> Iterator[Scheme]:
    """Yield every static scheme over these signs of activations; with and without corrected biases if possible."""
    corrections = (False, True) if correctable else (False,)
    choices = product(signs, _GRANULARITIES, get_args(Calibrator), (False, True), corrections, (False, True), _TABLES)
    for sign, granularity, calibrator, balanced, corrected, fitted, table_bits in choices:
        if fitted and granularity == "tensor":  # weights are fitted to a scale per channel
            continue
        yield Scheme(
            name="static_wi8_ai8",
            activation=sign,
            granularity=granularity,
            calibrator=calibrator,
            balanced=balanced,
            corrected=corrected,
            fitted=fitted,
            table_bits=table_bits,
        )


def closer(scheme: Scheme) -> tuple[Scheme, Scheme]:
    """Return static schemes that stay closer to float at the same cost, the quicker one to make first.

    Both have fitted weights and ranges of least error; the second has them on a balanced stage.
    """
    fitted = msgspec.structs.replace(scheme, granularity="channel", calibrator="mse", fitted=True)
    return fitted, msgspec.structs.replace(fitted, balanced=True)


def dynamic() -> Iterator[Scheme]:
    """Yield every scheme whose activations are quantized per run: with weights in int8, and in int4."""
    for granularity, balanced, table_bits in product(_GRANULARITIES, (False, True), _TABLES):
        yield Scheme(name="dynamic_wi8_af32", granularity=granularity, balanced=balanced, table_bits=table_bits)
    yield INT4
