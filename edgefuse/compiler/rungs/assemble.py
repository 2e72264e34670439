"""Put bundles together: the manifest and the files of a target's rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgefuse.bundle.manifest import GoldenCase, Manifest, Rung
from edgefuse.compiler.candidates import golden
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search import Combination


@dataclass(frozen=True)
class Assembly:
    """The content of a target's bundle, but for the figures and the report.

    Attributes:
        data: the target's candidates.
        chosen: rung name to combination, the default rung first.
    """

    data: TargetData
    chosen: Mapping[str, Combination]

    @property
    def subject(self) -> Subject:
        """The model and its data."""
        return self.data.material.subject

    def manifest(self, rungs: Sequence[Rung]) -> Manifest:
        """Return the manifest of a bundle with these rungs; the first one is the default."""
        subject, data = self.subject, self.data
        built, checked = data.candidates.by_id, data.candidates.checked
        used = sorted({candidate for rung in rungs for candidate in rung.candidates.values()})
        return Manifest(
            target=data.candidates.target,
            model=subject.spec,
            stages=subject.specs,
            candidates=tuple(built[id_].record(data.tools(built[id_]).target, checked[id_].tolerance) for id_ in used),
            rungs=tuple(rungs),
            default_rung=rungs[0].name,
            golden=self._golden_cases[0],
            files=(),
            provenance=msgspec.structs.replace(subject.provenance, tools=data.toolchains.versions()),
        )

    def contents(self, rungs: Sequence[Rung]) -> dict[str, bytes]:
        """Return the files of a bundle with these rungs."""
        built, data = self.data.candidates.by_id, self.data
        files = self._golden_cases[1] | {f"assets/{name}": data for name, data in self.subject.assets.items()}
        for rung in rungs:
            for candidate in rung.candidates.values():
                one = built[candidate]
                files[one.file(data.tools(one).target)] = one.read()
        return files

    @cached_property
    def _golden_cases(self) -> tuple[tuple[GoldenCase, ...], dict[str, bytes]]:
        """The golden cases of all forms of stages that some rung uses, and of the unpruned ones."""
        material, built = self.data.material, self.data.candidates.by_id
        used = {built[candidate].form for combination in self.chosen.values() for candidate in combination.values()}
        forms = [form for spec in self.subject.specs for form in material.forms.of(spec.name)]
        kept = [form for form in forms if form.pruning is None or golden.form(form) in used]
        return golden.cases(kept, material.golden)


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
