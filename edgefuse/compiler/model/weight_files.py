"""Files of weights, read without running what they hold: safetensors, their shards, and what `torch.save` writes.

Which kind a file is, its content says, not its name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec
import safetensors.torch
import torch
from torch.serialization import safe_globals

from edgefuse.errors import RecipeError, cited, some
from edgefuse.files import check_regular, read_regular, reason

State: TypeAlias = dict[str, Any]
"""Values by the names of a state dict, not looked at yet."""

_MAX_INDEX_BYTES = 1 << 26
_MAX_PICKLE_BYTES = 1 << 28
"""Of the part of a torch file that is no tensor."""

_ZIP, _LEGACY, _PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9", b"\x80"
_RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|runpy|importlib|shutil|socket|ctypes|pty|code|codeop|pickle|marshal|webbrowser|pip"
    r"|torch\.(hub|jit|package))\."
    r"|builtins\.(eval|exec|execfile|compile|__import__|open|breakpoint|apply|globals|setattr)$"
)
"""Functions that have no place in a checkpoint."""

_OUTERMOST = ("collections.", "torch._utils.", "torch._tensor.")
"""Where the outermost object of a file of weights may come from; others are pickled modules."""


class _Unread:
    """Stands for an object of another class than torch's own, which is not made: only tensors are wanted."""

    def __new__(cls, *_: object, **__: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _UnreadMapping:
    """The same for a kind of dictionary: a plain one."""

    def __new__(cls, *_: object, **__: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def read(path: Path) -> State:
    """Return what a file holds by name, of whatever kind it is.

    Raises:
        RecipeError: if it is missing, damaged, or of another kind.
    """
    return _of_weights(path)


def _of_weights(path: Path, index: Path | None = None) -> State:
    """Read a file, which an index of shards may have named."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        raise RecipeError(
            "the weights of the recipe are missing", got=f"no file {path}", fix="correct [model] weights"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise RecipeError(f"cannot read the weights {path} of the recipe", got=reason(error)) from error
    if head.startswith(_ZIP):
        return _read_zip(path)
    if head[8:] == b"{":
        return _of_safetensors(path)
    if head == _LEGACY:
        return _read_legacy(path)
    if head.startswith(_PICKLE):
        raise _unreadable(path, "a plain pickle, or one that was cut off", f"pickle.load(open('{path.name}', 'rb'))")
    if head.lstrip().startswith(b"{"):
        if index is not None:
            raise RecipeError(
                f"the index {index} names an index as a shard", got=path.name, expected="files of weights"
            )
        return _of_index(path)
    raise RecipeError(
        f"the weights {path} are of no kind that can be read",
        got=f"a file that begins with {head[:8]!r}" if head else "an empty file",
        expected="safetensors, the index of several such files, or a state dict that torch.save wrote",
    )


def _of_safetensors(path: Path) -> State:
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:  # damaged in any way
        raise _damaged(path, error) from error


def _of_index(path: Path) -> State:
    """Read the files that an index of shards names; they lie beside it, and are no indices: those could name it."""
    try:
        content = msgspec.json.decode(read_regular(path, _MAX_INDEX_BYTES), type=dict[str, Any])
        shards = msgspec.convert(content.get("weight_map"), dict[str, str])
    except OSError as error:
        raise RecipeError(f"cannot read the weights {path} of the recipe", got=reason(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(
            f"the weights {path} are no index of shards",
            got=str(error),
            expected="JSON with file names in 'weight_map'",
        ) from error
    state: State = {}
    for shard in dict.fromkeys(shards.values()):
        if shard in ("", ".", "..") or set(shard) & set("/\\\0"):
            raise RecipeError(
                f"the index {path} names a shard elsewhere", got=repr(shard), expected="files beside the index"
            )
        state |= _of_weights(path.with_name(shard), index=path)
    if absent := [name for name in shards if name not in state]:
        raise RecipeError(f"the shards of {path} lack what it lists", got=some(absent))
    return state


def _read_zip(path: Path) -> State:
    """Read a file of `torch.save`, or say what else the archive is."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename.rpartition("/")[2]: entry for entry in entries}
            if "constants.pkl" in names:
                raise _scripted(path)
            if "data.pkl" not in names:
                raise RecipeError(
                    f"the weights {path} are an archive that torch.save did not write",
                    got=f"a zip with {some(names)}",
                    expected="a state dict that torch.save wrote, or safetensors",
                )
            _require_plain(path, entries, names["data.pkl"])
            objects = _classes_in(io.BytesIO(archive.read(names["data.pkl"])))
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, OverflowError) as error:
        raise _damaged(path, error) from error
    return _of_torch(path, objects, mapped=True)


def _read_legacy(path: Path) -> State:
    """Read a file of `torch.save` as it was before version 1.6: four pickles, then the tensors."""
    try:
        with path.open("rb") as file:
            *_, objects = [_classes_in(file) for _ in range(4)]
    except (OSError, ValueError, EOFError, IndexError, MemoryError, OverflowError) as error:
        raise _damaged(path, error) from error
    return _of_torch(path, objects, mapped=False)


def _require_plain(path: Path, entries: Iterable[zipfile.ZipInfo], objects: zipfile.ZipInfo) -> None:
    """Refuse an archive that is small on disk and large in memory."""
    size, told = path.stat().st_size, sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or told > size:
        raise RecipeError(
            f"the weights {path} grow when they are read",
            got=f"{told} bytes of content in {size} bytes",
            expected="a file as torch.save writes it, not compressed",
        )
    if objects.file_size > _MAX_PICKLE_BYTES:
        raise RecipeError(
            f"the weights {path} hold too much besides tensors",
            got=f"{objects.file_size} bytes",
            expected=f"at most {_MAX_PICKLE_BYTES}",
        )


def _classes_in(pickled: IO[bytes]) -> dict[str, bool]:
    """Return the names that a pickle asks for, as Python 3 has them; whether it is the outermost object's."""
    found: dict[str, bool] = {}
    begun = False
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found.setdefault(f"{module}.{name}", not begun)
        begun = begun or opcode.name not in ("PROTO", "FRAME")
    return found


def _of_torch(path: Path, objects: Mapping[str, bool], *, mapped: bool) -> State:
    """Read a file of `torch.save` by torch's restricted reader; objects that are no tensors are left out.

    Args:
        path: of the file.
        objects: what it asks for besides containers, by name; whether it is the outermost object.
        mapped: whether its tensors can stay on disk until they are used.
    """
    for name, outermost in objects.items():
        if _RUNS_CODE.match(name):
            raise _code(path, name)
        if outermost and not name.startswith(_OUTERMOST):
            raise _foreign(path, f"a pickled object of the class '{name}'", "model.state_dict()")
    mapped = mapped and path.suffix != ".safetensors"  # which torch takes for one
    unread: list[Any] = [(_unread(name), name) for name in objects if not name.startswith(("torch.", *_OUTERMOST))]
    unread += [(_UnreadMapping, name) for name in objects if name == "collections.defaultdict"]
    try:
        with warnings.catch_warnings(action="ignore"), safe_globals(unread):  # of pickle protocols
            if mapped:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with path.open("rb") as file:
                    state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # damaged in any way: torch's readers raise what they like
        raise _damaged(path, error) from error
    if not isinstance(state, Mapping):
        raise RecipeError(f"the weights {path} hold no tensors by name", got=f"one {type(state).__name__}")
    return {str(name): value for name, value in state.items()}


def _unread(name: str) -> type:
    return _UnreadMapping if name.endswith(("dict", "Dict")) else _Unread


def _refused(path: Path, message: str) -> RecipeError:
    """Say what torch's restricted reader did not take, out of its long advice."""
    if "persistent_load" in message:  # as modules were pickled before version 1.6
        return _foreign(path, "a pickled module with its source", "model.state_dict()")
    found = re.search(r"GLOBAL ([\w.]+)|(Unsupported operand \d+)", message)
    if found is None or found[2]:
        why = f"a pickle of another protocol ({found[2]})" if found else message.splitlines()[0]
        return _unreadable(path, why, f"torch.load('{path.name}', weights_only=False)")
    name = found[1] if "." in found[1] else f"builtins.{found[1]}"
    if _RUNS_CODE.match(name):
        return _code(path, name)
    layer = name.startswith("torch.nn.")
    return _foreign(path, f"'{name}'", "model.state_dict()" if layer else "model['state_dict']")


# Refusals.


def _damaged(path: Path, error: Exception) -> RecipeError:
    return RecipeError(f"the weights {path} are damaged or cut off", got=cited(error))


def _scripted(path: Path) -> RecipeError:
    return RecipeError(
        f"the weights {path} are a TorchScript program, which is not run",
        expected="a state dict",
        fix=f"convert it once: model = torch.jit.load('{path.name}'); torch.save(model.state_dict(), 'weights.pt')",
    )


def _code(path: Path, name: str) -> RecipeError:
    return RecipeError(
        f"the weights {path} ask for a function to be called, which was not done",
        got=f"'{name}'",
        expected="tensors",
        fix="trust no weights of whoever made this file",
    )


def _unreadable(path: Path, got: str, read: str) -> RecipeError:
    """Refuse a pickle that torch's restricted reader does not take.

    Args:
        path: of the file.
        got: what it is.
        read: the line that reads it.
    """
    return RecipeError(
        f"the weights {path} cannot be read without running what they hold",
        got=got,
        expected="a state dict that torch.save wrote, or safetensors",
        fix=f"if you trust the file, convert it once: state = {read}; torch.save(state, 'weights.pt')",
    )


def _foreign(path: Path, got: str, state: str) -> RecipeError:
    """Refuse a pickle that only code could read.

    Args:
        path: of the file.
        got: what it holds.
        state: what to save out of it.
    """
    return RecipeError(
        f"the weights {path} hold more than tensors and plain values, and nothing of it was made",
        got=got,
        expected="a state dict",
        fix=f"if you trust the file, convert it once: model = torch.load('{path.name}', weights_only=False); "
        f"torch.save({state}, 'weights.pt')",
    )
