"""Outputs that are inputs, or one another, as a dual encoder hands features on: files want values of their own."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.fx import Node

aten = torch.ops.aten


def part_outputs(program: ExportedProgram) -> bool:
    """Compute each output by an operator of its own, in place; tell whether any was not.

    The larger of a value and itself is that value, and no optimizer takes it away.
    """
    output = program.graph.output_node()
    taken = {str(name) for name in program.graph_signature.user_inputs}
    values = list(output.args[0])
    changed = False
    for place, (value, spec) in enumerate(zip(values, program.graph_signature.output_specs, strict=True)):
        if spec.kind is not OutputKind.USER_OUTPUT or not isinstance(value, Node):
            continue
        if value.name in taken:
            with program.graph.inserting_before(output):
                copy = program.graph.call_function(aten.maximum.default, (value, value))
            copy.meta = {**value.meta, "val": value.meta["val"]}
            values[place], spec.arg = copy, TensorArgument(name=copy.name)
            changed = True
        taken.add(value.name)
    output.args = (tuple(values),)
    return changed
