"""What is told of a line, and what one is given to work with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgefuse.errors import DataError
from edgefuse.typed_json import decode


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line came to.

    Attributes:
        line: its name, which is that of its module.
        figures: by name, with units in the names; `failed` says why there are none.
        ok: whether it shows what it must.
    """

    line: str
    figures: dict[str, Any]
    ok: bool


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line is given.

    Attributes:
        folder: of the compiled bundles.
        minutes: that a line may go on repeating something; as long as it takes if None.
    """

    folder: str
    minutes: float | None = None

    def bundle(self, recipe: str, target: str = "onnx") -> Path:
        """Return the bundle of a recipe that the line names among its `RECIPES`.

        Raises:
            DataError: there is none.
        """
        folder = home(Path(self.folder), recipe)
        found = sorted(folder.glob(f"*-{target}.edgefuse"))
        if len(found) != 1:
            got = ", ".join(path.name for path in found) or "none"
            raise DataError(f"there is not one bundle of '{recipe}' for {target} in {folder}", got=got)
        return found[0]

    def repeated(self, times: int) -> Iterator[int]:
        """Yield numbers from 0, as many as are asked for, or fewer where the minutes are over; at least one."""
        until = None if self.minutes is None else time.monotonic() + 60 * self.minutes
        for number in range(times):
            if number and until is not None and time.monotonic() > until:
                return
            yield number


def home(folder: Path, recipe: str) -> Path:
    """Return the folder in which a recipe's bundles lie: `digits/recipe.toml` has `digits-recipe`."""
    return folder / recipe.removesuffix(".toml").replace("/", "-")


def read(path: Path) -> tuple[Line, ...]:
    """Return the lines of a file that was written before; none if there is no such file."""
    return tuple(decode(path.read_bytes(), list[Line])) if path.exists() else ()


def write(path: Path, lines: tuple[Line, ...]) -> None:
    """Write all lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=1) + b"\n")
