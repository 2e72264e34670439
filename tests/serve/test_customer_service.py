"""The example `customer_service`: a class and a reply from two bundles, behind Ray Serve and from two services."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from benchmarks.compiling import exported
from benchmarks.systems.composed import Asked
from edgefuse.datasets import dialogue, intent
from edgefuse.datasets.dialogue.commands import tenth, words
from edgefuse.datasets.intent.requests import INTENTS, SHARES
from edgefuse.errors import DataError
from edgefuse.typed_json import decode
from examples.customer_service import clients, compare, items, quality
from examples.customer_service.desk import reply
from tests.serve import voice

ROOT = Path(__file__).parents[2]


def test_the_reply_is_what_a_generation_ends_with() -> None:
    events = b'event: token\ndata: {"text":"on"}\n\nevent: done\ndata: {"text":"on \\u00e9","tokens":2}\n\n'
    assert reply(events) == "on é"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_both_ways_give_the_same_class_and_reply(tmp_path: Path) -> None:
    bundles = [str(voice.intents(tmp_path / "intents.edgefuse")), str(voice.replies(tmp_path / "replies.edgefuse"))]
    command = [sys.executable, "-m", "examples.customer_service.compare", *bundles, "--replicas", "1"]
    done = subprocess.run(
        [*command, "--clients", "2", "--requests", "8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    behind_ray, answer, figures, services, same, others = done.stdout.splitlines()
    assert "1 replicas of each" in behind_ray
    assert services == "two services of a process each"
    assert '"reply": "turn on the light"' in answer
    assert answer == same
    assert figures.endswith("ms")
    assert others.endswith("ms")


def test_bundles_in_another_order_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, replies = voice.intents(tmp_path / "intents.edgefuse"), voice.replies(tmp_path / "replies.edgefuse")
    for bundles, said in (
        ((replies, replies), f"the bundle {replies} names no class: got "),
        ((classes, classes), f"the bundle {classes} makes no reply: got "),
        ((classes, tmp_path / "gone.edgefuse"), f"the bundle '{tmp_path / 'gone.edgefuse'}' "),
    ):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, bundles)])
        assert compare.main() == 2
        assert capsys.readouterr().err.startswith(f"compare: error: {said}")
    monkeypatch.setattr(sys, "argv", ["compare", str(classes), str(replies), "--image", str(tmp_path / "gone.png")])
    assert compare.main() == 2
    assert "gone.png: got No such file or directory." in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["compare", str(classes), str(replies), "--requests", "1"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "--requests 2 or more" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fetched() -> None:
    try:
        words()
    except DataError as error:
        pytest.skip(f"not checked: the commands of 'dialogue': {error}")


@pytest.mark.usefixtures("fetched")
def test_every_command_has_one_intent_which_the_other_data_set_knows_and_tests_with() -> None:
    test, other = dialogue.items("test"), intent.items("test")
    known = {request.text: request.intent for request in other.requests}
    found = {command.text: items.intent(command) for command in test.commands}
    assert len({*found.values()}) == 3
    assert {*found.values()} <= {*INTENTS}
    both = found.keys() & known.keys()
    assert len(both) > 20
    assert {text: found[text] for text in both} == {text: known[text] for text in both}
    assert {tenth(text) for text in found} <= {*SHARES["test"]}


def test_files_hold_what_an_item_has() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    samples = rng.integers(-32768, 32768, 480, dtype=np.int16)
    sent = items.sent({"image": pixels, "audio": samples, "text": "lights on"})
    assert sent["text"] == "lights on"
    with Image.open(io.BytesIO(base64.b64decode(sent["image"]))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
    with wave.open(io.BytesIO(base64.b64decode(sent["audio"]))) as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (1, 16_000)
        assert np.array_equal(np.frombuffer(sound.readframes(480), "<i2"), samples)


def test_a_request_without_an_answer_is_lost_and_the_others_are_answered() -> None:
    warm = 2
    seen: list[str] = []

    async def ask(session: aiohttp.ClientSession, inputs: dict[str, str]) -> dict[str, Any]:
        seen.append(inputs["text"])
        if inputs["text"] == "3" or (inputs["text"] == "0" and len(seen) > warm):
            raise aiohttp.ClientConnectionError
        return {"reply": inputs["text"]}

    asked = clients.ask_all(ask, [{"text": str(number)} for number in range(6)], warm)
    assert asked.answers == [None, {"reply": "1"}, {"reply": "2"}, None, {"reply": "4"}, {"reply": "5"}]
    assert seen[:warm] == ["0", "1"]
    assert len(seen) == warm + 6
    assert all(one >= 0 for one in asked.times_s)
    assert asked.took_s >= max(asked.times_s)


def test_what_is_told_of_answers_is_what_the_systems_read() -> None:
    judged = [
        items.Item({}, "HassTurnOn", "on"),
        items.Item({}, "HassTurnOff", "off"),
        items.Item({}, "HassTurnOn", "on"),
    ]
    answers: list[dict[str, Any] | None] = [
        {"class": "HassTurnOn", "score": 0.9, "reply": "on"},
        {"class": "HassTurnOn", "score": 0.5, "reply": "off"},
        None,
    ]
    told = quality.told(judged, clients.Asked(answers, [0.1, 0.2, 0.3], 0.6)) | {"clients": 1, "replicas": 1}
    found = decode(json.dumps(told), Asked)
    assert found.right == {"class": [True, False, False], "reply": [True, True, False]}
    assert found.lost == 1
    assert found.times_ms == pytest.approx([100, 200, 300])
    assert found.seconds == 0.6


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.usefixtures("fetched")
def test_the_desk_answers_commands_of_the_test_split(tmp_path: Path) -> None:
    bundles = [tmp_path / f"{name}.edgefuse" for name in ("intent", "dialogue")]
    for bundle in bundles:
        exported(bundle.stem, ROOT / "examples" / bundle.stem / "recipe.toml", bundle, "onnx")
    out = tmp_path / "answers.json"
    command = [sys.executable, "-m", "examples.customer_service.quality", *map(str, bundles), "--out", str(out)]
    done = subprocess.run(
        [*command, "--replicas", "1", "--clients", "2", "--items", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = decode(out.read_bytes(), Asked)
    assert (found.lost, found.clients, found.replicas, len(found.times_ms)) == (0, 2, 1, 20)
    assert sum(found.right["class"]) >= 16
    assert sum(found.right["reply"]) >= 16
