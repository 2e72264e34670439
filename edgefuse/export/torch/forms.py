"""The forms applied to a traced stage: what has none stays as torch wrote it, and then costs nothing here."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from torch.export import ExportedProgram
from torch.fx import Node

from edgefuse.errors import ExportError
from edgefuse.export.torch import arithmetic, masks, order, placing, pools, resizing, scattering, tables, transposed
from edgefuse.export.torch.complex_numbers import has_complex_numbers, pair_complex_numbers
from edgefuse.export.torch.inlining import Prepare, inline, only_first_is_used, replace, replace_first
from edgefuse.export.torch.outputs import part_outputs

logger = logging.getLogger(__name__)

T = TypeVar("T")

Table: TypeAlias = Mapping[Any, Prepare]
"""What may stand in place of a node, by operator."""

COMMON: Table = {**pools.FORMS, **tables.FORMS, **masks.FORMS, **arithmetic.FORMS}
"""Forms that every target gains by."""

ALL: Table = {
    **COMMON,
    **placing.FORMS,
    **resizing.FORMS,
    **transposed.FORMS,
    **scattering.FORMS,
    **order.FORMS,
    **arithmetic.LACKING,
}
"""The same, and those of operators that ONNX has and TFLite has not."""

_REFUSED = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def first_that_agrees(make: Callable[[Table], T]) -> T:
    """Return what is made with the common forms or, where that fails, with all of them; the first error if both fail.

    Args:
        make: takes a table; an `ExportError` says that what it makes lacks an operator, or does not answer like torch.
    """
    try:
        return make(COMMON)
    except ExportError:
        with contextlib.suppress(ExportError):
            return make(ALL)
        raise


def apply_forms(program: ExportedProgram, table: Table) -> ExportedProgram:
    """Put forms in place of the nodes that have one, in place, and return the traced stage.

    Args:
        program: the traced stage.
        table: what may stand in place of a node, by operator.
    """
    changed = False
    for node in [node for node in program.graph.nodes if node.op == "call_function" and node.target in table]:
        try:
            form = table[node.target](program, node)
            results = None if form is None else inline(program, node, form)
        except _REFUSED as error:  # an odd call of an operator: its own exporters may know it
            logger.debug("%s stays as it is", node.target, exc_info=error)
            continue
        if results is not None:
            _replace(program, node, results)
            changed = True
    if has_complex_numbers(program):
        pair_complex_numbers(program)
        changed = True
    if part_outputs(program) or changed:
        program.graph.eliminate_dead_code()
        program.graph.lint()
        program.graph_module.recompile()
    return program


def _replace(program: ExportedProgram, node: Any, results: tuple[Node, ...]) -> None:
    if not isinstance(node.meta["val"], (tuple, list)):
        replace(program, node, results[0])
    elif len(results) == 1 and only_first_is_used(node):
        replace_first(program, node, results[0])
    else:
        for user in list(node.users):
            replace(program, user, results[user.args[1]])
        program.graph.erase_node(node)
