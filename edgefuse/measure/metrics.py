"""How the figures of a metric read. What computes them is `edgefuse.compiler.metrics`: a device judges nothing."""

from __future__ import annotations

import re

_SHARES = re.compile(
    r"(balanced_|token_)?accuracy(@\d+)?|(macro|micro)_(precision|recall|f1)|exact_match|average_precision|auroc|"
    r"recall@\d+|concordance|bleu|agreement|(character|word)_error_rate"
)


def is_share(name: str) -> bool:
    """Tell whether a metric goes from 0 to 1, so that its differences are points; others have a unit of their own."""
    return bool(_SHARES.fullmatch(name))
