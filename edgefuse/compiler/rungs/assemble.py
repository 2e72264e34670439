"""Put bundles together: the manifest and the files of what was chosen for a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgefuse.bundle.manifest import GoldenCase, Manifest, Rung
from edgefuse.compiler.candidates import golden as golden_table
from edgefuse.compiler.candidates.golden import GoldenInputs
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search import Combination
from edgefuse.compiler.target import TargetResult


@dataclass(frozen=True)
class Assembly:
    """What goes into a target's bundle, but for the figures and the report.

    Attributes:
        chosen: rung name to combination, the default rung first.
    """

    subject: Subject
    result: TargetResult
    chosen: Mapping[str, Combination]
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
            candidates=tuple(result.built[id_].record(suffix, result.checked[id_].tolerance) for id_ in used),
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
                files[f"stages/{candidate}{suffix}"] = self.result.built[candidate].read()
        return files

    @cached_property
    def _golden_cases(self) -> tuple[tuple[GoldenCase, ...], dict[str, bytes]]:
        """The golden cases of all forms of stages that some rung uses, and of the unpruned ones."""
        used = {self.result.built[c].form for combination in self.chosen.values() for c in combination.values()}
        forms = [form for name in (s.name for s in self.subject.specs) for form in self.subject.forms(name)]
        kept = [form for form in forms if form.pruning is None or golden_table.form(form) in used]
        return golden_table.cases(kept, self.golden)


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
