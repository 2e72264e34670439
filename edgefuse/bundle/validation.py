"""Check what a manifest says: that each name it uses exists, each number is possible and each file has one meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import lt

from edgefuse.bundle.decoders import check_decoders
from edgefuse.bundle.layout import (
    ASSETS,
    DIGEST,
    GOLDEN,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    REPORT,
    STAGES,
    check_paths,
    check_size,
    quoted,
)
from edgefuse.bundle.manifest import (
    Binding,
    Candidate,
    FileEntry,
    GoldenTensor,
    Manifest,
    OutputFigures,
    Profile,
    Provenance,
    Rung,
    members,
)
from edgefuse.bundle.scheme import GRAMMAR
from edgefuse.bundle.spec import ModelSpec, StageSpec, TensorSpec, TextPreprocess, largest, spelled
from edgefuse.bundle.streamed import check_streamed
from edgefuse.bundle.wiring import (
    MAX_ELEMENTS,
    MAX_RANK,
    check_model,
    check_stages,
    fits,
    invalid,
    require,
    require_distinct,
)
from edgefuse.errors import shown

MAX_CANDIDATES = 1024
MAX_RUNGS = 64
MAX_GOLDEN_CASES = 1024
MAX_NUMBER = 2.0**63

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]{0,159}")
_SCHEME_LENGTH = 160
_ITEM_BYTES = {"float32": 4, "uint8": 1, "int32": 4}


def check(manifest: Manifest) -> None:
    """Check a decoded manifest in full, or raise `BundleError`; whether the files are there is for whoever has them."""
    _check_label(manifest.target, "the target")
    check_model(manifest.model)
    check_stages(manifest.model, manifest.stages)
    check_decoders(manifest.model, manifest.stages)
    check_streamed(manifest)
    _check_files(manifest)
    _check_candidates(manifest)
    _check_rungs(manifest)
    _check_golden(manifest)
    _check_provenance(manifest.provenance)


def _check_label(name: str, what: str) -> None:
    require(_LABEL.fullmatch(name), f"{what} has an unusable name", got=quoted(name), expected=_LABEL.pattern)


def asset_paths(model: ModelSpec) -> set[str]:
    """Return the paths of the assets that a model's preprocessing names."""
    preprocessing = (modality.preprocess for modality in model.modalities)
    return {ASSETS + each.tokenizer for each in preprocessing if isinstance(each, TextPreprocess)}


def named_paths(manifest: Manifest) -> set[str]:
    """Return every path that the manifest names outside of its list of files."""
    tensors = (tensor for case in manifest.golden for tensor in (*case.inputs, *case.outputs))
    return asset_paths(manifest.model) | {c.file for c in manifest.candidates} | {tensor.file for tensor in tensors}


