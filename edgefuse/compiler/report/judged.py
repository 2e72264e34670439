"""Records of `report.json`: outputs after the first, and what a model that makes tokens says."""

from __future__ import annotations

from edgefuse.compiler.report.part import Interval, Part


class OutputReference(Part, frozen=True, kw_only=True):
    """An output after the first that a metric judges, as the full-precision model gives it.

    Attributes:
        metric: its name, as `mae`.
        lower_is_better: whether it is an error.
        accuracy: the metric by subset, over the test items that have a target for the output.
        limits: what may be lost in each subset that the budget binds, in the metric's own unit.
        share: of what the reference reaches, where the recipe asks for a share.
    """

    metric: str
    accuracy: dict[str, float]
    lower_is_better: bool = False
    limits: dict[str, float] = {}
    share: float | None = None


class OutputRung(Part, frozen=True, kw_only=True):
    """The metric of an output after the first on a rung, by subset, and the 95 % interval of what was lost of it."""

    accuracy: dict[str, float]
    drop_ci95: dict[str, Interval]


class SaidReport(Part, frozen=True, kw_only=True):
    """What a rung says by itself, token by token, over `items` test items, against what the reference says.

    `tokens_equal` is the share of the reference's tokens that stand at the same place, `sentences_equal` that of whole
    sentences. `bleu` is against the targets (one each, up to four words); there is none where no item has one.
    """

    items: int
    tokens_equal: float
    sentences_equal: float
    bleu: float | None = None
    reference_bleu: float | None = None
