"""Jobs of a user's module, for the engines: each is a frozen dataclass that can be called."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from edgefuse.compiler.workers import report
from edgefuse.errors import MissingExtraError, RecipeError


@dataclass(frozen=True)
class Square:
    """Squares, and tells what kind of process did it."""

    def __call__(self, item: int) -> tuple[int, int]:
        logging.getLogger("jobs").warning("squared %d", item)
        return item * item, os.getpid()


@dataclass(frozen=True)
class Threads:
    """Tells how many threads a job may use."""

    def __call__(self, item: int) -> tuple[int, str | None]:
        return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


@dataclass(frozen=True)
class DieOnce:
    """Kills its process the first time it meets the item 2, as a system short of memory does."""

    folder: Path

    def __call__(self, item: int) -> int:
        mark = self.folder / "died"
        if item == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item


@dataclass(frozen=True)
class DieAlways:
    """Kills its process at the item 2."""

    def __call__(self, item: int) -> int:
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


@dataclass(frozen=True)
class Fail:
    """Finds fault with all items but the first: late with the second one, at once with the others."""

    def __call__(self, item: int) -> int:
        if item == 1:
            time.sleep(0.5)
            raise MissingExtraError("the second item", extra="second", module="two")
        if item > 1:
            raise RecipeError("a later item", got=item)
        return item


@dataclass(frozen=True)
class Return:
    """Returns what no pickle can hold."""

    def __call__(self, item: int) -> object:
        return lambda: item


@dataclass(frozen=True)
class Sleep:
    """Writes down its process and goes to sleep."""

    folder: Path

    def __call__(self, item: int) -> None:
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)


@dataclass(frozen=True)
class Tell:
    """Tells that half of it is done, and does the other half when somebody has heard of it."""

    folder: Path

    def __call__(self, item: int) -> bool:
        report(1, 2, f"item {item}")
        return waited_for(self.folder / f"heard-{item}")


@dataclass(frozen=True)
class Chatter:
    """Tells more than anybody can hear, also what is hard to write down."""

    folder: Path

    def __call__(self, item: int) -> None:
        for number in range(5000):
            report(number, 0, f"item {item}, word {number}" + "\ud800\N{GRINNING FACE}\x1b" * 200)
        (self.folder / f"said-{item}").touch()


def waited_for(path: Path) -> bool:
    """Wait a minute for a file; tell whether it came."""
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path.exists()


class Variable:
    """A variable of the environment, as a worker sees it."""

    def __call__(self, name: str) -> str | None:
        return os.environ.get(name)