def _check_files(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    check_paths([*paths, MANIFEST, DIGEST])
    require(paths == sorted(paths), "the files are not in order of path")
    for entry in manifest.files:
        require(_SHA256.fullmatch(entry.sha256), f"the SHA-256 of '{entry.path}' is not one", got=quoted(entry.sha256))
        require(entry.size_bytes >= 0, f"the size of '{entry.path}'", got=entry.size_bytes, expected="0 or more")
        check_size(entry.path, entry.size_bytes)
    total = sum(entry.size_bytes for entry in manifest.files)
    require(total <= MAX_BUNDLE_BYTES, "the files are too large", got=f"{total} bytes", expected=MAX_BUNDLE_BYTES)
    named = named_paths(manifest)
    if unlisted := named - set(paths):
        raise invalid("a file is named but not listed under 'files'", got=f"[{quoted(min(unlisted))}]")
    unnamed = [path for path in paths if path not in named and path != REPORT and not path.startswith(ASSETS)]
    require(not unnamed, "a file is listed but nothing names it", got=unnamed[:1])


def _check_candidates(manifest: Manifest) -> None:
    require_distinct([candidate.id for candidate in manifest.candidates], "candidates", MAX_CANDIDATES)
    stages = {stage.name: stage for stage in manifest.all_stages}
    files = {entry.path: entry for entry in manifest.files}
    targets = members(manifest.target)
    require(all(targets), "the target joins a name that is empty", got=quoted(manifest.target))
    require(len({*targets}) == len(targets), "the target names one twice", got=quoted(manifest.target))
    for candidate in manifest.candidates:
        where = f"the candidate {quoted(candidate.id)}"
        require(_LABEL.fullmatch(candidate.id), f"{where} has an unusable id", expected=_LABEL.pattern)
        require(candidate.stage in stages, f"{where} is of an unknown stage", got=quoted(candidate.stage))
        same = candidate.target in targets
        require(same, f"{where} is for another target", got=quoted(candidate.target), expected=manifest.target)
        _check_label(candidate.backend, f"the backend of {where}")
        _check_label(candidate.accelerator, f"the accelerator of {where}")
        known = len(candidate.scheme) <= _SCHEME_LENGTH and GRAMMAR.fullmatch(candidate.scheme)
        require(known, f"the scheme of {where} is not spelled like one", got=quoted(candidate.scheme))
        _check_candidate_file(candidate, files[candidate.file], where)
        stage = stages[candidate.stage]
        _check_bindings(candidate.inputs, [port.tensor for port in stage.inputs], f"the inputs of {where}")
        _check_bindings(candidate.outputs, [port.tensor for port in stage.outputs], f"the outputs of {where}")
        tolerance, pruning = candidate.tolerance, candidate.pruning
        _check_numbers((tolerance.absolute, tolerance.relative), f"the tolerance of {where}")
        ratios = tuple(step.ratio for step in pruning.steps) if pruning else ()
        _check_numbers(ratios, f"the pruning of {where}", high=1.0)
        if candidate.plan is not None:
            _check_profiles(candidate.plan.profiles, stage, where)


def _check_candidate_file(candidate: Candidate, entry: FileEntry, where: str) -> None:
    require(candidate.file.startswith(STAGES), f"the file of {where}", got=candidate.file, expected=f"one in {STAGES}")
    said = candidate.sha256, candidate.size_bytes
    listed = entry.sha256, entry.size_bytes
    require(said == listed, f"{where} and the list of files do not agree on '{entry.path}'", got=said, expected=listed)


def _check_bindings(bindings: Sequence[Binding], ports: Sequence[TensorSpec], where: str) -> None:
    bound, wanted = sorted(binding.port for binding in bindings), sorted(port.name for port in ports)
    if bound != wanted:
        raise invalid(f"{where} are not the ports of its stage", got=ascii(bound), expected=wanted)
    tensors = [binding.tensor for binding in bindings]
    if not all(tensors) or len(set(tensors)) != len(tensors):
        raise invalid(f"{where} bind a tensor twice or none", got=ascii(tensors))
    for binding in bindings:
        shape = binding.shape
        possible = len(shape) <= MAX_RANK and all(size == -1 or 1 <= size <= MAX_ELEMENTS for size in shape)
        if not possible or math.prod(map(abs, shape)) > MAX_ELEMENTS:
            raise invalid(f"{where} have an impossible shape", got=list(shape))
    found = {binding.port: binding for binding in bindings}
    for port in ports:
        _check_binding(found[port.name], port, where)


def _check_binding(binding: Binding, port: TensorSpec, where: str) -> None:
    """Check that a file's tensor has its port's type and sizes: what may vary is open, or fixed at the largest."""
    same = binding.dtype == port.dtype and len(binding.shape) == len(port.shape)
    if not same or not all(
        size == largest(dim) or (size == -1 and not isinstance(dim, int))
        for size, dim in zip(binding.shape, port.shape, strict=True)
    ):
        raise invalid(
            f"{where} do not fit the port '{port.name}'",
            got=f"{binding.dtype} {list(binding.shape)}",
            expected=f"{port.dtype} {spelled(port.shape)} (-1 for what may vary)",
        )


def _check_profiles(profiles: Sequence[Profile], stage: StageSpec, where: str) -> None:
    shapes = {port.tensor.name: port.tensor.shape for port in stage.inputs}
    wanted = sorted(name for name, shape in shapes.items() if not all(isinstance(dim, int) for dim in shape))
    profiled = sorted(profile.port for profile in profiles)
    if profiled != wanted:
        what = f"the profiles of {where} are not for the inputs of variable shape"
        raise invalid(what, got=ascii(profiled), expected=wanted)
    for profile in profiles:
        steps = profile.minimum, profile.optimum, profile.maximum
        shape = shapes[profile.port]
        fitting = all(len(step) == len(shape) and all(map(fits, shape, step)) for step in steps)
        if not fitting or not all(low <= middle <= high for low, middle, high in zip(*steps, strict=True)):
            what = f"the profile of '{profile.port}' of {where} does not fit its shape"
            raise invalid(what, got=" to ".join(shown(list(step), 50) for step in steps), expected=spelled(shape))


def _check_rungs(manifest: Manifest) -> None:
    names = [rung.name for rung in manifest.rungs]
    require_distinct(names, "rungs", MAX_RUNGS)
    stages = sorted(stage.name for stage in manifest.stages)
    owners = {candidate.id: candidate.stage for candidate in manifest.candidates}
    subsets: set[str] = set()
    for rung in manifest.rungs:
        where = f"the rung {quoted(rung.name)}"
        require(_LABEL.fullmatch(rung.name), f"{where} has an unusable name", expected=_LABEL.pattern)
        _check_choice(rung, stages, owners, where)
        # A name of a subset is looked at once, however many rungs have it.
        new = (rung.accuracy.keys() | rung.drop_ci95.keys()) - subsets
        for output, found in rung.outputs.items():
            if output not in (one.name for one in manifest.model.outputs):
                raise invalid(f"{where} has figures of an unknown output", got=quoted(output))
            new |= (found.accuracy.keys() | found.drop_ci95.keys()) - subsets
        _check_subsets(new, manifest.model, where)
        subsets |= new
        _check_prices(rung, where)
    expected = " or ".join(names)
    known = manifest.default_rung in names
    require(known, "the default rung does not exist", got=quoted(manifest.default_rung), expected=expected)


def _check_choice(rung: Rung, stages: Sequence[str], owners: Mapping[str, str], where: str) -> None:
    chosen = sorted(rung.candidates)
    if chosen != stages:
        raise invalid(f"{where} does not choose one candidate for each stage", got=ascii(chosen), expected=stages)
    for stage, candidate in rung.candidates.items():
        if owners.get(candidate) != stage:
            stranger = quoted(candidate)
            raise invalid(f"{where} chooses {stranger} for '{stage}', which is not a candidate of that stage")


def _check_subsets(subsets: Iterable[str], model: ModelSpec, where: str) -> None:
    """Check that subsets are spelled as `subset_name` does: known modalities in the order of the model."""
    order = {modality.name: index for index, modality in enumerate(model.modalities)}
    for subset in subsets:
        places = [order.get(name, -1) for name in subset.split("+", len(order))]
        if places[0] < 0 or not all(map(lt, places, places[1:])):
            what = f"{where} has a figure for something that is no subset"
            raise invalid(what, got=quoted(subset), expected="+".join(order))


def _check_prices(rung: Rung, where: str) -> None:
    both: tuple[Rung | OutputFigures, ...] = (rung, *rung.outputs.values())
    for found in both:
        _check_numbers(found.accuracy.values(), f"an accuracy of {where}", low=-MAX_NUMBER)
        for low, high in found.drop_ci95.values():
            if not -MAX_NUMBER <= low <= high <= MAX_NUMBER:
                _check_numbers((low, high), f"an interval of {where}", low=-MAX_NUMBER)
                raise invalid(f"an interval of {where} is empty", got=f"[{low}, {high}]")
    require(rung.size_bytes >= 0, f"the size of {where}", got=rung.size_bytes, expected="0 or more")
    _check_numbers(() if rung.cost is None else (rung.cost,), f"the cost of {where}")
    for figure in rung.figures:
        percentiles = (p for p in (figure.p50_ms, figure.p90_ms, figure.p99_ms, figure.peak_rss_bytes) if p is not None)
        _check_numbers((figure.runs, *percentiles), f"a figure of {where}")
        cores, threads = figure.machine.cores, figure.machine.threads
        if cores < 1 or threads < 1:
            raise invalid(f"the machine of a figure of {where}", got=f"{cores} cores, {threads} threads")


def _check_numbers(values: Iterable[float], what: str, *, low: float = 0.0, high: float = MAX_NUMBER) -> None:
    for value in values:
        if not low <= value <= high:
            raise invalid(what, got=value, expected=f"a number from {low:g} to {high:g}")


def _check_golden(manifest: Manifest) -> None:
    stages = {stage.name: _sides(stage) for stage in manifest.all_stages}
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    require(len(manifest.golden) <= MAX_GOLDEN_CASES, "there are too many golden cases", got=len(manifest.golden))
    for case in manifest.golden:
        if case.stage not in stages:
            raise invalid("a golden case is of an unknown stage", got=quoted(case.stage))
        for tensors, ports in zip((case.inputs, case.outputs), stages[case.stage], strict=True):
            if sorted(tensor.port for tensor in tensors) != sorted(ports):
                what = f"a golden case does not fit the ports of the stage '{case.stage}'"
                raise invalid(what, got=ascii([tensor.port for tensor in tensors]), expected=sorted(ports))
            for tensor in tensors:
                _check_golden_tensor(tensor, ports[tensor.port], sizes[tensor.file])


def _sides(stage: StageSpec) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Return the ports of a stage by name: those of its inputs, and those of its outputs."""
    inputs = {port.tensor.name: port.tensor for port in stage.inputs}
    return inputs, {port.tensor.name: port.tensor for port in stage.outputs}


def _check_golden_tensor(tensor: GoldenTensor, port: TensorSpec, size_bytes: int) -> None:
    where = f"the golden tensor '{tensor.file}'"
    if not tensor.file.startswith(GOLDEN):
        raise invalid(f"{where} is in the wrong place", expected=f"a file in {GOLDEN}")
    fitting = len(tensor.shape) == len(port.shape) and all(map(fits, port.shape, tensor.shape))
    if tensor.dtype != port.dtype or not fitting:
        found, takes = f"{tensor.dtype} {shown(list(tensor.shape))}", f"{port.dtype} {list(port.max_shape)}"
        raise invalid(f"{where} does not fit the port '{port.name}'", got=found, expected=takes)
    expected = math.prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]
    if size_bytes != expected:
        raise invalid(f"{where} has the wrong size", got=f"{size_bytes} bytes", expected=f"{expected} bytes")


def _check_provenance(provenance: Provenance) -> None:
    hashes = {
        "weights": provenance.weights_sha256,
        "data": provenance.data_sha256,
        "recipe": provenance.recipe_sha256,
    }
    for what, value in hashes.items():
        good = value == "" or _SHA256.fullmatch(value)
        require(
            good, f"the SHA-256 of the {what} is not one", got=quoted(value), expected="64 hexadecimal digits or none"
        )
