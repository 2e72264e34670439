"""Every error that edgefuse raises on purpose, as one tree.

    EdgefuseError
    ├── InputError          an array, file or request handed to a pipeline is wrong
    ├── BundleError         a bundle is damaged, hostile or of another version
    ├── BackendError        a runtime cannot open or run a file
    │   └── EngineFileError a kept engine is damaged or foreign, and was not opened
    ├── MissingExtraError   a feature needs an optional dependency that is not installed
    ├── RecipeError         a recipe cannot be read or asks for something impossible
    ├── ModelError          a torch model breaks the contract of `FusionModel`
    ├── DataError           a data set, a weight file or a package that carries one is wrong
    ├── ExportError         a stage cannot be lowered to a target
    │   └── DisagreementError  a lowered file does not answer like torch
    ├── QuantizeError       a scheme cannot be applied, or calibration went wrong
    ├── MeasureError        a measurement cannot be made as asked
    ├── DeviceError         a device cannot be reached, lacks something or went away
    │   └── DeviceTaskError the runtime of a device cannot do what it was asked for
    ├── EngineError         workers cannot be started, die, or do not see the same files
    ├── CacheError          the cache folder cannot be used, or what was kept there changed under a compile
    └── CheckError          a check ran and was not met (exit code 1)

Each message says what is wrong, what was found, what was expected and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

MAX_SHOWN = 200
"""Characters of a value in a message."""
_MAX_SENTENCE = 1_000


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """Return a value as a message may show it: one line without control characters, and not endless."""
    try:
        text = value if isinstance(value, str) else str(value[:limit] if isinstance(value, list | tuple) else value)
    except ValueError:  # Python spells no integer of more than 4,300 digits
        text = "a number that is too long to show"
    head = text[:limit]
    line = head if head.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in head)
    return line if len(text) <= limit and len(line) <= limit else line[: limit - 3] + "..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def cited(error: BaseException, limit: int = MAX_SHOWN, clean: Callable[[str], str] = str) -> str:
    """Return an error as the sentence of another cites it: on one line, and without what to do about it.

    Ours say what is wrong and, in brackets, what they got; any other its type and its first line, which goes on where
    it ends with a colon.

    Args:
        error: that is the cause of the other one.
        limit: of characters, of what is not ours.
        clean: leaves what is for people of what is not ours.
    """
    if isinstance(error, EdgefuseError):
        return error.said
    try:
        lines = [line.strip() for line in clean(str(error)).splitlines() if line.strip()]
    except Exception:  # noqa: BLE001 - its __str__ may be the user's own code
        lines = ["an error that cannot be spelled"]
    words = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    kind = type(error).__name__
    return shown(f"{kind}: {words.rstrip('.')}", limit) if words else kind


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class EdgefuseError(Exception):
    """Say what is wrong in one sentence; the base of every error of this package.

    Whatever a sentence quotes may come from a hostile file: it is cut, and control characters are escaped.

    Args:
        what: what is wrong.
        got: what was found.
        expected: what was expected instead.
        fix: what the user can do.

    Attributes:
        what: is wrong.
        said: that and what was found, for the sentence of another error: see `cited`.
        fix: what the user can do; None if that is nothing.
    """

    exit_code = 2

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        details = [f"got {shown(got)}"] if got is not None else []
        if expected is not None:
            details.append(f"expected {shown(expected, _MAX_SENTENCE)}")
        self.what = shown(what, _MAX_SENTENCE)
        self.said = self.what.removesuffix(".") + (f" ({shown(got)})" if got is not None else "")
        end = "" if self.what.endswith(".") and not details else "."  # a sentence that ends with another has its stop
        sentence = self.what + (": " + ", ".join(details) if details else "") + end
        super().__init__(sentence + (f" Fix: {shown(fix, _MAX_SENTENCE).rstrip('.')}." if fix else ""))
        self.fix = fix

    def __reduce__(self) -> tuple[Callable[..., EdgefuseError], tuple[object, ...]]:
        # The way from a worker process: what Exception does by itself would build a sentence out of the sentence.
        return _restored, (type(self), str(self), vars(self))


def _restored(kind: type[EdgefuseError], sentence: str, attributes: Mapping[str, object]) -> EdgefuseError:
    """Return an error as it was pickled, whatever arguments its class takes."""
    error = kind.__new__(kind, sentence)
    vars(error).update(attributes)
    return error


class InputError(EdgefuseError):
    """An array, file or request handed to a pipeline is wrong."""


class BundleError(EdgefuseError):
    """A bundle is damaged, hostile or of another version."""


class BackendError(EdgefuseError):
    """A runtime cannot open or run a file."""


class EngineFileError(BackendError):
    """A kept engine is damaged or foreign, and was not opened."""


class MissingExtraError(EdgefuseError):
    """A feature needs an optional dependency that is not installed.

    Args:
        feature: what was asked for, as the subject of a sentence ("reading audio files").
        extra: the extra that brings it ("media").
        module: the module that could not be imported.
    """

    def __init__(self, feature: str, *, extra: str, module: str) -> None:
        super().__init__(
            f"{feature} needs the module '{module}', which is not installed",
            fix=f"pip install 'edgefuse[{extra}]'",
        )
        self.extra = extra


@contextmanager
def needing(feature: str, *, extra: str) -> Iterator[None]:
    """Turn an import that fails within the block into a `MissingExtraError`, unless the module is one of ours."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "edgefuse":
            raise
        raise MissingExtraError(feature, extra=extra, module=str(error.name)) from error


class RecipeError(EdgefuseError):
    """A recipe cannot be read or asks for something impossible."""


class ModelError(EdgefuseError):
    """A torch model breaks the contract of `FusionModel`."""


class DataError(EdgefuseError):
    """A data set, a weight file or a package that carries one is wrong."""


class ExportError(EdgefuseError):
    """A stage cannot be lowered to a target."""


class DisagreementError(ExportError):
    """A lowered file does not answer like torch.

    Args:
        what: does not.
        got: what was found.
        shapes: of the inputs at which it does not, by name.
        fix: what the user can do.

    Attributes:
        shapes: of the inputs.
    """

    def __init__(self, what: str, *, got: str, shapes: Mapping[str, Sequence[int]], fix: str) -> None:
        super().__init__(what, got=got, fix=fix)
        self.got = got
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}

    def from_operator(self, named: str) -> DisagreementError:
        """Return the error with the operator that it begins at."""
        return DisagreementError(
            f"{self.what} from the operator {named} on",
            got=self.got,
            shapes=self.shapes,
            fix="write that operator in another way, and report it with the model",
        )


class QuantizeError(EdgefuseError):
    """A scheme cannot be applied, or calibration went wrong."""


class PruneError(EdgefuseError):
    """A stage cannot be pruned as asked, or not recovered."""


class MeasureError(EdgefuseError):
    """A measurement cannot be made as asked."""


class DeviceError(EdgefuseError):
    """A device cannot be reached, lacks something or went away."""


class DeviceTaskError(DeviceError):
    """The runtime of a device cannot do what it was asked for."""


class EngineError(EdgefuseError):
    """Workers cannot be started, die, or do not see the same files."""


class CacheError(EdgefuseError):
    """The cache folder cannot be used, or what was kept there changed under a compile."""


class CheckError(EdgefuseError):
    """A check ran and was not met."""

    exit_code = 1
