"""From any module with a spec to stages, and the record of what was found."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from edgefuse.bundle.spec import ModelSpec, in_files
from edgefuse.errors import ModelError
from edgefuse.models.fusion import FusionModel
from edgefuse.stages.examples import chained_feeds, example_feeds, masks_of
from edgefuse.stages.explicit import apart, as_called, check_spec, known, undescribed
from edgefuse.stages.found.calling import Argument, Called, called, whole_spec, whole_stage
from edgefuse.stages.found.chain import dims, held_to_module
from edgefuse.stages.found.costs import value_of
from edgefuse.stages.found.dependence import Labelled, labelled
from edgefuse.stages.found.generating import find_generating, generates
from edgefuse.stages.found.lowering import Lowered, lower, name_of, wholes
from edgefuse.stages.found.naming import keywords, takes_any, takes_positions, unwrapped, values_of
from edgefuse.stages.found.parts import Unsplittable, parts_of
from edgefuse.stages.found.record import Found, Work, crossings_of, early_mask, require_gain, required, shaped, share_of
from edgefuse.stages.found.traced import Traced, trace
from edgefuse.stages.found.wiring import order_inputs, wired
from edgefuse.stages.parametrized import in_float32, with_plain_weights
from edgefuse.stages.shapes import checked_whole
from edgefuse.stages.silence import UNSCRIPTED, first_words, quiet
from edgefuse.stages.stage import Feeds, InputValues, TorchStage, parameters_of, with_twins
from edgefuse.stages.values import observed, with_values

logger = logging.getLogger(__name__)

_SEEN = 8
"""Samples that tell of a mask which of its columns are never hidden."""
_REQUIRED = "forward takes no `present`, so every modality is required"


def find(module: nn.Module, spec: ModelSpec | None = None, values: Sequence[InputValues] = ()) -> Found:
    """Take a model apart: a `FusionModel` as it says, any other by what each operation depends on.

    `forward` is called by keyword where it names the tensors of the spec: see `naming.keywords`. A module that takes
    positions stays one stage.

    Args:
        module: any torch module.
        spec: of it; its attribute `spec` if None.
        values: what its inputs look like, for generated ones that look alike, as far as that is known.

    Raises:
        ModelError: if the model has no spec, cannot be called or traced, or its tensors do not match the spec.
    """
    spec = spec or getattr(module, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise undescribed(module, spec)
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("the model is TorchScript, which is not traced", got=type(module).__name__, fix=UNSCRIPTED)
    module, raised = in_float32(with_plain_weights(unwrapped(module)))
    notes = (raised,) if raised else ()
    if isinstance(module, FusionModel):
        if spec != module.spec:
            raise ModelError(
                f"the FusionModel '{module.spec.name}' was given another spec than its own",
                got=f"'{spec.name}', which differs"
                + ("" if spec.name != module.spec.name else " though its name does not"),
                expected="its own, or none",
                fix="build the FusionModel with this spec: its encoders and its stages follow it",
            )
        return _as_it_says(module, module.spec, values, notes)
    check_spec(spec)
    if any(part.training for part in module.modules()):
        module = copy.deepcopy(module).eval()
    if generates(module, spec):
        return find_generating(module, in_files(spec), values, find)
    names = keywords(module, spec)
    search = _by_keyword(module, spec, names, values, notes) if names is not None else None
    if search is not None:
        return _as_optional(search.run(), in_files(spec))
    note = "forward is called by position, so it stays one stage; stages are found where it names its inputs"
    return _as_it_says(module, spec, values, (*notes, note))


def _by_keyword(
    module: nn.Module,
    spec: ModelSpec,
    names: Mapping[str, str],
    values: Sequence[InputValues],
    notes: tuple[str, ...],
) -> _Search | None:
    """Return the search for the stages of a module; None if it takes anything, but not by these names."""
    wanted = {value.source.key: str(value.tensor.dtype) for value in values_of(spec)}
    spec = in_files(spec)
    if "present" not in names and any(modality.optional for modality in spec.modalities):
        spec = required(spec)
        notes = (*notes, _REQUIRED)
    feeds = next(example_feeds(known(TorchStage(whole_spec(spec), module), values)))
    try:
        return _Search(called(module, spec, names, feeds, wanted), feeds, values, notes)
    except ModelError:
        if takes_any(module) and takes_positions(module):
            return None
        raise


def _as_optional(found: Found, spec: ModelSpec) -> Found:
    """Return what was found with the absences that the user's spec admits, where no stage reads two modalities.

    Dual encoders are that: nobody has to be told what is absent, since its results are left out with it.

    Args:
        found: with every modality required, if `forward` takes no `present`.
        spec: the user's, with the types of files.
    """
    module = found.module
    apart = all(stage.spec.modality for stage in found.stages)
    if _REQUIRED not in found.notes or not apart or not isinstance(module, Called):
        return found
    unmasked = Called(module.module, spec, (*module.arguments, Argument(None, torch.float32))).eval()
    return replace(found, module=unmasked, spec=spec, notes=tuple(note for note in found.notes if note != _REQUIRED))


def _as_it_says(module: nn.Module, spec: ModelSpec, values: Sequence[InputValues], notes: tuple[str, ...]) -> Found:
    module = as_called(module, spec, values)
    return Found(module, in_files(spec), apart(module, values), notes=notes)


class _Search:
    """The search for the stages of one module."""

    def __init__(self, module: Called, feeds: Feeds, values: Sequence[InputValues], notes: tuple[str, ...]) -> None:
        self._spec = module.spec
        self._notes = notes
        self._feeds = feeds
        self._values = values
        self._module = module

    def run(self) -> Found:
        """Return the stages, or one with the reason."""
        whole = self._whole()
        if len(self._spec.modalities) == 1:
            return self._one(whole, "it has one modality")
        first = labelled(self._traced(()))
        self._notes = (*self._notes, *early_mask(first))
        try:
            return self._divided(whole, first)
        except Unsplittable as reason:
            return self._one(whole, str(reason), first)

    def _whole(self) -> TorchStage:
        return checked_whole(known(whole_stage(self._module), self._values), self._spec)

    def _traced(self, kept: Sequence[str]) -> Traced:
        tensors = [torch.from_numpy(self._feeds[value.port].copy()) for value in values_of(self._spec)]
        return trace(self._module, self._spec, tensors, kept)

    def _one(self, whole: TorchStage, reason: str, model: Labelled | None = None) -> Found:
        work = (Work("model", parameters_of(whole.module), _per_sample(model, model.total)),) if model else ()
        share = share_of(model) if model else None
        return Found(
            self._module, self._spec, (whole,), work, share=share, notes=(*self._notes, f"one stage, because {reason}")
        )

    def _divided(self, whole: TorchStage, first: Labelled) -> Found:
        require_gain(parts_of(first, self._spec), first)
        model = self._with_calls(first)
        parts = parts_of(model, self._spec)
        order_inputs(parts, model.traced, self._spec)
        try:
            lowered = [lower(part, parts, model) for part in parts]
            specs = wired(parts, model.traced, self._spec)
            drafts = list(zip(specs, (one.module for one in lowered), strict=True))
            with quiet():
                shapes = held_to_module(
                    drafts,
                    whole,
                    masks_of(self._spec),
                    unbatched=model.traced.unbatched,
                    branches=model.traced.branches,
                )
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise Unsplittable(f"the stages cannot be run: {first_words(error)}") from error
        found = {key: dims(seen, self._spec) for key, seen in shapes.items()}
        pairs = zip(specs, lowered, strict=True)
        stages = with_twins([TorchStage(shaped(spec, found), one.module, lines=one.lines) for spec, one in pairs])
        stages = with_values(stages, tuple(self._values))
        stages = with_values(stages, (*self._values, *_of_what_crosses(stages, lowered)))
        why = model.traced.unbatched
        batch = (f"the model was traced for one sample: {why}",) if why else ()
        return Found(
            module=self._module,
            spec=self._spec,
            stages=stages,
            work=tuple(_work(one, model) for one in lowered),
            crossings=crossings_of(stages),
            share=share_of(model),
            notes=(*self._notes, *batch),
        )

    def _with_calls(self, first: Labelled) -> Labelled:
        """Trace again, with the arguments of the submodules that can stay modules, if torch can tell them."""
        parts = parts_of(first, self._spec)
        calls = {name_of(call) for part in parts for call in wholes(part, parts, first, lambda call, nodes: True)}
        if not calls:
            return first
        try:
            return labelled(self._traced(sorted(calls)))
        except (ModelError, ValueError, RuntimeError) as error:  # torch's, too: then submodules are written out by node
            logger.info("submodules of %s are written out node by node: %s", self._spec.name, error)
            return first


def _of_what_crosses(stages: Sequence[TorchStage], lowered: Sequence[Lowered]) -> tuple[InputValues, ...]:
    """Return what truth values and indices look like that cross as numbers: noise in place of a mask hides everything.

    Args:
        stages: that know what their inputs look like.
        lowered: what they were made of.
    """
    keys = {
        stage.spec.key(port.tensor.name)
        for stage, one in zip(stages, lowered, strict=True)
        for port, node in zip(stage.spec.outputs[len(one.part.results) :], one.part.outputs, strict=True)
        if not value_of(node).is_floating_point()
    }
    if not keys:
        return ()
    ports = [(stage.spec.name, port) for stage in stages for port in stage.spec.inputs if port.source.key in keys]
    seen = chained_feeds(stages, count=_SEEN, fixed=True)
    return observed([{port.source.key: feeds[name][port.tensor.name] for name, port in ports} for feeds in seen])


def _per_sample(model: Labelled, macs: int) -> int:
    return macs // 2 if model.traced.batched else macs


def _work(lowered: Lowered, model: Labelled) -> Work:
    macs = sum(model.macs[node] for node in lowered.part.nodes)
    return Work(lowered.part.name, parameters_of(lowered.module), _per_sample(model, macs), lowered.kept)
