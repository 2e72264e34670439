"""Check that a manifest's model and stages make sense together: names, shapes, and where every input comes from."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import lt
from typing import Literal, TypeAlias

from edgefuse.bundle.layout import ASSETS, MANIFEST, check_path, quoted, twice
from edgefuse.bundle.spec import (
    AudioPreprocess,
    Bounded,
    Bucketed,
    Dim,
    DType,
    ImagePreprocess,
    Modality,
    ModelSpec,
    Source,
    StageInput,
    StageSpec,
    TensorSpec,
    TextPreprocess,
    TokensOutput,
    VideoPreprocess,
    largest,
)
from edgefuse.errors import BundleError, shown

MAX_MODALITIES = 16
MAX_STAGES = 256
MAX_PORTS = 256
MAX_RANK = 8
MAX_SIZES = 1024
"""Of a bucketed dimension."""
MAX_ELEMENTS = 2**28
"""Of one tensor: 1 GiB of float32. It bounds what a manifest of a few bytes can make a device allocate."""
MAX_SAMPLE_RATE_HZ = 768_000
MAX_FRAME_RATE = 240

Form: TypeAlias = tuple[DType, tuple[int, ...]]
_MODEL_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def invalid(what: str, *, got: object = None, expected: object = None) -> BundleError:
    """Return the error that says what is wrong with a manifest.

    Args:
        what: what is wrong, as a clause with a verb.
        got: what was found.
        expected: what was expected.
    """
    return BundleError(f"{MANIFEST}: {what}", got=got, expected=expected)


def require(condition: object, what: str, *, got: object = None, expected: object = None) -> None:
    """Raise `BundleError` about the manifest unless a condition holds.

    What is checked once for each of thousands of parts raises `invalid` itself: a message costs more than a check.

    Args:
        condition: to hold.
        what: what is wrong if it does not.
        got: what was found.
        expected: what was expected.
    """
    if not condition:
        raise invalid(what, got=got, expected=expected)


def require_distinct(names: Sequence[str], what: str, limit: int) -> None:
    """Raise `BundleError` unless there is at least one name, at most `limit`, and none twice.

    Args:
        names: to check.
        what: they name, in the plural.
        limit: of their number.
    """
    require(1 <= len(names) <= limit, f"the number of {what}", got=len(names), expected=f"1 to {limit}")
    if len(set(names)) != len(names):
        raise invalid(f"two {what} have one name", got=quoted(twice(names) or ""))


def check_model(model: ModelSpec) -> None:
    """Check a model by itself: `BundleError` if a name, shape or preprocessing is not possible."""
    require(_MODEL_NAME.fullmatch(model.name), "the model's name", got=quoted(model.name), expected=_MODEL_NAME.pattern)
    names = [modality.name for modality in model.modalities]
    require_distinct(names, "modalities", MAX_MODALITIES)
    _check_names(names, "a modality")
    require("present" not in names, "a modality is called 'present', which is the name of the mask")
    for modality in model.modalities:
        _check_modality(modality)
    outputs = [output.name for output in model.outputs]
    require_distinct(outputs, "outputs", MAX_PORTS)
    _check_names(outputs, "an output")
    for output in model.outputs:
        if isinstance(output, TokensOutput):
            _check_tokens(output)
        _check_shape(TensorSpec(name=output.name, shape=(1, *output.shape)), "the outputs")


def _check_tokens(output: TokensOutput) -> None:
    for name, token in (("blank", output.blank), ("start", output.start), ("end", output.end)):
        expected = f"a token from 0 to {len(output.labels) - 1}"
        what = f"the {name} of the output '{output.name}' is no token"
        require(token is None or output.has(token), what, got=token, expected=expected)


def check_stages(model: ModelSpec, stages: Sequence[StageSpec]) -> None:
    """Check that every stage's inputs come from what exists before it runs, and that the outputs of the model appear.

    Raises:
        BundleError: the wiring is not possible.
    """
    check_wiring(model, stages)
    _check_results(model, stages)


def check_wiring(model: ModelSpec, stages: Sequence[StageSpec]) -> None:
    """Check that every stage's inputs come from what exists before it runs; see `check_stages`."""
    require_distinct([stage.name for stage in stages], "stages", MAX_STAGES)
    _check_names([stage.name for stage in stages], "a stage")
    known = ["", *(modality.name for modality in model.modalities)]
    offered = _offered(model)
    for stage in stages:
        if stage.modality not in known:
            raise invalid(f"the stage '{stage.name}' belongs to an unknown modality {quoted(stage.modality)}")
        check_ports(stage)
        states = _made(stage, "state")
        for port in stage.inputs:
            if port.source.kind not in ("token", "position"):  # for `decoders` to check
                _check_source(stage, port, states if port.source.kind == "state" else offered)
        offered |= _made(stage, "stage")


