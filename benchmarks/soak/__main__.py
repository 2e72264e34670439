"""Hold a running process to what it must show, line by line; see `benchmarks/soak/lines/`.

Lines of another package (`--lines benchmarks.soak_services.lines`) are run in the same way. Bundles come from the
recipes that the lines name, compiled or exported in float, through the cache. The file is written after each line;
lines that are not asked for keep their place in it. A line that fails, hangs or crashes does not keep the others from
theirs.
Exit code 1: one does not show what it must.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from benchmarks.compiling import compiled, exported
from benchmarks.soak import line, registry
from benchmarks.soak.line import Line, Setting
from edgefuse.errors import DataError, EdgefuseError, MeasureError, cited
from edgefuse.typed_json import decode

TARGETS = ("onnx", "tflite")
EXPORTED_FOR = "onnx"


@cache
def compile_once(recipe: str, examples: Path, work: Path, jobs: int) -> None:
    """Compile a recipe that lines take, once for all of them.

    Args:
        recipe: below `examples`.
        examples: the folder of recipes.
        work: the folder of bundles.
        jobs: at the same time.

    Raises:
        MeasureError: the compile failed.
    """
    compiled(recipe, examples / recipe, line.home(work, recipe), jobs=jobs, targets=TARGETS)


@cache
def export_once(recipe: str, examples: Path, work: Path) -> None:
    """Export a recipe in float, which takes no search, once for all lines that take it; arguments as above.

    Raises:
        MeasureError: the export failed.
    """
    exported(recipe, examples / recipe, line.home(work, recipe) / f"exported-{EXPORTED_FOR}.edgefuse", EXPORTED_FOR)


def line_of(name: str, arguments: argparse.Namespace) -> Line:
    """Return what a line came to; if it cannot be run, why.

    Args:
        name: of the line.
        arguments: of the command line.
    """
    try:
        if not arguments.as_compiled:
            module = registry.module(name, arguments.lines)
            for recipe in getattr(module, "RECIPES", ()):
                compile_once(recipe, arguments.examples, arguments.work, arguments.jobs)
            for recipe in getattr(module, "EXPORTS", ()):
                export_once(recipe, arguments.examples, arguments.work)
        setting = Setting(folder=str(arguments.work.resolve()), minutes=arguments.minutes)
        return in_process(f"{arguments.lines}.{name}", setting, limit_minutes=arguments.limit)
    except (EdgefuseError, OSError, ImportError, msgspec.MsgspecError) as error:
        return Line(line=name, figures={"failed": cited(error)}, ok=False)


def in_process(module: str, setting: Setting, *, limit_minutes: float) -> Line:
    """Run a line in a process of its own.

    Args:
        module: of the line.
        setting: that it is given.
        limit_minutes: after which it is ended: it hangs.

    Raises:
        MeasureError: the process ended without a result, or had to be ended.
    """
    name = module.rpartition(".")[2]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "line.json"
        command = [sys.executable, "-m", "benchmarks.soak.alone", module, str(out)]
        try:  # what it prints goes to stderr, descriptor 2: stdout is for what lines came to
            done = subprocess.run(
                command, input=msgspec.json.encode(setting), stdout=2, timeout=60 * limit_minutes, check=False
            )
        except subprocess.TimeoutExpired:
            raise MeasureError(f"'{name}' had not ended after {limit_minutes:g} minutes") from None
        if not out.exists():
            raise MeasureError(f"the process of '{name}' ended without a result", got=f"code {done.returncode}")
        return decode(out.read_bytes(), Line)


def run(arguments: argparse.Namespace) -> int:
    """Run what is asked for, write the file after each line, and return the exit code.

    Raises:
        DataError: there is no such line.
    """
    names = registry.names(arguments.lines)
    for name in arguments.only or ():
        if name not in names:
            raise DataError("there is no such line", got=repr(name), expected=" or ".join(names))
    found = {one.line: one for one in line.read(arguments.out) if one.line in names}
    for name in names:
        if not arguments.only or name in arguments.only:
            must = (registry.module(name, arguments.lines).__doc__ or "").splitlines()[0]
            print(f"{name}: {must}", file=sys.stderr, flush=True)
            found[name] = line_of(name, arguments)
            line.write(arguments.out, tuple(found[one] for one in names if one in found))
            print(f"{'ok    ' if found[name].ok else 'not ok'}  {name}: {told(found[name])}", flush=True)
    return 0 if all(one.ok for one in found.values()) else 1


def told(one: Line) -> str:
    """Return the figures of a line as one line of text."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in one.figures.items()
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add(
        "--lines",
        default=registry.PACKAGE,
        metavar="PACKAGE",
        help="whose modules are the lines (default: %(default)s)",
    )
    add("--out", type=Path, default=Path("out/soak.json"), help="the lines as JSON")
    add("--work", type=Path, default=Path("out/soak"), help="folder of bundles, reports and logs")
    add("--only", action="append", metavar="LINE", help="only this line (again for more)")
    add("--minutes", type=float, help="that each line may repeat something (default: as often as it must)")
    add("--limit", type=float, default=60.0, metavar="MINUTES", help="after which a line hangs (default: 60)")
    add("--as-compiled", action="store_true", help="take the bundles that lie in the work folder as they are")
    add("--examples", type=Path, default=Path("examples"), help="the folder whose recipes are compiled")
    add("--jobs", type=int, default=1, help="of a compile, at the same time")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the arguments; those of the process if None.
    """
    try:
        return run(parser().parse_args(argv))
    except EdgefuseError as error:
        print(f"edgefuse: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
