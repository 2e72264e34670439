"""The candidates of a joined target: those of all its members, one of which gives the float files to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgefuse.compiler.candidates.built import joined_id
from edgefuse.compiler.candidates.target_data import Candidates


def join(target: str, parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of several targets as those of one.

    Args:
        target: the name of the joined target.
        parts: of its members; the float files of the first are what speed-ups are over.
    """
    stages = dict.fromkeys(stage for part in parts for stage in part.built)
    return Candidates(
        target,
        built={
            stage: tuple(replace(one, joined=True) for part in parts for one in part.built[stage]) for stage in stages
        },
        refused={joined_id(name, part.target): why for part in parts for name, why in part.refused.items()},
        checked={joined_id(name, part.target): seen for part in parts for name, seen in part.checked.items()},
    )
