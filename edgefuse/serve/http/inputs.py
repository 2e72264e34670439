"""From the body of a request to what a pipeline takes: JSON, or the parts of a form."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
from flask import Request
from werkzeug.datastructures import FileStorage

from edgefuse.bundle.spec import (
    AudioPreprocess,
    ImagePreprocess,
    Modality,
    ModelSpec,
    TensorSpec,
    TextPreprocess,
    VideoPreprocess,
)
from edgefuse.errors import InputError, shown
from edgefuse.runtime.preprocess.array_file import read_array
from edgefuse.serve.http.refusal import Refusal
from edgefuse.typed_json import decode

MEDIA = (ImagePreprocess, AudioPreprocess, VideoPreprocess)
"""What comes as the bytes of a file of a format that others made."""
FORM, JSON = "multipart/form-data", "application/json"
GENERATION = "generation"
"""The part of a form that says how tokens are chosen."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a request.

    Attributes:
        inputs: by modality: text as it is, a file's bytes in base64, an array as lists of numbers or its `.npy` file in
            base64, or several arrays by name.
        generation: how tokens are chosen, as the fields of `GenerationConfig`.
    """

    inputs: dict[str, Any]
    generation: dict[str, Any] | None = None


class FormRequest(Request):
    """A request whose files stay in memory, which the size of a body bounds: nothing of it is written anywhere."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        del total_content_length, content_type, filename, content_length
        return io.BytesIO()


def raw_inputs(request: Request, model: ModelSpec) -> tuple[dict[str, object], dict[str, Any]]:
    """Return the raw inputs by modality, and how tokens are to be chosen.

    Args:
        request: with JSON or a form.
        model: that they are for.

    Raises:
        InputError: they are not as the model takes them, or the JSON or the form is damaged.
        Refusal: the body is neither JSON nor a form.
    """
    if request.mimetype == JSON:
        return _from_json(request.get_data(cache=False), model)
    if request.mimetype == FORM:
        return _from_form(request, model)
    got = shown(request.mimetype, 60) or "no Content-Type"
    raise Refusal(415, "a body of this type is not read", got=got, expected=f"{JSON} or {FORM}")


def _from_json(data: bytes, model: ModelSpec) -> tuple[dict[str, object], dict[str, Any]]:
    body = parsed(data, Body, '{"inputs": {"text": "…"}}')
    return {name: _value(model, name, value) for name, value in body.inputs.items()}, body.generation or {}


def _from_form(request: Request, model: ModelSpec) -> tuple[dict[str, object], dict[str, Any]]:
    """Return what the parts of a form say: files are bytes, and fields are what JSON would have."""
    names = [name for name, _ in (*request.form.items(multi=True), *request.files.items(multi=True))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the part '{shown(twice, 60)}' came {names.count(twice)} times", expected="once")
    given: dict[str, object] = {}
    generation: dict[str, Any] = {}
    modalities = {modality.name: modality for modality in model.modalities}
    for name, text in request.form.items():
        if name == GENERATION and name not in modalities:
            generation = parsed(text.encode(), dict[str, Any], '{"num_beams": 4}')
        else:
            given[name] = _value(model, name, _field(modalities.get(name), text))
    for name, file in request.files.items():
        given[name] = _file(modalities.get(name), name, file)
    return given, generation


def _field(modality: Modality | None, text: str) -> object:
    """Return the value of a field: JSON for arrays, which may be a file in base64, too."""
    if modality is None or isinstance(modality.preprocess, (TextPreprocess, *MEDIA)) or text[:1] not in ("[", "{"):
        return text
    return parsed(text.encode(), Any, "lists of numbers")


def _file(modality: Modality | None, name: str, file: FileStorage) -> object:
    data = file.stream.read()
    if modality is None:
        return data  # the pipeline says that it has none
    if isinstance(modality.preprocess, TextPreprocess):
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InputError(f"the text '{name}' is not UTF-8", expected="text in UTF-8") from None
    return data if isinstance(modality.preprocess, MEDIA) else read_array(data, name)


def _value(model: ModelSpec, name: str, value: object) -> object:
    """Return what a pipeline takes for what JSON has; a text is never taken for the path of a file here."""
    modality = next((one for one in model.modalities if one.name == name), None)
    if modality is None or value is None:
        return value  # the pipeline says that it has none
    if isinstance(modality.preprocess, TextPreprocess):
        if isinstance(value, str):
            return value
        raise _mismatch(name, value, "a text")
    if isinstance(modality.preprocess, MEDIA):
        if isinstance(value, str):
            return _decoded(name, value)
        raise _mismatch(name, value, "the bytes of a file in base64")
    if isinstance(value, dict):
        tensors = {tensor.name: tensor for tensor in modality.tensors}
        return {key: _array(f"{name}.{key}", one, tensors.get(key)) for key, one in value.items()}
    return _array(name, value, modality.tensors[0])


def _array(name: str, value: object, tensor: TensorSpec | None) -> object:
    """Return lists of numbers as an array of the tensor's type, or the array of a `.npy` file in base64."""
    if isinstance(value, str):
        return read_array(_decoded(name, value), name)
    if not isinstance(value, list) or tensor is None:
        return value  # of the wrong type, or for a tensor that is not: the pipeline says so
    dtype = np.dtype(tensor.dtype)
    try:
        found: npt.NDArray[Any] = np.asarray(value)
    except (ValueError, OverflowError):
        raise _mismatch(name, value, "lists of numbers of equal lengths") from None
    if found.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        raise _mismatch(name, value, f"lists of {'' if dtype.kind == 'f' else 'whole '}numbers of equal lengths")
    if (
        dtype.kind != "f"
        and found.size
        and not np.iinfo(dtype).min <= found.min() <= found.max() <= np.iinfo(dtype).max
    ):
        raise _mismatch(name, value, f"numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}")
    with np.errstate(over="ignore"):  # what is too large is infinite, which the pipeline refuses
        return found.astype(dtype)


def _decoded(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"the file for '{name}' is no base64", got=f"{len(value)} characters") from None


def _mismatch(name: str, value: object, expected: str) -> InputError:
    kinds: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return InputError(f"'{name}' is not as expected", got=kinds.get(type(value), "a number"), expected=expected)


def parsed(data: bytes, kind: Any, expected: str) -> Any:
    """Return JSON as a type.

    Args:
        data: in UTF-8.
        kind: the type.
        expected: an example of it.

    Raises:
        InputError: it is no JSON, or not of that type.
    """
    try:
        return decode(data, kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError("the JSON of the request cannot be used", got=str(error), expected=expected) from error
