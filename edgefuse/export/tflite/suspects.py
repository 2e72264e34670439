"""The operators of a stage that words of the converter or of the runtime mean: those speak of their own operators."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch.export import ExportedProgram
from torch.fx import Node

_MEANT: Mapping[str, tuple[str, ...]] = {
    "scatter": ("scatter", "index_put", "index_add", "index_copy", "index_fill", "masked_scatter"),
    "convolution": ("conv",),
    "conv_3d": ("conv",),
    "reduce_window": ("pool", "cumsum", "cumprod", "cummax", "cummin"),
    "dynamic_slice": ("slice", "select", "index"),
    "gather": ("gather", "index", "embedding", "take"),
    "sort": ("sort", "topk", "kthvalue", "median", "quantile"),
    "fft": ("fft",),
    "rng": ("rand", "dropout", "bernoulli", "normal"),
    "sign": ("sign", "floor_divide", "remainder", "adaptive"),
    "cholesky": ("cholesky", "inv", "solve"),
    "triangular_solve": ("solve", "inv", "lstsq"),
}
"""Parts of the names of operators of torch, by a word of the converter's or the runtime's."""


def meant_by(said: str, program: ExportedProgram) -> tuple[Node, ...]:
    """Return the operators of a traced stage that may be meant; none if no word is known.

    Args:
        said: by the converter or the runtime.
        program: the traced stage.
    """
    words = re.findall(r"(?:(?:mhlo|stablehlo|tfl|chlo)\.|STABLEHLO_)(\w+)", said)
    parts = tuple(part for word in words for part in _MEANT.get(word.lower(), ()))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return tuple(node for node in calls if any(part in _name(node) for part in parts))


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]
