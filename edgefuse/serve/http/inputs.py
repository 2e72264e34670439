"""What a pipeline takes, from the body of a request: JSON, or the parts of a form.

Nothing of a request is ever a path or a name that is opened: what is no text comes as bytes or numbers.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.wrappers import Request

from edgefuse.bundle.spec import Modality, ModelSpec, TensorPreprocess, TensorSpec, TextPreprocess
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.preprocess.array_file import read_array

_ARRAY = b"\x93NUMPY"
CONFIG = "config"
"""The part of a form that says how tokens are chosen."""
_CONFIG_BYTES = 1 << 16
_PER_VALUE = (b",", b"[", b"{")
"""A value of JSON is the first one or stands behind one of these."""
_parsing = threading.Lock()
"""Held while a body of JSON is in memory as objects of Python, which take up to 30 times as much."""


class Asked(NamedTuple):
    """What a request asks."""

    raw: dict[str, object]
    config: GenerationConfig


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    inputs: dict[str, Any]
    config: dict[str, Any] = {}


def read(request: Request, model: ModelSpec, values: int) -> Asked:
    """Return what a request asks of a model.

    Args:
        request: whose body has come whole.
        model: that it is for.
        values: of a body of JSON, at most.

    Raises:
        InputError: it cannot be understood.
        werkzeug.exceptions.HTTPException: it is too large, of another type, or did not come in time.
    """
    if request.mimetype == "application/json":
        data = request.get_data(cache=False)
        _check_values(data, values)
        with _parsing:
            return _from_body(data, model)
    if request.mimetype == "multipart/form-data":
        return _from_form(request.form, request.files, model)
    raise UnsupportedMediaType("A body is application/json or multipart/form-data.")


def _check_values(data: bytes, most: int) -> None:
    """Refuse a body of more values than may be, before any of them is made. Signs in a text count as well."""
    found = 1 + sum(data.count(sign) for sign in _PER_VALUE)
    if found > most:
        raise InputError(
            "the body holds too many values",
            got=found,
            expected=f"at most {most} numbers, texts and lists",
            fix="send a large array as a .npy file, in base64 or as a part of a form",
        )


def _from_body(data: bytes, model: ModelSpec) -> Asked:
    body = _parsed(data)
    raw = {name: _from_json(model, name, value) for name, value in body.inputs.items() if value is not None}
    return Asked(raw, _config(body.config))


def _parsed(data: bytes) -> _Body:
    try:
        return msgspec.json.decode(data, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        what = "nests too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        raise InputError(
            "the body cannot be read", got=what, expected='JSON as in {"inputs": {…}} with one value for each modality'
        ) from error


def _config(settings: Mapping[str, object]) -> GenerationConfig:
    known = GenerationConfig.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise InputError("there is no such setting", got=repr(name), expected=", ".join(known))
    return GenerationConfig(**settings)  # type: ignore[arg-type] # it checks them itself


def _known(model: ModelSpec, name: str) -> Modality:
    for modality in model.modalities:
        if modality.name == name:
            return modality
    names = " or ".join(modality.name for modality in model.modalities)
    raise InputError("this model has no such modality", got=repr(name), expected=names)


def _from_json(model: ModelSpec, name: str, value: object) -> object:
    modality = _known(model, name)
    if isinstance(value, dict):
        return _arrays(modality, value)
    if isinstance(value, list):
        return _array(name, value, modality.tensors[0])
    if not isinstance(value, str):
        kind = {bool: "true or false", int: "a number", float: "a number"}.get(type(value), type(value).__name__)
        raise InputError(f"'{name}' is given in no form that is known", got=kind, expected=_expected(modality))
    return value if isinstance(modality.preprocess, TextPreprocess) else _bytes(modality, _decoded(name, value))


def _arrays(modality: Modality, values: Mapping[str, object]) -> dict[str, Array]:
    """Return several arrays of one modality, by the names of its tensors."""
    tensors = {tensor.name: tensor for tensor in modality.tensors}
    if not isinstance(modality.preprocess, TensorPreprocess) or set(values) != set(tensors):
        expected = _expected(modality)
        raise InputError(f"'{modality.name}' is given in no form that is known", got="an object", expected=expected)
    return {name: _tensor(f"{modality.name}.{name}", value, tensors[name]) for name, value in values.items()}


def _tensor(name: str, value: object, tensor: TensorSpec) -> Array:
    if isinstance(value, str):
        return read_array(_decoded(name, value), name)
    return _array(name, value, tensor)


def _expected(modality: Modality) -> str:
    if isinstance(modality.preprocess, TextPreprocess):
        return "a string"
    if not isinstance(modality.preprocess, TensorPreprocess):
        return "a file in base64"
    if len(modality.tensors) > 1:
        return f"an object with lists of numbers for {', '.join(one.name for one in modality.tensors)}"
    return "a list of numbers, or a .npy file in base64"


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"'{name}' is no base64", got=f"{len(text)} characters", expected="RFC 4648") from error


def _bytes(modality: Modality, data: bytes) -> object:
    """Return an array that is given as a .npy file, the text of a file of text, or any other file as it is."""
    name = modality.name
    if isinstance(modality.preprocess, TextPreprocess):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"'{name}' is no text", got=f"{len(data)} bytes", expected="UTF-8") from error
    if isinstance(modality.preprocess, TensorPreprocess) or data.startswith(_ARRAY):
        return read_array(data, name)
    return data


def _array(name: str, value: object, tensor: TensorSpec) -> Array:
    """Return nested lists of numbers as an array of the type that a tensor has."""
    try:
        found = np.array(msgspec.convert(value, _lists_like(value)))
        if found.dtype.kind not in ("iuf" if tensor.dtype == "float32" else "iu"):
            raise ValueError
        if found.dtype.kind in "iu" and tensor.dtype != "float32":
            range_ = np.iinfo(tensor.dtype)
            if found.size and not (range_.min <= found.min() and found.max() <= range_.max):
                raise ValueError
    except (msgspec.ValidationError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise InputError(
            f"'{name}' is no array", got="a list", expected=f"numbers of {tensor.dtype}, all rows equally long"
        ) from error
    with np.errstate(over="ignore"):  # what is infinite then is refused by the runtime
        return found.astype(tensor.dtype)


def _lists_like(value: object) -> Any:
    """Return the type of lists of numbers that are nested as the first ones of a value.

    NumPy would take anything, and give each item of a list with a string the room of the longest one.
    """
    kind: Any = int | float
    while isinstance(value, list):
        kind, value = list[kind], value[0] if value else None
    return kind


def _from_form(form: MultiDict[str, str], files: MultiDict[str, FileStorage], model: ModelSpec) -> Asked:
    _check_single((*form.items(multi=True), *files.items(multi=True)))
    raw: dict[str, object] = {}
    config: dict[str, object] = {}
    for name, value in form.items():
        if name == CONFIG and name not in {modality.name for modality in model.modalities}:
            config = _settings(value)
        elif isinstance(_known(model, name).preprocess, TextPreprocess):
            raw[name] = value
        else:
            raise InputError(f"'{name}' is no file", got="a field", expected="a part with a filename")
    for name, file in files.items():
        raw[name] = _bytes(_known(model, name), file.stream.read())
    return Asked(raw, _config(config))


def _check_single(parts: Iterable[tuple[str, object]]) -> None:
    names = [name for name, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError("a part of the form stands twice", got=repr(name), expected="one for each modality")


def _settings(text: str) -> dict[str, object]:
    if len(text) > _CONFIG_BYTES:
        expected = f"at most {_CONFIG_BYTES}"
        raise InputError(f"the part '{CONFIG}' is too long", got=f"{len(text)} characters", expected=expected)
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(
            f"the part '{CONFIG}' cannot be read", got=f"{len(text)} characters", expected="JSON"
        ) from error
