"""The faults of the data: all of them, not only the first, from as many samples as there is time for.

Samples are read by the code that a compile reads them with; so it says the same about each. What only looks odd
(a class that never occurs, a sample in two splits) is told, and stands in nobody's way.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from edgefuse.bundle.spec import ClassOutput, ModelSpec
from edgefuse.compiler.check.record import Finding
from edgefuse.compiler.model import targets
from edgefuse.compiler.model.preparation import coverage_faults, split_faults, wanted_splits
from edgefuse.compiler.model.samples import group_number, read_sample
from edgefuse.compiler.model.splits import SPLITS, preprocessors_of
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe.factory import users_code
from edgefuse.errors import DataError, EdgefuseError, some
from edgefuse.graph.stage_graph import zeros_of
from edgefuse.progress import Progress
from edgefuse.runtime.graph import zeros
from edgefuse.runtime.preprocess import Preprocessor
from edgefuse.stages.stage import Array

_TRIED = 8
"""Validation samples that the metric judges."""
_MAX_LISTED = 5
_FEW = 8
"""Samples below which nothing can be said about what they have in common."""
_SHORT = 0.25
"""A longest sample below this share of the largest shape is worth a word: files of fixed shapes compute the rest."""


@dataclass(frozen=True)
class Probe:
    """A sample that torch is to answer: its place, its tensors and targets by key, and the modalities that it has."""

    split: str
    index: int
    values: Mapping[str, Array]
    targets: Mapping[str, Array]
    present: tuple[str, ...]


@dataclass
class SplitRead:
    """What was read of a split.

    Attributes:
        name: of the split.
        total: how many samples there are.
        read: how many were read.
        faults: by index.
        present: which modalities each sample has that could be read.
        content: a hash of each sample's tensors, by index.
        targets: how many samples have one, by output.
        classes: that occur.
        groups: that samples name.
        modalities: hashes of each modality's tensors.
        longest: the valid steps of each modality that has a length.
        probes: the first whole samples of the validation split.
        extremes: the highest and the lowest sample of each tensor, and how high or low: ids, lengths, the darkest
            picture.
        seconds: that reading took.
    """

    name: str
    total: int
    read: int = 0
    faults: list[tuple[int, EdgefuseError]] = field(default_factory=list)
    present: list[list[bool]] = field(default_factory=list)
    content: dict[int, bytes] = field(default_factory=dict)
    targets: Counter[str] = field(default_factory=Counter)
    classes: set[int] = field(default_factory=set)
    groups: set[str | int] = field(default_factory=set)
    modalities: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    longest: dict[str, int] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)
    extremes: dict[tuple[str, str], tuple[float, Probe]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def samples(self) -> list[Probe]:
        """The samples for torch, each once."""
        extremes = [one for _, one in self.extremes.values()]
        return list({one.index: one for one in (*self.probes, *extremes)}.values())

    def add(
        self, index: int, values: Mapping[str, Array], targets: Mapping[str, Array], present: Sequence[str]
    ) -> None:
        """Take note of a sample without a fault.

        Args:
            index: of the sample.
            values: its tensors by key.
            targets: as columns.
            present: its modalities.
        """
        digests = {name: hashlib.blake2b(digest_size=16) for name in present}
        one = Probe(self.name, index, values, targets, tuple(present))
        for key, value in values.items():
            owner, _, tensor = key.partition(".")
            if owner not in digests:
                continue
            digests[owner].update(f"{tensor} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
            if tensor == "length":
                self.longest[owner] = max(self.longest.get(owner, 0), int(value[0]))
            for side, score in _scores(value).items():
                if (key, side) not in self.extremes or score > self.extremes[key, side][0]:
                    self.extremes[key, side] = score, one
        for name, state in digests.items():
            self.modalities[name].add(state.digest())
        self.content[index] = b"".join(state.digest() for state in digests.values())


def _scores(value: Array) -> dict[str, float]:
    """Return how extreme a tensor is: integers by the largest and the smallest, others by their peak."""
    if not value.size:
        return {}
    top = float(value.max())
    return {"high": top, "low": -float(value.min()) if value.dtype.kind == "i" else -top}


def read_splits(model: Model, seconds: float, progress: Progress) -> list[SplitRead]:
    """Read the samples of all splits that a compile reads.

    Args:
        model: with its data.
        seconds: after which no more samples are read; of each split at least a few are.
        progress: is told how many are done.
    """
    preprocessors = preprocessors_of(model.spec, model.assets)
    names = wanted_splits(model)
    found = []
    until = time.monotonic()
    for name in names:
        until = max(until, time.monotonic()) + seconds / len(names)
        try:
            with users_code(f"the split '{name}' has no length", DataError):
                total = len(getattr(model.data, name))
        except DataError:
            continue  # `split_faults` says so
        split = SplitRead(name, total)
        _read(split, getattr(model.data, name), model, preprocessors, until, progress)
        found.append(split)
    return found


def _read(
    split: SplitRead,
    samples: Sequence[object],
    model: Model,
    preprocessors: Mapping[str, Preprocessor],
    until: float,
    progress: Progress,
) -> None:
    """Read samples in an order that a part of stands for all of them."""
    began = time.monotonic()
    absent = zeros(zero for modality in model.spec.modalities for zero in zeros_of(modality))
    order = np.random.default_rng(0).permutation(split.total)
    for index in map(int, order):
        if split.read >= min(_FEW, split.total) and time.monotonic() > until:
            break
        split.read += 1
        progress(split.read, split.total, f"check: read {split.name}")
        faults = list(_sample(split, index, samples, model, preprocessors, absent))
        split.faults += [(index, fault) for fault in faults]
    split.faults.sort(key=lambda one: one[0])
    split.seconds = time.monotonic() - began


def _sample(
    split: SplitRead,
    index: int,
    samples: Sequence[object],
    model: Model,
    preprocessors: Mapping[str, Preprocessor],
    absent: Mapping[str, Array],
) -> Iterator[EdgefuseError]:
    """Read a sample and yield every fault of it."""
    spec = model.spec
    try:
        sample = read_sample(split.name, index, samples, spec)
    except DataError as error:
        yield error
        return
    values, faults = dict(absent), 0
    split.present.append([modality.name in sample.inputs for modality in spec.modalities])
    for modality, raw in sample.inputs.items():
        try:
            values |= preprocessors[modality](raw)
        except EdgefuseError as error:
            faults += 1
            yield DataError(f"sample {index} of '{split.name}' is wrong: {error}")
    try:
        group_number(split.name, index, sample.group)
        split.groups |= set() if sample.group is None else {sample.group}
        given = targets.columns(f"sample {index} of '{split.name}'", sample.target, model.metrics)
    except DataError as error:
        yield error
        return
    split.targets.update(output for output in model.metrics if given[targets.column(output)].size)
    first = given[targets.column(spec.outputs[0].name)]
    if isinstance(spec.outputs[0], ClassOutput) and first.size:
        split.classes.add(int(first[0]))
    if not faults:
        split.add(index, values, given, list(sample.inputs))
        whole = split.name == "validation" and len(sample.inputs) == len(spec.modalities)
        if whole and len(split.probes) < _TRIED:
            split.probes.append(Probe(split.name, index, values, given, tuple(sample.inputs)))


def faults(model: Model, read: Sequence[SplitRead]) -> Iterator[EdgefuseError]:
    """Yield all faults that stand in the way of a compile, in the order in which it would meet them.

    Faults of one kind in one split are told once, with the samples that have them.

    Args:
        model: with its data.
        read: what was read of them.
    """
    yield from split_faults(model)
    for split in read:
        yield from _grouped(split)
    judged = [split for split in read if split.name in SPLITS[1:] and split.read == split.total and not split.faults]
    yield from targets.missing({split.name: split.targets for split in judged}, model.metrics)
    for split in read:
        if split.read == split.total and split.present and not split.faults:
            yield from coverage_faults(split.name, np.array(split.present, bool), model.spec)


def _grouped(split: SplitRead) -> Iterator[EdgefuseError]:
    groups: dict[str, list[tuple[int, EdgefuseError]]] = defaultdict(list)
    for index, fault in split.faults:
        groups[re.sub(r"-?\d+(\.\d+)?", "#", str(fault))].append((index, fault))
    for (_, first), *others in groups.values():
        if others:
            named = some((str(index) for index, _ in others), _MAX_LISTED)
            yield DataError(f"{str(first).rstrip('.')}; so have samples {named}")
        else:
            yield first


def oddities(spec: ModelSpec, read: Sequence[SplitRead]) -> Iterator[Finding]:
    """Yield what looks wrong with the data and stands in nobody's way."""
    for split in read:
        yield from _of_split(spec, split)
    for one, other in combinations(read, 2):
        shared = {*one.content.values()} & {*other.content.values()}
        if shared:
            yield _odd(
                f"{len(shared)} samples of '{other.name}' have the inputs of samples of '{one.name}': "
                "what was seen before says little about what is new"
            )
        if both := one.groups & other.groups:
            named = some(sorted(map(repr, both)), _MAX_LISTED)
            yield _odd(
                f"groups have samples in '{one.name}' and in '{other.name}': {named}. What belongs together belongs in "
                "one split"
            )
    for modality in spec.modalities:
        largest = modality.tensors[0].max_shape[1:2]
        longest = max((split.longest.get(modality.name, 0) for split in read), default=0)
        if modality.length and largest and 0 < longest < _SHORT * largest[0]:
            yield _odd(
                f"the longest '{modality.name}' takes {longest} of {largest[0]} steps: "
                "targets of fixed shapes compute all of them; a smaller bound is faster"
            )


def _of_split(spec: ModelSpec, split: SplitRead) -> Iterator[Finding]:
    if split.read < split.total and split.present:
        for fault in coverage_faults(split.name, np.array(split.present, bool), spec):
            yield _odd(f"of the samples that were read: {fault}")
    for name, contents in split.modalities.items():
        count = len(split.content)
        if len(contents) == 1 and count >= _FEW:
            yield _odd(f"'{name}' is the same in all {count} samples of '{split.name}'")
    output = spec.outputs[0]
    if isinstance(output, ClassOutput) and split.name in SPLITS[1:] and split.read == split.total and split.classes:
        missing = [label for number, label in enumerate(output.labels) if number not in split.classes]
        if missing:
            named = some(map(repr, missing), _MAX_LISTED)
            yield _odd(f"no sample of '{split.name}' is of {named}: nothing is known about these classes")


def _odd(says: str) -> Finding:
    return Finding(about="data", says=says)
