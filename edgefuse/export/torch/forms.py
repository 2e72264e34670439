"""The forms applied to a traced stage: what has none stays as torch wrote it, and then costs nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.export import ExportedProgram

from edgefuse.export.torch import masks, order, placing, pools, tables
from edgefuse.export.torch.complex_numbers import pair_complex_numbers
from edgefuse.export.torch.inlining import Form, Prepare, inline, only_first_is_used, replace, replace_first
from edgefuse.export.torch.outputs import part_outputs
from edgefuse.export.torch.spectra import PAIRS

COMMON: dict[Any, Prepare] = {**pools.FORMS, **placing.FORMS, **tables.FORMS, **masks.FORMS, **order.FORMS}
"""Forms by operator that every target gains by."""


def apply_forms(program: ExportedProgram, table: Mapping[Any, Prepare]) -> ExportedProgram:
    """Put forms in place of the nodes that have one, in place, and return the traced stage.

    Args:
        program: the traced stage.
        table: what may stand in place of a node, by operator.
    """
    changed = False
    for node in [node for node in program.graph.nodes if node.op == "call_function"]:
        form = table[node.target](program, node) if node.target in table else None
        if form is not None:
            _replace(program, node, form)
            changed = True
    if any(node.target in PAIRS for node in program.graph.nodes):
        pair_complex_numbers(program)
        changed = True
    if part_outputs(program) or changed:
        program.graph.eliminate_dead_code()
        program.graph.lint()
        program.graph_module.recompile()
    return program


def _replace(program: ExportedProgram, node: Any, form: Form) -> None:
    results = inline(program, node, form)
    if not isinstance(node.meta["val"], (tuple, list)):
        replace(program, node, results[0])
    elif len(results) == 1 and only_first_is_used(node):
        replace_first(program, node, results[0])
    else:
        for user in list(node.users):
            replace(program, user, results[user.args[1]])
        program.graph.erase_node(node)
