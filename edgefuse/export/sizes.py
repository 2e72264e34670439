"""Sizes that stay open in a traced stage, and the user's line that fixed one which should have."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.export import Dim, ExportedProgram

# Torch has no public way to ask where it took a size for a constant.
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from edgefuse.bundle.spec import StageInput, largest, spelled
from edgefuse.errors import ExportError
from edgefuse.export.torch.forms import COMMON, Table
from edgefuse.export.tracing import trace
from edgefuse.stages.branches import Branch, branches, guards_by_line
from edgefuse.stages.examples import example_inputs
from edgefuse.stages.padding import may_be_padded
from edgefuse.stages.recurrent import open_steps
from edgefuse.stages.silence import users_line
from edgefuse.stages.stage import TorchStage

_BRANCHES = "edgefuse.branches"


@open_steps()
def trace_with_open_sizes(stage: TorchStage, forms: Table = COMMON) -> ExportedProgram:
    """Trace a stage with its bounded and bucketed dimensions dynamic.

    `Dim.DYNAMIC` refuses a size that torch takes for a constant only until it knows better; where `Dim.AUTO` keeps it
    open, that is as good.

    Args:
        stage: what to trace.
        forms: what may stand in place of operators.

    Raises:
        ExportError: if torch cannot trace the stage, or a size is fixed by the model; then with its line.
    """
    inputs = example_inputs(stage)
    try:
        with guards_by_line() as guards:
            program = trace(stage, inputs, dynamic_shapes=_dynamic(stage, automatic=False), forms=forms)
        return _with_branches(program, stage, guards)
    except ExportError as error:
        if not may_be_padded(stage.spec):
            raise
        with _fixing_lines() as lines, guards_by_line() as guards:
            program = trace(stage, inputs, dynamic_shapes=_dynamic(stage, automatic=True), forms=forms)
        frozen = _frozen(program, stage)
        if not frozen:
            return _with_branches(program, stage, guards)
        line = next((line for line in lines if line), "")
        raise works_at_one_size(stage, line, frozen) from error


def decisions(stage: TorchStage) -> tuple[Branch, ...]:
    """Return the decisions on sizes of a stage; none where torch does not keep its sizes open."""
    if not may_be_padded(stage.spec):
        return ()
    try:
        return branches_of(trace_with_open_sizes(stage))
    except ExportError:
        return ()


def branches_of(program: ExportedProgram) -> tuple[Branch, ...]:
    """Return the decisions on sizes of a stage that was traced here."""
    found: tuple[Branch, ...] = program.graph_module.meta.get(_BRANCHES, ())
    return found


def _with_branches(program: ExportedProgram, stage: TorchStage, lines: Mapping[str, str]) -> ExportedProgram:
    """Return a traced stage that knows its decisions on sizes."""
    shapes = _input_shapes(program, stage)
    program.graph_module.meta[_BRANCHES] = branches(((shape, port.tensor.shape) for port, shape in shapes), lines)
    return program


@open_steps()
def fixing_line(stage: TorchStage) -> str:
    """Return the user's line that makes a number of an open size, such as `range(x.shape[1])`; empty if none does.

    Torch may keep such a size open in name, while the graph holds what that number led to.
    """
    with _fixing_lines() as lines, contextlib.suppress(ExportError):
        trace(stage, example_inputs(stage), dynamic_shapes=_dynamic(stage, automatic=True))
    return next((line for line in lines if line), "")


def works_at_one_size(stage: TorchStage, line: str, got: str) -> ExportError:
    """Return why a stage of variable sizes has no file that is right at all of them.

    Args:
        stage: of which there is none.
        line: of the model, that fixes a size; empty if it is not known.
        got: what was found.
    """
    return ExportError(
        f"the stage '{stage.spec.name}' works at one size alone" + (f", fixed at {line!r}" if line else ""),
        got=got,
        expected="any size that the spec allows",
        fix="take the size from the shape of a tensor there, and do not compare it or make it an int",
    )


def takes_another_way(stage: TorchStage, line: str, got: str) -> ExportError:
    """Return why a stage that decides on a size has no file that is right at all of them.

    Args:
        stage: of which there is none.
        line: of the model, that decides.
        got: what was found.
    """
    return ExportError(
        f"the stage '{stage.spec.name}' decides on a size that its spec leaves open, at {line!r}, and a file can only "
        "hold what the largest size takes",
        got=got,
        expected="the same operations at every size that the spec allows",
        fix="write that line without a branch (pad, slice or mask by the tensor's shape), or fix the size in the spec",
    )


def _dynamic(stage: TorchStage, *, automatic: bool) -> Any:
    """Return the dynamic dimensions of a stage, one dictionary per input.

    Torch counts variable positional arguments as one.
    """
    hint = Dim.AUTO if automatic else Dim.DYNAMIC
    axes = tuple(
        {axis: hint(max=largest(dim)) for axis, dim in enumerate(port.tensor.shape) if not isinstance(dim, int)}
        for port in stage.spec.inputs
    )
    parameters = inspect.signature(stage.module.forward).parameters.values()
    variadic = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    return (axes,) if variadic else axes


def _frozen(program: ExportedProgram, stage: TorchStage) -> str:
    """Name the inputs whose open sizes torch has fixed."""
    wrong = [
        f"'{port.tensor.name}' {spelled(port.tensor.shape)} only as {list(shape)}"
        for port, shape in _input_shapes(program, stage)
        if any(not isinstance(dim, int) and isinstance(shape[a], int) for a, dim in enumerate(port.tensor.shape))
    ]
    return ", ".join(wrong)


def _input_shapes(program: ExportedProgram, stage: TorchStage) -> list[tuple[StageInput, Sequence[Any]]]:
    """Return the inputs of a traced stage with their shapes there."""
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    pairs = ((port, values.get(str(name))) for port, name in zip(stage.spec.inputs, names, strict=True))
    return [(port, value.shape) for port, value in pairs if value is not None]


@contextlib.contextmanager
def _fixing_lines() -> Iterator[list[str]]:
    """Collect the user's lines at which torch makes a number of an open size, or replaces it by one."""
    lines: list[str] = []
    replace, to_int = ShapeEnv._set_replacement, SymNode.guard_int

    def note(self: ShapeEnv, symbol: Any, by: Any, message: str) -> None:
        if by.is_number:
            lines.append(users_line(traceback.extract_stack()))
        replace(self, symbol, by, message)

    def note_int(self: SymNode, file: str, line: int) -> int:
        lines.append(users_line(traceback.extract_stack()))
        return to_int(self, file, line)

    ShapeEnv._set_replacement = note  # type: ignore[method-assign, assignment]
    SymNode.guard_int = note_int  # type: ignore[method-assign]
    try:
        yield lines
    finally:
        ShapeEnv._set_replacement = replace  # type: ignore[method-assign]
        SymNode.guard_int = to_int  # type: ignore[method-assign]
