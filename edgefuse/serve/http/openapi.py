"""The description of the service for one model (OpenAPI 3.1), made from the records that it sends.

The page at `/` and its files are not in it: they are for people.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, TypeAlias

import msgspec

from edgefuse.bundle.spec import Modality, ModelSpec, TensorPreprocess, TextPreprocess
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.serve.http.answers import Answer, Failure, Health, Made, Model, Whole

_Json: TypeAlias = dict[str, Any]
_SENT = (Answer, Made, Whole, Model, Health, Failure)
_ALWAYS = {
    400: "The request cannot be understood; the sentence says what is wrong.",
    408: "The request did not come in time.",
    411: "The request does not say its length.",
    413: "The request, or its header, is too large.",
    414: "The path is too long.",
    421: "The request is for another host.",
    429: "The service has as much to do as it takes; Retry-After says in how many seconds to try again.",
    500: "An error of this service; its log says which.",
    501: "The request has a transfer coding other than chunked.",
    505: "The version of HTTP is neither 1.0 nor 1.1.",
}
_OF_BODIES = {
    415: "The body is neither JSON nor a form, or holds media that this service cannot read.",
    503: "The service ends, or the answer did not come in time.",
}


def describe(model: ModelSpec, *, generates: bool, with_token: bool) -> _Json:
    """Return the description.

    Args:
        model: its modalities are what requests hold.
        generates: whether it makes tokens one after the other.
        with_token: whether requests have to have the token.
    """
    (_, components) = msgspec.json.schema_components(_SENT, ref_template="#/components/schemas/{name}")
    document: _Json = {
        "openapi": "3.1.0",
        "info": {"title": f"edgefuse: {model.name}", "version": version("edgefuse")},
        "paths": {
            "/v1/model": {"get": _get("What is served.", _json("Model"), with_token)},
            "/healthz": {"get": _health()},
            "/metrics": {"get": _get("Figures for Prometheus.", {"text/plain": {"schema": _TEXT}}, with_token)},
            "/openapi.json": {"get": _get("This.", {"application/json": {"schema": {"type": "object"}}}, with_token)},
        },
        "components": {"schemas": components},
    }
    predict = _post(model, "Predict.", _json("Answer"), with_token)
    explain = {"name": "explain", "in": "query", "schema": {"type": "boolean", "default": False}}
    document["paths"]["/v1/predict"] = {"post": predict | {"parameters": [explain]}}
    if generates:
        events = {"text/event-stream": {"schema": _TEXT}}
        document["paths"]["/v1/generate"] = {"post": _post(model, "Make tokens.", events, with_token, config=True)}
    if with_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


_TEXT: _Json = {"type": "string"}


def _json(name: str) -> _Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _responses(good: _Json, codes: dict[int, str], with_token: bool) -> _Json:
    told = codes | ({401: "The token is missing or wrong."} if with_token else {})
    failures: _Json = {str(code): {"description": text, "content": _json("Failure")} for code, text in told.items()}
    if "429" in failures:
        whole = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
        failures["429"]["headers"] = whole
    return {"200": {"description": "Good.", "content": good}} | dict(sorted(failures.items()))


def _secured(operation: _Json, with_token: bool) -> _Json:
    return operation | ({"security": [{"token": []}]} if with_token else {})


def _get(summary: str, good: _Json, with_token: bool) -> _Json:
    return _secured({"summary": summary, "responses": _responses(good, _ALWAYS, with_token)}, with_token)


def _health() -> _Json:
    responses = _responses(_json("Health"), _ALWAYS, with_token=False)
    responses["503"] = {"description": "It ends.", "content": _json("Health")}
    return {"summary": "Whether it runs, and takes requests.", "responses": responses}


def _post(model: ModelSpec, summary: str, good: _Json, with_token: bool, *, config: bool = False) -> _Json:
    settings = {"config": _settings()} if config else {}
    whole = {
        "type": "object",
        "properties": {"inputs": _object(model, {m.name: _in_json(m) for m in model.modalities})} | settings,
        "required": ["inputs"],
        "additionalProperties": False,
    }
    form = _object(model, {m.name: _in_form(m) for m in model.modalities} | ({"config": _TEXT} if config else {}))
    body = {
        "required": True,
        "content": {"application/json": {"schema": whole}, "multipart/form-data": {"schema": form}},
    }
    responses = _responses(good, _ALWAYS | _OF_BODIES, with_token)
    return _secured({"summary": summary, "requestBody": body, "responses": responses}, with_token)


def _object(model: ModelSpec, properties: _Json) -> _Json:
    required = [modality.name for modality in model.modalities if not modality.optional]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
    } | ({"required": required} if required else {})


def _settings() -> _Json:
    _, found = msgspec.json.schema_components((GenerationConfig,))
    schema: _Json = found["GenerationConfig"]
    return {"type": "object", "properties": schema["properties"], "additionalProperties": False}


def _in_json(modality: Modality) -> _Json:
    if isinstance(modality.preprocess, TextPreprocess):
        return {"type": "string", "minLength": 1}
    file = {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
    if not isinstance(modality.preprocess, TensorPreprocess):
        return {"anyOf": [file, {"type": "array"}]}
    if len(modality.tensors) == 1:
        return {"anyOf": [{"type": "array", "description": modality.tensors[0].dtype}, file]}
    lists = {tensor.name: {"type": "array", "description": tensor.dtype} for tensor in modality.tensors}
    return {"type": "object", "properties": lists, "required": list(lists), "additionalProperties": False}


def _in_form(modality: Modality) -> _Json:
    if isinstance(modality.preprocess, TextPreprocess):
        return {"type": "string", "minLength": 1}
    return {"type": "string", "format": "binary"}
