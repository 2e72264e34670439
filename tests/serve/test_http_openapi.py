"""The description of the endpoints: drawn requests, right and wrong, get answers that it names, and no failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from edgefuse.bundle.writer import write_bundle
from edgefuse.serve.http.service import Http, Settings
from edgefuse.serve.http.token import Token
from tests import tiny
from tests.serve.web import ask, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    negative_data_rejection,
]
OPERATIONS = ("/v1/predict", "/v1/model", "/healthz", "/metrics", "/openapi.json")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(path, tiny.manifest(), tiny.contents())
    with serving(path) as found:
        yield found


def hold(url: str, path: str, examples: int) -> None:
    """Draw requests of an endpoint, right and wrong, and check the answers."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    (operation,) = (one.ok() for one in schema.include(path=path).get_all_operations())
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        if mode is schemathesis.GenerationMode.NEGATIVE and path not in ("/v1/predict", "/v1/generate"):
            continue  # what takes nothing cannot be asked wrongly

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        check()


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("examples", [10, pytest.param(400, marks=pytest.mark.exhaustive)])
def test_drawn_requests_get_answers_that_are_described(service: Http, path: str, examples: int) -> None:
    hold(service.url, path, examples)


def test_it_says_what_the_bundle_takes(service: Http) -> None:
    found = ask(service.url, "GET", "/openapi.json").json
    inputs = found["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert list(inputs["inputs"]["properties"]) == ["image", "text", "motion"]
    (lists, _) = inputs["inputs"]["properties"]["motion"]["oneOf"]
    assert (lists["maxItems"], lists["items"]["maxItems"], lists["items"]["items"]["minItems"]) == (1, 5, 3)
    assert "/v1/generate" not in found["paths"]
    assert "security" not in found
    json.dumps(found)


def test_it_says_that_a_token_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    write_bundle(path, tiny.manifest(), tiny.contents())
    token = "a-token-for-this-test"
    with serving(path, Settings(token=Token(token, "a test"))) as service:
        found = ask(service.url, "GET", "/openapi.json", headers={"Authorization": f"Bearer {token}"}).json
    assert found["security"] == [{"token": []}]
    assert found["paths"]["/healthz"]["get"]["security"] == []
