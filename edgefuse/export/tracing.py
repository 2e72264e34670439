"""`torch.export` for all targets, and what exporters refuse as one sentence that names the user's own line.

What exporters print goes to the log of `stages.silence`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.errors import ExportError
from edgefuse.export.torch.forms import COMMON, Table, apply_forms
from edgefuse.export.torch.tables import without_projections
from edgefuse.stages.lines import tell_lines
from edgefuse.stages.openness import kept_open
from edgefuse.stages.silence import advice, at, first_words, line_of, quiet, user_line
from edgefuse.stages.stage import TorchStage

__all__ = ["first_words", "named_operators", "node_of", "quiet", "trace", "user_line"]


def trace(
    stage: TorchStage,
    inputs: tuple[Tensor, ...],
    dynamic_shapes: Any = None,
    around: AbstractContextManager[object] | None = None,
    forms: Table = COMMON,
) -> ExportedProgram:
    """Return a stage as a graph of torch's operators.

    Args:
        stage: what to trace.
        inputs: one tensor per input port; their types and shapes matter.
        dynamic_shapes: as `torch.export.export` takes them; all shapes are fixed if None.
        around: a context to trace in.
        forms: what may stand in place of operators.

    Raises:
        ExportError: if `torch.export` cannot trace the stage, with the user's line that it gave up at.
    """
    try:
        with quiet(), kept_open(), around or nullcontext():
            module = without_projections(stage.module)
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
            tell_lines(program.graph, stage)
            return apply_forms(program, forms)
    except ExportError:
        raise
    except Exception as error:  # torch.export raises whatever the module's own code raises
        raise ExportError(
            f"torch.export cannot trace the stage '{stage.spec.name}'{at(user_line(error))}",
            got=first_words(error),
            fix=advice(error, stage.module),
        ) from error


def named_operators(nodes: Iterable[torch.fx.Node], stage: TorchStage) -> tuple[str, ...]:
    """Name what nodes compute, sorted: each operator with its module and the user's line that asked for it."""
    return tuple(sorted({_named(node, stage) for node in nodes}))


def node_of(error: BaseException) -> tuple[torch.fx.Node, ...]:
    """Return the node that an interpreter of a graph was at when it raised an error; none if none was."""
    held = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return tuple(node for node in held if isinstance(node, torch.fx.Node))[-1:]


def _named(node: torch.fx.Node, stage: TorchStage) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    whole = stage.spec.name if stage.lines else type(stage.module).__name__
    module = next((path for path, _ in reversed(stack.values())), "") or whole
    line = line_of(node.meta.get("stack_trace"))
    return f"{node.meta.get('original_aten') or node.target} in '{module}'{at(line)}"
