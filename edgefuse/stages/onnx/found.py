"""From an ONNX file and a spec to stages, by the rule of `edgefuse/stages/found/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass, ShapeInferencePass

from edgefuse.bundle.spec import ModelSpec, StageSpec, in_files
from edgefuse.errors import ModelError
from edgefuse.stages.examples import example_feeds, masks_of
from edgefuse.stages.explicit import check_spec, known
from edgefuse.stages.found.calling import Argument, Called, whole_spec
from edgefuse.stages.found.chain import dims, held_to_module
from edgefuse.stages.found.dependence import Labelled, labelled
from edgefuse.stages.found.naming import values_of
from edgefuse.stages.found.parts import Part, Unsplittable, parts_of
from edgefuse.stages.found.record import Found, Work, crossings_of, require_gain, required, shaped, share_of
from edgefuse.stages.found.wiring import order_inputs, wired
from edgefuse.stages.onnx.extraction import extracted, tables_of
from edgefuse.stages.onnx.file import OPSET, OnnxFile, check, converted
from edgefuse.stages.onnx.module import OnnxModule
from edgefuse.stages.onnx.ports import Taken, taken, with_ports
from edgefuse.stages.onnx.traced import OnnxTraced, trace
from edgefuse.stages.running import FAILURES
from edgefuse.stages.shapes import checked_whole
from edgefuse.stages.silence import first_words, quiet
from edgefuse.stages.stage import InputValues, TorchStage, parameters_of, with_twins
from edgefuse.stages.typed import TYPES
from edgefuse.stages.values import with_values

FOLD_LIMIT = 1 << 26
"""Constants up to this many elements are folded (a transposed weight), so that no run computes them again."""

_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def find(
    file: OnnxFile, spec: ModelSpec, values: Sequence[InputValues] = (), names: Mapping[str, str] = _NO_NAMES
) -> Found:
    """Take an ONNX file apart, by what each of its operators depends on.

    Its stages are graphs that ONNX Runtime runs; the reference is the file as it is, in ONNX Runtime.

    Args:
        file: that was read.
        spec: of the model: its tensors are the inputs of the file, its outputs are called as the file's.
        values: what its inputs look like, for generated ones that look alike, as far as that is known.
        names: of inputs in the file, by the key of the value, where they are no names that a tensor goes by.

    Raises:
        ModelError: if the file cannot be run, or does not match the spec.
    """
    check_spec(spec)
    spec = in_files(spec)
    notes: tuple[str, ...] = ()
    inputs = taken(file.model, spec, names)
    if not any(one.value.source.kind == "present" for one in inputs) and any(m.optional for m in spec.modalities):
        spec, notes = required(spec), ("the file takes no `present`, so every modality is required",)
    return _Search(file, spec, inputs, values, notes).run()


@dataclass(frozen=True)
class _Search:
    """The search for the stages of one file."""

    file: OnnxFile
    spec: ModelSpec
    inputs: tuple[Taken, ...]
    values: Sequence[InputValues]
    notes: tuple[str, ...]

    def run(self) -> Found:
        """Return the stages, or one with the reason."""
        original = with_ports(self.file.model, self.inputs, self.spec)
        check(original, self.file.path)
        reference = OnnxModule(original, tables_of(original.graph))
        whole = checked_whole(known(TorchStage(self._whole_spec(), reference), self.values), self.spec)
        called = Called(reference, self.spec, self._arguments()).eval()
        plain = with_ports(converted(self.file), self.inputs, self.spec)
        simplify(plain)
        one = TorchStage(whole.spec, OnnxModule(plain, reference.rows_looked_up), values=whole.values)
        self._hold(one, whole)
        if len(self.spec.modalities) == 1:
            return self._one(called, one, "it has one modality")
        search: Labelled | None = None
        try:
            _require_plain_flow(plain)
            onnx = trace(plain.clone(), self.inputs, called, next(example_feeds(whole)))
            search = labelled(onnx.traced)
            return self._divided(called, whole, onnx, plain, search)
        except Unsplittable as reason:
            return self._one(called, one, str(reason), search)

    def _hold(self, made: TorchStage, whole: TorchStage) -> None:
        """Hold what the file became to the file itself.

        Raises:
            ModelError: if it does not answer alike.
        """
        try:
            with quiet():
                held_to_module([(made.spec, made.module)], whole, masks_of(self.spec))
        except (Unsplittable, *FAILURES) as error:
            raise ModelError(
                f"the ONNX file {self.file.path} answers otherwise in operator set {OPSET}",
                got=str(error) if isinstance(error, Unsplittable) else first_words(error),
                fix=f"export it with opset_version={OPSET}",
            ) from error

    def _whole_spec(self) -> StageSpec:
        keys = {one.value.source.key for one in self.inputs}
        return whole_spec(self.spec, [value.source.key in keys for value in values_of(self.spec)])

    def _arguments(self) -> tuple[Argument, ...]:
        ports = {one.value.port for one in self.inputs}
        return tuple(
            Argument(value.port if value.port in ports else None, TYPES[value.tensor.dtype][0])
            for value in values_of(self.spec)
        )

    def _one(self, module: Called, stage: TorchStage, reason: str, model: Labelled | None = None) -> Found:
        work = (Work("model", parameters_of(stage.module), model.total),) if model else ()
        share = share_of(model) if model else None
        return Found(
            module, self.spec, (stage,), work, share=share, notes=(*self.notes, f"one stage, because {reason}")
        )

    def _divided(self, module: Called, whole: TorchStage, onnx: OnnxTraced, plain: ir.Model, model: Labelled) -> Found:
        parts = parts_of(model, self.spec)
        require_gain(parts, model)
        order_inputs(parts, onnx.traced, self.spec)
        try:
            specs = wired(parts, onnx.traced, self.spec)
            drafts = [(spec, extracted(part, spec, onnx, plain)) for part, spec in zip(parts, specs, strict=True)]
            with quiet(), torch.no_grad():
                shapes = held_to_module(drafts, whole, masks_of(self.spec))
        except FAILURES as error:
            raise Unsplittable(f"the stages cannot be run: {first_words(error)}") from error
        found = {key: dims(seen, self.spec) for key, seen in shapes.items()}
        stages = with_twins([TorchStage(shaped(spec, found), module) for spec, module in drafts])
        stages = with_values(stages, tuple(self.values))
        return Found(
            module=module,
            spec=self.spec,
            stages=stages,
            work=tuple(_work(part, stage, model) for part, stage in zip(parts, stages, strict=True)),
            crossings=crossings_of(stages),
            share=share_of(model),
            notes=self.notes,
        )


def simplify(model: ir.Model) -> None:
    """Fold constants, what follows from sizes that are known now, and batch norms, in place; infer types and shapes."""
    with quiet():
        onnxscript.optimizer.optimize_ir(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        RemoveUnusedNodesPass()(model)
        ShapeInferencePass()(model)


def _require_plain_flow(model: ir.Model) -> None:
    """Leave a graph that branches or loops in one piece.

    Raises:
        Unsplittable: if it does.
    """
    kinds = sorted({node.op_type for node in model.graph if node.op_type in _CONTROL})
    if kinds:
        raise Unsplittable(f"it branches or loops in the file ({', '.join(kinds)})")


def _work(part: Part, stage: TorchStage, model: Labelled) -> Work:
    return Work(part.name, parameters_of(stage.module), sum(model.macs[node] for node in part.nodes))
