"""Put bundles together: the manifest and the files of what was chosen for a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgefuse.bundle.manifest import GoldenCase, Manifest, Rung, Tolerance
from edgefuse.compiler import golden as golden_table
from edgefuse.compiler.golden import GoldenInputs
from edgefuse.compiler.search import Combination, Judged, Objective
from edgefuse.compiler.subject import Subject
from edgefuse.compiler.target import TargetResult

RUNG_NAMES: Mapping[Objective, str] = {"latency": "fastest", "size": "smallest"}
"""The name of the rung that an objective gives."""


@dataclass(frozen=True)
class Assembly:
    """What goes into a target's bundle, but for the figures and the report.

    Attributes:
        chosen: rung name to combination, the default rung first.
        tolerances: candidate id to what devices hold the file to.
    """

    subject: Subject
    result: TargetResult
    chosen: Mapping[str, Combination]
    tolerances: Mapping[str, Tolerance]
    golden: GoldenInputs

    def manifest(self, rungs: Sequence[Rung]) -> Manifest:
        """Return the manifest of a bundle with these rungs; the first one is the default."""
        result, subject = self.result, self.subject
        used = sorted({candidate for rung in rungs for candidate in rung.candidates.values()})
        suffix = result.toolchain.target.suffix
        tools = result.toolchain.versions()
        return Manifest(
            target=result.toolchain.target.name,
            backend=result.toolchain.target.backend,
            model=subject.spec,
            stages=subject.specs,
            candidates=tuple(result.built[id_].record(suffix, self.tolerances[id_]) for id_ in used),
            rungs=tuple(rungs),
            default_rung=rungs[0].name,
            golden=self._golden_cases[0],
            files=(),
            provenance=msgspec.structs.replace(subject.provenance, tools=tools),
        )

    def contents(self, rungs: Sequence[Rung]) -> dict[str, bytes]:
        """Return the files of a bundle with these rungs."""
        suffix = self.result.toolchain.target.suffix
        files = self._golden_cases[1] | {f"assets/{name}": data for name, data in self.subject.assets.items()}
        for rung in rungs:
            for candidate in rung.candidates.values():
                files[f"stages/{candidate}{suffix}"] = self.result.built[candidate].path.read_bytes()
        return files

    @cached_property
    def _golden_cases(self) -> tuple[tuple[GoldenCase, ...], dict[str, bytes]]:
        return golden_table.cases(self.subject.stages, self.golden)


def plain_rung(name: str, combination: Combination) -> Rung:
    """Return a rung without figures, for a bundle that is only there to be measured."""
    return Rung(
        name=name,
        objective="float",
        candidates=dict(combination),
        accuracy={},
        drop_ci95={},
        within_budget=False,
        size_bytes=0,
    )


def chosen_rungs(winners: Mapping[Objective, Judged], default: Objective) -> dict[str, Combination]:
    """Return rung name to combination, the one of the recipe's objective first."""
    objectives = sorted(winners, key=lambda objective: objective != default)
    return {RUNG_NAMES[objective]: winners[objective].candidates for objective in objectives}