def fits(dim: Dim, size: int) -> bool:
    """Tell whether a dimension may take a size."""
    if isinstance(dim, Bounded):
        return 1 <= size <= dim.max
    if isinstance(dim, Bucketed):
        index = bisect_left(dim.sizes, size)
        return index < len(dim.sizes) and dim.sizes[index] == size
    return size == dim


def _check_names(names: Iterable[str], what: str) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise invalid(f"{what} has an unusable name", got=quoted(name), expected=_NAME.pattern)


def _check_modality(modality: Modality) -> None:
    tensors = [tensor.name for tensor in modality.tensors]
    where = f"the modality '{modality.name}'"
    require_distinct(tensors, f"tensors of {where}", MAX_PORTS)
    _check_names(tensors, f"a tensor of {where}")
    require("length" not in tensors, f"{where} has a tensor called 'length', which is the name of its length")
    for tensor in modality.tensors:
        _check_shape(tensor, where)
    if modality.length:
        require(len(modality.tensors[0].shape) > 1, f"{where} has a length but no axis 1 that it could count")
    _check_preprocess(modality, where)


def _check_preprocess(modality: Modality, where: str) -> None:
    """Check that the preprocessing delivers the one tensor that the modality declares."""
    preprocess = modality.preprocess
    delivered: Form
    if isinstance(preprocess, ImagePreprocess):
        delivered = "uint8", (1, preprocess.height, preprocess.width, preprocess.channels)
        require(getattr(preprocess, "shortest_edge", 1) >= 1, f"the shortest edge of {where}")
    elif isinstance(preprocess, AudioPreprocess):
        rate_hz = preprocess.sample_rate_hz
        require(1 <= rate_hz <= MAX_SAMPLE_RATE_HZ, f"the sample rate of {where}", got=f"{rate_hz} Hz")
        delivered = "float32", (1, preprocess.samples)
    elif isinstance(preprocess, VideoPreprocess):
        rate = preprocess.frames_per_second
        require(0 < rate <= MAX_FRAME_RATE, f"the frame rate of {where}", got=rate, expected=f"up to {MAX_FRAME_RATE}")
        delivered = "uint8", (1, preprocess.frames, preprocess.height, preprocess.width, preprocess.channels)
    elif isinstance(preprocess, TextPreprocess):
        check_path(ASSETS + preprocess.tokenizer)
        require(0 <= preprocess.pad_id < 2**31, f"the pad id of {where}", got=preprocess.pad_id)
        delivered = "int32", (1, preprocess.max_length)
    else:
        return
    declared = [form_of(tensor) for tensor in modality.tensors]
    require(
        declared == [delivered],
        f"{where} does not declare what its preprocessing delivers",
        got=declared,
        expected=[delivered],
    )


