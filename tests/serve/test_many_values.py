"""JSON of many values, each of which takes many times its size in memory while it is read."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgefuse.errors import InputError
from edgefuse.serve.http import inputs
from edgefuse.serve.http.limits import Limits
from tests.serve.conftest import Client
from tests.serve.test_http import form

EMPTY = {"lists": b"[],", "objects": b"{},", "texts": b'"",', "objects in objects": b'{"a":0},'}


@pytest.mark.parametrize("kind", EMPTY)
def test_more_values_than_may_be_are_refused_before_they_are_made(serving: Callable[..., Client], kind: str) -> None:
    client, one = serving(), EMPTY[kind]
    many = one * (Limits().values // sum(map(one.count, (b",", b"[", b"{"))))
    body = b'{"inputs": {"motion": [' + many[:-1] + b"]}}"
    tracemalloc.start()
    try:
        answer = client.ask("POST", "/v1/predict", body)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status, answer.json["error"]["message"].split(": got ")[0]) == (
        400,
        "the body holds too many values",
    )
    assert taken < 6 * len(body)  # the bytes themselves, here, there and in between


def test_as_many_values_as_may_be_are_read() -> None:
    at_most = b"[" + b"1," * 98 + b"1]"
    inputs._check_values(at_most, 100)
    with pytest.raises(InputError, match="got 100, expected at most 99 numbers, texts and lists"):
        inputs._check_values(at_most, 99)
    assert Limits().values == 2 << 20
    assert Limits(body_bytes=64 << 20).values == 8 << 20


def test_one_body_at_a_time_is_in_memory_as_objects(
    serving: Callable[..., Client], motion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, counting, now, most = inputs._from_body, threading.Lock(), 0, 0

    def counted(*given: Any) -> Any:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        time.sleep(0.05)  # for others to come in, if they could
        try:
            return parsed(*given)
        finally:
            with counting:
                now -= 1

    monkeypatch.setattr(inputs, "_from_body", counted)
    client = serving(depth=8)
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: client.ask("POST", "/v1/predict", motion).status, range(4)))
    assert (answers, most) == ([200] * 4, 1)


def test_settings_of_a_form_are_short(serving: Callable[..., Client]) -> None:
    config = '{"seed": [' + "[]," * 30_000 + "[]]}"
    body = form(text="stop", config=config)
    answer = serving().ask("POST", "/v1/predict", body, Content_Type="multipart/form-data; boundary=x")
    sentence = f"the part 'config' is too long: got {len(config)} characters, expected at most 65536"
    assert (answer.status, answer.json["error"]["message"].startswith(sentence)) == (400, True)
