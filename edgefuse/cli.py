"""The command line: finds the verb, calls it, and turns every outcome into an exit code.

Results go to stdout, everything else to stderr. Exit codes: 0 good; 1 a budget or check not met; 2 bad input or usage,
or a stdout that takes no result; 70 a bug of ours; 130 interrupted; 141 the reader of stdout went away.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from edgefuse import __version__
from edgefuse.commands import terminal
from edgefuse.commands.arguments import Parser
from edgefuse.errors import EdgefuseError, cited, shown

BUG, INTERRUPTED, BROKEN_PIPE = 70, 130, 141

# Each verb is a module of `edgefuse.commands` that is imported when the verb is called, with `add_arguments(parser)`
# and `run(arguments, extra) -> exit code`; `extra` holds what the parser does not know.
VERBS = MappingProxyType(
    {
        "check": "say what a compile would meet: stages, what targets take, what prunes, data, time",
        "compile": "prune, quantize, export, search, verify and bundle a model",
        "export": "bundle a model in schemes that are named, without a search",
        "inspect": "show stages, precisions, sizes, rungs, measured figures, preprocessing",
        "prepare": "measure a bundle's rungs here, once per device",
        "verify": "check hashes and golden vectors on this device's backends",
        "run": "predict from files, or find what an index has near to them",
        "serve": "answer over HTTP until told to end",
        "swap": "put another bundle in the place of the one that a running process answers with",
        "index": "embed files, and write an index of them for 'run --index'",
        "bench": "measure latency and memory, against a reference if one is given",
        "models": "list the reference models",
        "demo": "compile and run a reference model",
        "doctor": "show what this device offers: backends, CPU features, clocks, heat",
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the arguments without the program's name; those of the process if None.
    """
    terminal.open_closed_streams()
    with terminal.messages():
        try:
            code = _call(sys.argv[1:] if argv is None else list(argv))
            terminal.flush()
        except terminal.ReaderGone:
            code = BROKEN_PIPE
        except BaseException as error:  # noqa: BLE001 - every outcome becomes an exit code here, also a panic in Rust
            if os.environ.get("EDGEFUSE_DEBUG") == "1":
                terminal.complain(*terminal.quoted(traceback.format_exc()))
            code, line = _outcome(error)
            terminal.complain(f"edgefuse: {line}")
        finally:
            terminal.abandon()
    return code


def _call(argv: list[str]) -> int:
    try:
        parser = _parser(argv)
        arguments, extra = parser.parse_known_args(argv)
    except SystemExit as end:  # argparse has written help or what is wrong
        return int(end.code or 0)
    if extra and not arguments.takes_extra:
        terminal.complain(*arguments.parser.format_usage().rstrip("\n").split("\n"))
        terminal.complain(f"edgefuse: error: unknown arguments: {shown(' '.join(extra))}.")
        return EdgefuseError.exit_code
    code: int = arguments.run(arguments, extra)
    return code


def _outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an exception and the line that says what happened."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, EdgefuseError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, SystemExit):
        what = f"code that was imported for this command has ended it with sys.exit({error.code!r})"
        return EdgefuseError.exit_code, f"error: {shown(what)}."
    if isinstance(error, MemoryError):
        return EdgefuseError.exit_code, "error: this machine has not enough memory for it."
    if isinstance(error, OSError):
        where = f" at {error.filename}" if error.filename else ""
        return EdgefuseError.exit_code, f"error: the system refused{where}: {error.strerror or error}."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BUG, (
        f"bug: {cited(error)} ({Path(frame.filename).name}:{frame.lineno}). "
        "This is our fault: please report what the same command prints with EDGEFUSE_DEBUG=1 in its environment, "
        "and the output of 'edgefuse doctor'."
    )


def _parser(argv: Sequence[str]) -> Parser:
    """Return the parser of a command line: all verbs by name, and the arguments of the one that is called."""
    called = next((argument for argument in argv if not argument.startswith("-")), None)
    parser = Parser(
        prog="edgefuse",
        description="Compile multimodal fusion models for the edge, run and measure them.",
        epilog="Exit codes: 0 good; 1 a budget or check not met; 2 bad input or usage; 70 our bug; 130 interrupted; "
        "141 the reader of stdout is gone.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"edgefuse {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        if name == called:
            module = importlib.import_module(f"edgefuse.commands.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run, parser=verb, takes_extra=getattr(module, "TAKES_EXTRA", False))
    return parser