def _check_shape(tensor: TensorSpec, where: str) -> None:
    rank, elements = len(tensor.shape), 1
    if not 1 <= rank <= MAX_RANK:
        raise _misshapen(tensor, where, got=f"rank {rank}", expected=f"1 to {MAX_RANK}")
    for dim in tensor.shape:
        sizes = dim.sizes if isinstance(dim, Bucketed) else (largest(dim),)
        if len(sizes) > MAX_SIZES:
            raise _misshapen(tensor, where, got=f"{len(sizes)} sizes", expected=f"at most {MAX_SIZES}")
        if not (sizes and sizes[0] >= 1 and all(map(lt, sizes, sizes[1:]))):
            raise _misshapen(tensor, where, got=f"sizes {shown(sizes)}", expected="positive, ascending")
        # The product of the shape is taken only once each factor is known to be positive, and ends in time.
        elements *= sizes[-1]
        if elements > MAX_ELEMENTS:
            raise _misshapen(tensor, where, got=list(tensor.max_shape), expected=f"at most {MAX_ELEMENTS} elements")


def _misshapen(tensor: TensorSpec, where: str, *, got: object, expected: str) -> BundleError:
    return invalid(f"the shape of '{tensor.name}' of {where}", got=got, expected=expected)


def check_ports(stage: StageSpec) -> None:
    """Check the names and shapes of a stage's ports: `BundleError` if one is not possible."""
    where = f"the stage '{stage.name}'"
    for kind, tensors in (("inputs", [p.tensor for p in stage.inputs]), ("outputs", [p.tensor for p in stage.outputs])):
        names = [tensor.name for tensor in tensors]
        require_distinct(names, f"{kind} of {where}", MAX_PORTS)
        _check_names(names, f"one of the {kind} of {where}")
        for tensor in tensors:
            _check_shape(tensor, where)


def _check_source(stage: StageSpec, port: StageInput, offered: Mapping[Source, Form]) -> None:
    """Check that a source exists and delivers the type and shape that the port takes."""
    takes, given = form_of(port.tensor), offered.get(port.source)
    if takes == given:
        return
    where, key = f"the input '{port.tensor.name}' of the stage '{stage.name}'", quoted(port.source.key)
    if given is None:
        somewhere = "a modality's tensor or length, an output of an earlier stage, a state, or 'present'"
        raise invalid(f"{where} comes from nowhere", got=key, expected=somewhere)
    raise invalid(f"{where} does not take what its source {key} delivers", got=takes, expected=given)


def _offered(model: ModelSpec) -> dict[Source, Form]:
    """Return the type and largest shape of everything that a stage may take from outside."""
    offered: dict[Source, Form] = {Source(kind="present"): ("float32", (1, len(model.modalities)))}
    for modality in model.modalities:
        for tensor in modality.tensors:
            offered[Source(kind="modality", owner=modality.name, tensor=tensor.name)] = form_of(tensor)
        if modality.length:
            offered[Source(kind="length", owner=modality.name)] = "int32", (1,)
    return offered


def _made(stage: StageSpec, kind: Literal["stage", "state"]) -> dict[Source, Form]:
    """Return what a stage makes: for the stages after it, or as a state for itself."""
    ports = [port.tensor for port in stage.outputs if (port.kind == "state") == (kind == "state")]
    return {Source(kind=kind, owner=stage.name, tensor=tensor.name): form_of(tensor) for tensor in ports}


def form_of(tensor: TensorSpec) -> Form:
    """Return the type and largest shape of a tensor."""
    return tensor.dtype, tensor.max_shape


def _check_results(model: ModelSpec, stages: Sequence[StageSpec]) -> None:
    """Check that each output of the model is the result of exactly one stage, and no stage has another result."""
    results = [port.tensor for stage in stages for port in stage.outputs if port.kind == "result"]
    names = sorted(tensor.name for tensor in results)
    expected = sorted(output.name for output in model.outputs)
    if names != expected:
        what = "the results of the stages are not the outputs of the model"
        raise invalid(what, got=", ".join(names) or "none", expected=", ".join(expected))
    shapes = {output.name: output.shape for output in model.outputs}
    stepwise = {port.tensor.name for stage in stages if stage.role == "decoder" for port in stage.outputs}
    for tensor in results:
        whole = shapes[tensor.name]
        wanted = "float32", (1, *(whole[1:] if tensor.name in stepwise else whole))
        if form_of(tensor) != wanted:
            what = f"the result '{tensor.name}' is not of the output's type and shape"
            raise invalid(what, got=form_of(tensor), expected=wanted)
