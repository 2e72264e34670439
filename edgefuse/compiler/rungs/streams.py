"""The steps of modalities that stream: made for the rungs of a bundle once these are chosen (decision 120)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np

from edgefuse.bundle.manifest import Streamed
from edgefuse.bundle.streamed import chunks_of
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates import golden
from edgefuse.compiler.candidates.built import FLOAT, Built
from edgefuse.compiler.candidates.golden import Checked, GoldenInputs
from edgefuse.compiler.candidates.target_data import TargetData, note
from edgefuse.compiler.candidates.toolchain import Calibration, Quantizable
from edgefuse.compiler.model.splits import CALIBRATION
from edgefuse.compiler.search import Combination
from edgefuse.errors import BackendError, ExportError, QuantizeError
from edgefuse.stages.agreement import finite_answer
from edgefuse.stages.examples import chained_feeds
from edgefuse.stages.stage import Feeds, TorchStage
from edgefuse.stages.streaming import branches, held_steps, stepped

logger = logging.getLogger(__name__)

_EVERY = 3
"""Of the steps of an item, those that calibrate: neighbours are alike."""


@dataclass(frozen=True)
class Streams:
    """What a bundle holds of modalities that stream.

    Attributes:
        records: for its manifest.
        built: the files, by candidate id.
        checked: how each did on the golden inputs, by candidate id.
        stages: the stages of steps, unpruned or pruned.
        inputs: the golden inputs of these.
    """

    records: tuple[Streamed, ...] = ()
    built: Mapping[str, Built] = field(default_factory=dict)
    checked: Mapping[str, Checked] = field(default_factory=dict)
    stages: tuple[TorchStage, ...] = ()
    inputs: GoldenInputs = field(default_factory=lambda: GoldenInputs({}, {}))


def streams_of(data: TargetData, chosen: Mapping[str, Combination]) -> Streams:
    """Make the steps of all modalities that stream, for the rungs of a bundle.

    A rung's step has the scheme of its encoder, or is in float where that cannot be made or is broken. Where not even
    that can be lowered, the rung does not stream.

    Args:
        data: the target's candidates.
        chosen: rung name to combination.
    """
    made = _Steps(data)
    for branch in branches(data.material.subject.stages):
        for rung, combination in chosen.items():
            files = [data.candidates.by_id[combination[stage.spec.name]] for stage in branch]
            try:
                made.add(rung, files)
            except (ExportError, BackendError) as error:
                logger.warning(
                    "%s: '%s' does not stream at %s: %s", files[-1].target, branch[-1].spec.name, rung, error
                )
    return made.streams()


class _Steps:
    """Makes steps, each once."""

    def __init__(self, data: TargetData) -> None:
        self._data = data
        self._forms: dict[tuple[tuple[str, str], ...], tuple[TorchStage, ...]] = {}
        self._rungs: dict[tuple[tuple[str, str], ...], dict[str, dict[str, str]]] = {}
        self._feeds: dict[str, Sequence[Feeds]] = {}
        self._built: dict[str, Built] = {}
        self._checked: dict[str, Checked] = {}

    def add(self, rung: str, files: Sequence[Built]) -> None:
        """Make the steps of a modality for a rung.

        Args:
            rung: its name.
            files: the candidates of the modality's stages at it.

        Raises:
            ExportError, BackendError: if a step cannot be lowered, or run.
        """
        key = tuple(file.form for file in files)
        if key not in self._forms:
            forms = [self._data.material.forms.form(file.stage, file.pruning) for file in files]
            self._forms[key] = steps = held_steps(forms)
            for form, step in zip(forms, steps, strict=True):
                code = fingerprint.of_value([fingerprint.once(form.module), "step"])
                fingerprint.keep(step.module, code)
            self._feeds |= _golden_feeds(forms, steps)
        chosen = {}
        for step, file in zip(self._forms[key], files, strict=True):
            note(f"{file.target}: step of {file.id}")
            chosen[step.spec.name] = self._candidate(step, file, self._forms[key])
        self._rungs.setdefault(key, {})[rung] = chosen

    def streams(self) -> Streams:
        """Return all that was made."""
        records = tuple(
            Streamed(
                modality=self._forms[key][-1].spec.modality,
                encoder=key[-1][0],
                stages=tuple(step.spec for step in self._forms[key]),
                rungs=rungs,
            )
            for key, rungs in self._rungs.items()
        )
        used = {step.spec.name: step for key in self._rungs for step in self._forms[key]}
        inputs = self._golden(tuple(used.values()))
        chosen = {id_ for record in records for rung in record.rungs.values() for id_ in rung.values()}
        built = {id_: self._built[id_] for id_ in sorted(chosen)}
        return Streams(records, built, self._checked, tuple(used.values()), inputs)

    def _candidate(self, step: TorchStage, file: Built, steps: Sequence[TorchStage]) -> str:
        """Return the id of a step's file: in the scheme of the whole stage's, or in float."""
        tools, scheme = self._data.tools(file), file.scheme
        source = tools.lower(step)
        if scheme != FLOAT and not scheme.exclude:  # what is left out is named in the whole stage's file
            item = Quantizable(step, source, self._calibration(step, steps))
            try:
                found: Built | str = tools.quantize(item, scheme)
            except (QuantizeError, ExportError) as error:
                found = str(error)
            if isinstance(found, Built) and (kept := self._held(found, file, step)):
                return kept
            logger.warning("%s: the step of %s is in float", file.target, file.id)
        if kept := self._held(source, file, step):
            return kept
        raise ExportError(f"the step '{step.spec.name}' does not answer like torch")

    def _held(self, built: Built, file: Built, step: TorchStage) -> str:
        """Hold a file to torch and keep it; return its id, or nothing if it is broken."""
        built = replace(built, joined=file.joined)
        if built.id not in self._checked:
            checked = golden.check(built, self._data.tools(file).backend, self._golden([step]))
            self._built[built.id], self._checked[built.id] = built, checked
        return built.id if self._checked[built.id].row.ok else ""

    def _golden(self, steps: Sequence[TorchStage]) -> GoldenInputs:
        feeds = {step.spec.name: self._feeds[step.spec.name] for step in steps}
        outputs = {golden.form(step): [finite_answer(step, one) for one in feeds[step.spec.name]] for step in steps}
        return GoldenInputs(feeds, outputs)

    def _calibration(self, step: TorchStage, steps: Sequence[TorchStage]) -> Calibration:
        digest = self._data.material.subject.splits[CALIBRATION].digest
        code = [fingerprint.once(one.module) for one in steps]
        return Calibration(partial(self._calibrating, step, steps), [digest, step.spec, code, _EVERY])

    def _calibrating(self, step: TorchStage, steps: Sequence[TorchStage]) -> Iterator[Feeds]:
        """Yield what a step takes while the calibration samples are heard, each from reset."""
        subject = self._data.material.subject
        split, key = subject.splits[CALIBRATION], chunks_of([one.spec for one in steps]).key
        for index in split.with_subset(subject.columns((step.spec.modality,))):
            values = np.array(split.values.get(key, int(index)))
            for taken, _ in islice(stepped(steps, values), None, None, _EVERY):
                yield taken[step.spec.name]


def _golden_feeds(branch: Sequence[TorchStage], steps: Sequence[TorchStage]) -> dict[str, list[Feeds]]:
    """Return what steps take on generated inputs, by stage: the first, one in the middle, the last of a window."""
    port = branch[0].spec.inputs[0].tensor.name
    values = next(chained_feeds(branch))[branch[0].spec.name][port]
    heard = [taken for taken, _ in stepped(steps, values)]
    some = sorted({0, len(heard) // 2, len(heard) - 1})
    return {step.spec.name: [heard[number][step.spec.name] for number in some] for step in steps}
