"""The parser of every verb: a value is never empty, and an error in one is a single line on the terminal."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edgefuse.commands import terminal
from edgefuse.errors import EdgefuseError, shown

_MAX_MESSAGE = 1_000
_END_OF_OPTIONS = "--"
_WITH_VALUES = ("store", "append", "extend")


class Parser(argparse.ArgumentParser):
    """A parser that takes no value that is empty or blank, for whichever option or argument.

    An empty value is a variable of a script that was not set: `--device "$BOARD"` must not mean this machine, and
    `inspect "$BUNDLE"` not the current folder.
    """

    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        self.color = False  # of newer Pythons: colours are control characters, too

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Declare an argument; see `argparse`."""
        return super().add_argument(*names, **_checking(settings))

    def add_argument_group(self, *names: Any, **settings: Any) -> Any:
        """Return a group, whose values are held to the same; see `argparse`."""
        group = super().add_argument_group(*names, **settings)
        declare = group.add_argument
        group.add_argument = lambda *names, **settings: declare(*names, **_checking(settings))  # type: ignore[method-assign]
        return group

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own one lets a help that cannot be written pass for one that was.
        lines = message.rstrip("\n").split("\n")
        if file is not None and file is sys.stderr:
            terminal.complain(*lines)
        else:
            terminal.put(lines)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """Parse a command line; see `argparse`, of which some versions take the value of `--option=--` for none."""
        found, extra = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            if isinstance(value, list) and value is not action.default and (not value or [] in value):
                error = argparse.ArgumentError(action, f"the value is empty: got '{_END_OF_OPTIONS}'")
                if not self.exit_on_error:
                    raise error
                self.error(str(error))
        return found, extra

    def error(self, message: str) -> NoReturn:
        """Say how it is called and what is wrong, and end with the exit code of wrong usage."""
        terminal.complain(*self.format_usage().rstrip("\n").split("\n"))
        terminal.complain(f"{self.prog}: error: {shown(message, _MAX_MESSAGE)}")
        self.exit(EdgefuseError.exit_code)


def _checking(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an argument with a type that refuses what no value can be, where it takes values."""
    takes_values = settings.get("action", "store") in _WITH_VALUES
    return {**settings, "type": _given(settings.get("type", str))} if takes_values else settings


def _given(convert: Callable[[str], object]) -> Callable[[str], object]:
    """Return a type for argparse that refuses what no value can be, and then converts."""

    def converted(text: str) -> object:
        if not text.strip() or text == _END_OF_OPTIONS:
            raise argparse.ArgumentTypeError(f"the value is empty: got {text!r}")
        try:
            os.fsencode(text)
        except UnicodeEncodeError:
            raise argparse.ArgumentTypeError("the value is not text") from None
        if "\0" in text:
            raise argparse.ArgumentTypeError("the value holds a null character")
        return convert(text)

    converted.__name__ = getattr(convert, "__name__", "argument")  # argparse names it when the conversion fails
    return converted


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Declare what every verb on a recipe takes beside it: other targets, and the cache."""
    parser.add_argument(
        "--target", action="append", metavar="NAME", help="target, instead of the recipe's; may be repeated"
    )
    add_cache(parser)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Declare the folder of the cache."""
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of the cache (default: EDGEFUSE_CACHE)")


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers in a range."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a whole number from {low} to {high}")
        return value

    return convert


def share(text: str) -> float:
    """Convert a fraction, for argparse."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a share from 0 to 1")
    return value


def seconds(text: str) -> float:
    """Convert a time limit, for argparse."""
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{shown(text)!r} is not a number of seconds above 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
