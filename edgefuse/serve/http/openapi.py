"""The description of the endpoints in the terms of OpenAPI 3.1, made from the types and the bundle's spec."""

from __future__ import annotations

from typing import Any

import msgspec

from edgefuse import __version__
from edgefuse.bundle.spec import Modality, TensorSpec, TextPreprocess, largest
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.serve.http.answers import Answer
from edgefuse.serve.http.described import Model
from edgefuse.serve.http.generation import generates
from edgefuse.serve.http.inputs import FORM, GENERATION, JSON, MEDIA
from edgefuse.serve.http.limits import Limits
from edgefuse.serve.http.refusal import ErrorAnswer

_Json = dict[str, Any]
_MEANINGS = {
    400: "The request is damaged, or an input is wrong: the sentence says how.",
    401: "The request carries no valid token.",
    404: "There is no such endpoint, or the model does not do that.",
    405: "The endpoint does not take this method.",
    408: "The request did not come in time.",
    411: "The request does not say its length.",
    413: "The request is too large, or has too many parts.",
    415: "The body is neither JSON nor a form.",
    429: "Too many requests wait.",
    431: "The headers are too large.",
    500: "A runtime failed.",
    501: "The service lacks a library that reads this kind of input.",
    503: "The service ends, or there was no answer in time.",
}
_ALWAYS = (400, 401, 405, 408, 411, 413, 431, 503)
_OF_BODIES = (415, 429, 500, 501)
_LATER = (429, 503)


def description(pipeline: Pipeline, limits: Limits, secured: bool) -> _Json:
    """Return the description.

    Args:
        pipeline: that answers.
        limits: of the service.
        secured: requests must carry a token.
    """
    model = pipeline.manifest.model
    schemas, components = _schemas()
    paths: _Json = {
        "/v1/predict": {"post": _predict(model.modalities, schemas)},
        "/v1/model": {"get": _get("What the model takes and gives.", {JSON: {"schema": schemas[Model]}})},
        "/healthz": {"get": _get("Whether requests are taken.", {JSON: {"schema": _HEALTH}}) | {"security": []}},
        "/metrics": {"get": _get("Figures for Prometheus.", {"text/plain": {"schema": {"type": "string"}}})},
        "/openapi.json": {"get": _get("This description.", {JSON: {"schema": {"type": "object"}}})},
    }
    if generates(model):
        paths["/v1/generate"] = {"post": _generate(model.modalities)}
    found: _Json = {
        "openapi": "3.1.0",
        "info": {
            "title": f"edgefuse: {model.name}",
            "version": __version__,
            "description": f"Bodies of at most {limits.body_bytes} bytes and {limits.parts} parts.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if secured:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


_HEALTH: _Json = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}


def _schemas() -> tuple[dict[type, _Json], _Json]:
    """Return references to the types by type, and their schemas."""
    types = (Answer, Model, ErrorAnswer)
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return dict(zip(types, references, strict=True)), components


def _predict(modalities: tuple[Modality, ...], schemas: dict[type, _Json]) -> _Json:
    explain = {
        "name": "explain",
        "in": "query",
        "description": "Say what each optional modality added.",
        "schema": {"type": "boolean", "default": False},
    }
    return {
        "summary": "Predict from the inputs.",
        "operationId": "predict",
        "parameters": [explain],
        "requestBody": _body(modalities, generation=False),
        "responses": _responses({JSON: {"schema": schemas[Answer]}}, (*_ALWAYS, *_OF_BODIES)),
    }


def _generate(modalities: tuple[Modality, ...]) -> _Json:
    events = {"schema": {"type": "string", "description": "Events `token`, then one `end` or `error`, with JSON."}}
    return {
        "summary": "Make tokens from the inputs, one after the other.",
        "operationId": "generate",
        "requestBody": _body(modalities, generation=True),
        "responses": _responses({"text/event-stream": events}, (*_ALWAYS, *_OF_BODIES)),
    }


def _get(summary: str, content: _Json) -> _Json:
    return {"summary": summary, "responses": _responses(content, _ALWAYS)}


def _responses(content: _Json, statuses: tuple[int, ...]) -> _Json:
    error = {JSON: {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    later = {"headers": {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}}
    found: _Json = {"200": {"description": "The answer.", "content": content}}
    for status in sorted(statuses):
        more = later if status in _LATER else {}
        found[str(status)] = {"description": _MEANINGS[status], "content": error, **more}
    return found


def _body(modalities: tuple[Modality, ...], *, generation: bool) -> _Json:
    inputs = _object({one.name: _value(one) for one in modalities}, [m.name for m in modalities if not m.optional])
    inputs["minProperties"] = 1
    parts = {one.name: _part(one) for one in modalities}
    given: _Json = {"inputs": inputs}
    if generation:
        given[GENERATION] = _object({name: _setting(name) for name in GenerationConfig.__dataclass_fields__}, [])
        parts.setdefault(GENERATION, {"type": "string", "description": "How tokens are chosen, as JSON."})
    form = _object(parts, inputs["required"]) | {"minProperties": 1}
    return {
        "required": True,
        "content": {JSON: {"schema": _object(given, ["inputs"])}, FORM: {"schema": form}},
    }


def _object(properties: _Json, required: list[str]) -> _Json:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(modality: Modality) -> _Json:
    """Return the schema of a modality in JSON."""
    if isinstance(modality.preprocess, TextPreprocess):
        return {"type": "string", "minLength": 1}
    if isinstance(modality.preprocess, MEDIA):
        kind = msgspec.to_builtins(modality.preprocess)["kind"]
        return {"type": "string", "contentEncoding": "base64", "description": f"A file ({kind}) in base64."}
    if len(modality.tensors) == 1:
        return _tensor(modality.tensors[0])
    return _object({one.name: _tensor(one) for one in modality.tensors}, [one.name for one in modality.tensors])


def _tensor(tensor: TensorSpec) -> _Json:
    kind = "number" if tensor.dtype == "float32" else "integer"
    schema: _Json = {"type": kind}
    if tensor.dtype == "uint8":
        schema |= {"minimum": 0, "maximum": 255}
    for dim in reversed(tensor.shape):
        fewest = dim if isinstance(dim, int) else 1
        schema = {"type": "array", "items": schema, "minItems": fewest, "maxItems": largest(dim)}
    npy = {"type": "string", "contentEncoding": "base64", "description": "A .npy file in base64."}
    return {"oneOf": [schema, npy]}


def _part(modality: Modality) -> _Json:
    """Return the schema of a modality's part of a form."""
    if isinstance(modality.preprocess, TextPreprocess):
        return {"type": "string", "minLength": 1}
    what = "A file." if isinstance(modality.preprocess, MEDIA) else "A .npy file, or lists of numbers as JSON."
    return {"type": "string", "contentMediaType": "application/octet-stream", "description": what}


def _setting(name: str) -> _Json:
    return {"description": f"As the field '{name}' of GenerationConfig."}
