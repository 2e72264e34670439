"""Put bundles together: the manifest and the files of a target's rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from edgefuse.bundle.manifest import GoldenCase, Manifest, Rung
from edgefuse.compiler.candidates import golden
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.target_data import TargetData
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.rungs.streams import Streams, streams_of
from edgefuse.compiler.search import Combination


@dataclass(frozen=True)
class Assembly:
    """The content of a target's bundle, but for the figures and the report.

    Attributes:
        data: the target's candidates.
        chosen: rung name to combination, the default rung first.
        streams: the steps of modalities that stream; a bundle that is only there to be measured has none.
    """

    data: TargetData
    chosen: Mapping[str, Combination]
    streams: Streams = field(default_factory=Streams)

    def streaming(self) -> Assembly:
        """Return the same with the steps of modalities that stream."""
        return replace(self, streams=streams_of(self.data, self.chosen))

    @property
    def subject(self) -> Subject:
        """The model and its data."""
        return self.data.material.subject

    def manifest(self, rungs: Sequence[Rung]) -> Manifest:
        """Return the manifest of a bundle with these rungs; the first one is the default."""
        subject, data = self.subject, self.data
        built, checked = self._built, {**data.candidates.checked, **self.streams.checked}
        used = sorted({*self.streams.built, *(id_ for rung in rungs for id_ in rung.candidates.values())})
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
            streamed=self.streams.records or msgspec.UNSET,
        )

    def contents(self, rungs: Sequence[Rung]) -> dict[str, bytes]:
        """Return the files of a bundle with these rungs."""
        built, data = self._built, self.data
        files = self._golden_cases[1] | {f"assets/{name}": data for name, data in self.subject.assets.items()}
        for candidate in (*self.streams.built, *(id_ for rung in rungs for id_ in rung.candidates.values())):
            one = built[candidate]
            files[one.file(data.tools(one).target)] = one.read()
        return files

    @property
    def _built(self) -> dict[str, Built]:
        return {**self.data.candidates.by_id, **self.streams.built}

    @cached_property
    def _golden_cases(self) -> tuple[tuple[GoldenCase, ...], dict[str, bytes]]:
        """The golden cases of all forms of stages that some rung uses, and of the unpruned ones."""
        material, built = self.data.material, self.data.candidates.by_id
        used = {built[candidate].form for combination in self.chosen.values() for candidate in combination.values()}
        forms = [form for spec in self.subject.specs for form in material.forms.of(spec.name)]
        kept = [form for form in forms if form.pruning is None or golden.form(form) in used]
        return golden.cases((*kept, *self.streams.stages), material.golden.joined(self.streams.inputs))


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
