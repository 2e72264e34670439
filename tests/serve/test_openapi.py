"""The service keeps to its description: requests drawn from it, right and wrong, get answers that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
Serving = Callable[..., Any]


def drawn(client: Any, examples: int) -> int:
    """Send requests of each operation, and return how many there were."""
    schema = schemathesis.openapi.from_dict(client.ask("GET", "/openapi.json").json)
    sent = 0
    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr] # an invalid description raises
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                nonlocal sent
                sent += 1
                case.call_and_validate(base_url=client.service.url, checks=CHECKS)

            try:
                send()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__ and "cannot be negated" not in str(error):
                    raise
    return sent


def test_a_few_requests_of_each_operation(serving: Serving) -> None:
    assert drawn(serving(), 8) >= 20


@pytest.mark.exhaustive
def test_many_requests_of_each_operation(serving: Serving) -> None:
    assert drawn(serving(), 200) > 300
