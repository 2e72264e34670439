"""`torch.export` for all targets, and what exporters refuse as one sentence that names the user's own line.

Exporters print graphs, raise pages and colour them. All of that goes to the log of this module at debug level.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import os
import re
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.errors import ExportError
from edgefuse.export.torch.forms import COMMON, Table, apply_forms
from edgefuse.export.torch.tables import without_projections
from edgefuse.stages.stage import TorchStage

logger = logging.getLogger(__name__)

_MAX_CHARACTERS = 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')
_OWN = Path(__file__).parents[1]
_SITES = {Path(sysconfig.get_paths()[scheme]) for scheme in ("purelib", "platlib")} | {Path(torch.__file__).parents[1]}
_LIBRARIES = ("torch", "litert_torch", "litert_converter", "onnxscript", "onnx_ir", "jax", "torch_pruning")
# Code between a user's module and an error: of the tools, of Python and of edgefuse, whose models are like a user's.
_BETWEEN = (
    *(site / library for site in _SITES for library in _LIBRARIES),
    *(_OWN / part for part in ("export", "stages", "compiler", "quantize", "prune")),
)
_PYTHON = Path(sysconfig.get_paths()["stdlib"])
_FIX = {
    "data-dependent": "write the forward pass without Python branches on the values of tensors",
    "numpy": "compute with torch alone inside of a stage",
}
_ANY_FIX = "mend that line; a stage is traced at fixed shapes, without branches on the values of tensors"


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
        with quiet(), around or nullcontext():
            module = without_projections(stage.module)
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
            return apply_forms(program, forms)
    except ExportError:
        raise
    except Exception as error:  # torch.export raises whatever the module's own code raises
        said = first_words(error)
        raise ExportError(
            f"torch.export cannot trace the stage '{stage.spec.name}'{_at(user_line(error))}",
            got=said,
            fix=next((fix for sign, fix in _FIX.items() if sign in said), _ANY_FIX),
        ) from error


def named_operators(nodes: Iterable[torch.fx.Node], stage: TorchStage) -> tuple[str, ...]:
    """Name what nodes compute, sorted: each operator with its module and the user's line that asked for it."""
    return tuple(sorted({_named(node, type(stage.module).__name__) for node in nodes}))


def node_of(error: BaseException) -> tuple[torch.fx.Node, ...]:
    """Return the node that an interpreter of a graph was at when it raised an error; none if none was."""
    at = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return tuple(node for node in at if isinstance(node, torch.fx.Node))[-1:]


def _named(node: torch.fx.Node, whole: str) -> str:
    frames = [(match["file"], int(match["line"])) for match in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    stack = node.meta.get("nn_module_stack") or {}
    module = next((path for path, _ in reversed(stack.values())), "") or whole
    return f"{node.meta.get('original_aten') or node.target} in '{module}'{_at(_last_of_user(frames))}"


def first_words(error: BaseException) -> str:
    """Return the first line of the innermost cause that says something, without colours and of bounded length."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    logger.debug("an exporter refused", exc_info=error)
    for one in reversed(chain):
        lines = [line.strip() for line in _COLOUR.sub("", str(one)).splitlines() if line.strip()]
        if lines:
            line = lines[0].rstrip(".")
            cut = line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"
            return f"{type(one).__name__}: {cut}"
    return type(error).__name__


def user_line(error: BaseException) -> str:
    """Return the last line of the user's own code on the way to an error, such as `model.py:42: y = x.numpy()`."""
    return users_line(traceback.extract_tb(error.__traceback__))


def users_line(stack: traceback.StackSummary) -> str:
    """Return the last line of the user's own code in a stack; see `user_line`."""
    return _last_of_user([(frame.filename, frame.lineno or 0) for frame in stack])


def _last_of_user(frames: list[tuple[str, int]]) -> str:
    for file, number in reversed(frames):
        path = Path(file)
        if path.is_file() and not _is_between(path):
            return f"{path.name}:{number}: {linecache.getline(file, number).strip()}"
    return ""


def _is_between(path: Path) -> bool:
    if any(path.is_relative_to(other) for other in _BETWEEN):
        return True
    return path.is_relative_to(_PYTHON) and "site-packages" not in path.parts


def _at(line: str) -> str:
    return f" at {line!r}" if line else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed, warned and logged inside to this module's log at debug level; errors pass through.

    The C++ code of the converters writes to the file descriptor of the standard error, so it is the descriptor that
    is redirected, for the whole process: do not run two conversions in two threads.
    """
    sys.stderr.flush()
    kept, disabled = os.dup(2), logging.root.manager.disable
    with tempfile.TemporaryFile() as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(errors.fileno(), 2)
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            logging.disable(disabled)
            errors.seek(0)
            logger.debug("%s%s", output.getvalue(), errors.read().decode(errors="replace"))
