"""Lower stages to TFLite (LiteRT) files with litert-torch.

The file is float32 with static shapes: a bounded or bucketed dimension is lowered at its largest size and the runtime
pads. litert-torch calls the inputs and outputs of a file `args_0`, `output_0` and its tensors after the source code;
here they get the names of the stage's ports and short names, so a file tells nothing of where it was made.
litert-torch takes seconds to import, so it is imported when a stage is lowered.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import StageSpec, TensorSpec
from edgefuse.errors import ExportError
from edgefuse.export.stage import Lowered, TorchStage
from edgefuse.export.tflite_interface import name_interface
from edgefuse.export.tflite_rewrites import rewrite
from edgefuse.export.tflite_silence import quiet

# Checks that tracing leaves behind and litert-torch removes.
_DROPPED = {torch.ops.aten._assert_tensor_metadata.default}
_DTYPES = {"float32": torch.float32, "uint8": torch.uint8, "int32": torch.int32}


class TfliteTarget:
    """The target `tflite`: float32 LiteRT files with one signature and static shapes."""

    name = "tflite"
    backend = "tflite"
    suffix = ".tflite"

    def unsupported(self, stage: TorchStage) -> tuple[str, ...]:
        """Name the operators of a stage that litert-torch has no lowering for, sorted, without lowering it.

        Raises:
            ExportError: if `torch.export` cannot trace the stage.
        """
        program = _trace(stage)
        with quiet():
            from litert_torch import fx_infra
            from litert_torch.backend import lowerings

            decomposed = program.run_decompositions(fx_infra.decomp.pre_lower_decomp())
        calls = [node.target for node in decomposed.graph.nodes if node.op == "call_function"]
        operators = {target for target in calls if isinstance(target, OpOverload)} - _DROPPED
        return tuple(sorted(str(operator) for operator in operators if lowerings.lookup(operator) is None))

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32; the same stage gives the same bytes.

        Raises:
            ExportError: if the stage cannot be traced or litert-torch refuses it.
        """
        program = _trace(stage)
        with quiet():
            import litert_torch

            try:
                module = rewrite(program)
                converted = litert_torch.convert(module, _example_inputs(stage.spec))
                data = bytes(converted.model_content())
            except Exception as error:  # litert-torch and MLIR raise whatever they like
                raise ExportError(
                    f"litert-torch cannot lower the stage '{stage.spec.name}'",
                    got=", ".join(self.unsupported(stage)) or f"{type(error).__name__}: {_first_line(error)}",
                    fix="replace the operator named, or leave the target 'tflite' out of the recipe",
                ) from error
        ports = stage.spec.inputs, stage.spec.outputs
        inputs, outputs = (tuple(_binding(port.tensor) for port in side) for side in ports)
        named = name_interface(data, [b.tensor for b in inputs], [b.tensor for b in outputs])
        return Lowered(data=named, inputs=inputs, outputs=outputs, opset="tfl3")

    def versions(self) -> dict[str, str]:
        """Return the versions of torch, litert-torch and the converter behind it."""
        return {name: version(name) for name in ("torch", "litert-torch", "litert-converter", "ai-edge-litert")}


def _binding(tensor: TensorSpec) -> Binding:
    return Binding(port=tensor.name, tensor=tensor.name, dtype=tensor.dtype, shape=tensor.max_shape)


def _example_inputs(spec: StageSpec) -> tuple[Tensor, ...]:
    """Return zeros of the largest shapes; tracing looks at their types and shapes alone."""
    tensors = [port.tensor for port in spec.inputs]
    return tuple(torch.zeros(tensor.max_shape, dtype=_DTYPES[tensor.dtype]) for tensor in tensors)


def _trace(stage: TorchStage) -> ExportedProgram:
    """Trace a stage at its largest shapes, or raise `ExportError`."""
    with quiet():
        try:
            return torch.export.export(stage.module, _example_inputs(stage.spec), strict=False)
        except Exception as error:  # torch.export raises whatever the module's own code raises
            raise ExportError(
                f"torch.export cannot trace the stage '{stage.spec.name}'",
                got=f"{type(error).__name__}: {_first_line(error)}",
                fix="make the module traceable at a fixed shape: no branches on tensor values, no numpy inside",
            ) from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error that says something; MLIR's are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "no message"
