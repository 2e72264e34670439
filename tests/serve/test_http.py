"""Predictions over HTTP, in all forms that inputs have, and what is told of the service."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.runtime.prediction import Prediction
from edgefuse.serve.http.service import Http
from tests.serve.web import MOTION, ask, form, post, serving


@pytest.fixture
def service(tiny_bundle: Path) -> Iterator[Http]:
    with serving(tiny_bundle) as found:
        yield found


@pytest.fixture
def picture() -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(data, "PNG")
    return data.getvalue()


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values, np.float32))
    return file.getvalue()


@pytest.fixture
def expected(tiny_bundle: Path, picture: bytes) -> Prediction:
    with edgefuse.load(tiny_bundle) as pipeline:
        return pipeline(image=picture, text="please stop", motion=np.array(MOTION, np.float32))


def in_json(picture: bytes) -> tuple[bytes, dict[str, str]]:
    inputs = {"image": base64.b64encode(picture).decode(), "text": "please stop", "motion": MOTION}
    return json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json; charset=utf-8"}


def in_json_with_a_file(picture: bytes) -> tuple[bytes, dict[str, str]]:
    image, motion = (base64.b64encode(data).decode() for data in (picture, npy(MOTION)))
    inputs = {"image": image, "text": "please stop", "motion": motion}
    return json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"}


def in_a_form(picture: bytes) -> tuple[bytes, dict[str, str]]:
    return form({"image": picture, "text": "please stop", "motion": npy(MOTION)})


def in_a_form_of_fields(picture: bytes) -> tuple[bytes, dict[str, str]]:
    image = base64.b64encode(picture).decode()
    return form({"image": image, "text": b"please stop", "motion": json.dumps(MOTION)})


@pytest.mark.parametrize("sent", [in_json, in_json_with_a_file, in_a_form, in_a_form_of_fields])
def test_all_forms_of_inputs_give_the_same_answer(
    service: Http, sent: Callable[[bytes], tuple[bytes, dict[str, str]]], picture: bytes, expected: Prediction
) -> None:
    body, headers = sent(picture)
    found = ask(service.url, "POST", "/v1/predict", body, headers)
    assert found.status == 200, found.content
    answer = found.json
    assert found.headers["content-type"] == "application/json"
    assert answer["label"] == expected.label
    assert answer["score"] == expected.score
    assert answer["scores"] == expected.scores
    assert answer["outputs"] == {"logits": expected.outputs["logits"].tolist()}
    assert (answer["rung"], answer["present"]) == ("float", ["image", "text", "motion"])
    assert set(answer["timing"]) == {"queued_ms", "preprocess_ms", "infer_ms"}
    assert all(spent >= 0 for spent in answer["timing"].values())
    assert "contributions" not in answer


def test_what_each_modality_added_is_told_when_asked(service: Http, tiny_bundle: Path) -> None:
    given = {"text": "please stop", "motion": MOTION}
    with edgefuse.load(tiny_bundle) as pipeline:
        told = pipeline.explain(text="please stop", motion=np.array(MOTION, np.float32)).contributions
    assert told is not None
    found = post(service.url, "/v1/predict?explain=true", {"inputs": given}).json["contributions"]
    assert found["each"]["text"]["probability"] == told.each["text"].probability
    assert found["together"]["log_odds"] == told.together.log_odds
    assert "contributions" not in post(service.url, "/v1/predict?explain=false", {"inputs": given}).json


def test_a_connection_is_kept_for_the_next_request(service: Http) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection(service.url.removeprefix("http://"), timeout=60)
    body = json.dumps({"inputs": {"text": "go"}})
    connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
    first = json.loads(connection.getresponse().read())
    kept = connection.sock
    connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
    assert json.loads(connection.getresponse().read())["scores"] == first["scores"]
    assert connection.sock is kept
    connection.close()


def test_the_model_is_described(service: Http, tiny_bundle: Path) -> None:
    found = ask(service.url, "GET", "/v1/model").json
    assert (found["name"], found["rung"], found["rungs"], found["generates"]) == (
        "tiny",
        "float",
        ["float", "small"],
        False,
    )
    assert [one["name"] for one in found["modalities"]] == ["image", "text", "motion"]
    assert found["outputs"][0]["labels"] == ["stop", "go", "wait"]
    with edgefuse.load(tiny_bundle) as pipeline:
        assert found["digest"] == pipeline.digest


def test_it_says_that_it_is_well_and_counts_what_it_did(service: Http) -> None:
    assert ask(service.url, "GET", "/healthz").json == {"status": "ok"}
    post(service.url, "/v1/predict", {"inputs": {"text": "go"}})
    post(service.url, "/v1/predict", {"inputs": {}})
    found = ask(service.url, "GET", "/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    lines = found.content.decode().splitlines()
    assert 'edgefuse_http_requests_total{endpoint="/v1/predict",status="200"} 1.0' in lines
    assert 'edgefuse_http_requests_total{endpoint="/v1/predict",status="400"} 1.0' in lines
    assert 'edgefuse_seconds_count{part="infer"} 1.0' in lines
    assert "edgefuse_queue_admitted_total 2.0" in lines
    assert any(line.startswith('edgefuse_bundle{digest="') for line in lines)
