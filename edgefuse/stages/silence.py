"""Libraries that trace kept silent, and what they refuse as one line that names the user's own code.

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
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from edgefuse.errors import cited

logger = logging.getLogger(__name__)

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OWN = Path(__file__).parents[1]
_SITES = {Path(sysconfig.get_paths()[scheme]) for scheme in ("purelib", "platlib")} | {Path(torch.__file__).parents[1]}
_LIBRARIES = (
    "torch",
    "litert_torch",
    "litert_converter",
    "onnxscript",
    "onnx_ir",
    "jax",
    "opt_einsum",
    "torch_pruning",
)
# Code between a user's module and an error: of the tools, of Python and of edgefuse, whose models are like a user's.
_BETWEEN = (
    *(site / library for site in _SITES for library in _LIBRARIES),
    *(_OWN / part for part in ("export", "stages", "compiler", "quantize", "prune")),
)
_PYTHON = Path(sysconfig.get_paths()["stdlib"])

UNSCRIPTED = "give the module that was scripted"

_NOT_TRACED = (
    (
        PackedSequence,
        "sequences are not traced packed: run the layer on the padded sequence and mask what follows the valid steps, "
        "as docs/recurrent.md shows",
    ),
    ((torch.jit.ScriptModule, torch.jit.ScriptFunction), f"TorchScript is not traced: {UNSCRIPTED}"),
)
"""What is no operator of torch's, and what to do about it."""

_SIGNS = {
    "data-dependent": "write the forward pass without Python branches on the values of tensors, and without slices and "
    "sizes by them; a place that a tensor names is written to by `torch.where(places == position, new, old)`",
    "numpy": "compute with torch alone inside of a stage",
}
_ANY_FIX = "mend that line; a model is traced without Python branches on the values of tensors"


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


def first_words(error: BaseException) -> str:
    """Return what the innermost cause that says something does, without colours: see `cited`."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    logger.debug("an exporter refused", exc_info=error)
    for one in reversed(chain):
        said = cited(one, clean=lambda text: _COLOUR.sub("", text))
        if said != type(one).__name__:
            return said
    return type(error).__name__


def advice(error: BaseException, module: nn.Module) -> str:
    """Return what to do about a module that `torch.export` refuses: by what was called, else by what it says."""
    chain = [one for one in (error, error.__cause__) if one is not None]
    frames = [frame for one in chain for frame, _ in traceback.walk_tb(one.__traceback__)]
    held = [*module.modules(), *(value for frame in frames for value in frame.f_locals.values())]
    for kind, fix in _NOT_TRACED:
        if any(isinstance(value, kind) for value in held):
            return fix
    said = first_words(error)
    return next((fix for sign, fix in _SIGNS.items() if sign in said), _ANY_FIX)


def user_line(error: BaseException) -> str:
    """Return the last line of the user's own code on the way to an error, such as `model.py:42: y = x.numpy()`."""
    return users_line(traceback.extract_tb(error.__traceback__))


def users_line(stack: traceback.StackSummary) -> str:
    """Return the last line of the user's own code in a stack; see `user_line`."""
    return last_of_user([(frame.filename, frame.lineno or 0) for frame in stack])


def last_of_user(frames: list[tuple[str, int]]) -> str:
    """Return the last of some frames that is in the user's own code, as `user_line` spells it."""
    for file, number in reversed(frames):
        path = Path(file)
        if path.is_file() and not _is_between(path):
            return f"{path.name}:{number}: {linecache.getline(file, number).strip()}"
    return ""


def line_of(stack_trace: str | None) -> str:
    """Return the last line of the user's own code in a stack as torch writes it on the nodes of a graph."""
    return last_of_user([(match["file"], int(match["line"])) for match in _FRAME.finditer(stack_trace or "")])


def _is_between(path: Path) -> bool:
    if any(path.is_relative_to(other) for other in _BETWEEN):
        return True
    return path.is_relative_to(_PYTHON) and "site-packages" not in path.parts


def at(line: str) -> str:
    """Return a line as the end of a clause; nothing if there is none."""
    return f" at {line!r}" if line else ""
