"""The assistant of `examples/voice/`: from a WAV to a spoken reply, in a network namespace without routes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgefuse
from edgefuse.datasets.dialogue.pictures import picture
from edgefuse.datasets.digits.espeak import Utterance, synthesise
from edgefuse.datasets.intent.requests import AREAS, INTENTS, LANGUAGES
from edgefuse.errors import DataError
from edgefuse.models import intent
from examples.voice import assistant, recognition, replies, voice_activity
from examples.voice.voice_activity import CHUNK, Pcm, chunks_of, utterances

ROOT = Path(__file__).parents[1]
SAID = "turn on the lights"
NOON = datetime(2026, 11, 28, 12, 5)


def labels(intent: str, area: str = "none", domain: str = "none", value: str = "none") -> dict[str, str]:
    return {"intent": intent, "area": area, "domain": domain, "value": value}


@pytest.fixture(scope="module")
def fetched() -> None:
    try:
        voice_activity.VoiceActivity()
        replies.not_understood("en")
    except DataError as error:
        pytest.skip(f"not checked: the assistant: {error}")


@pytest.fixture(scope="module")
def asked() -> Pcm:
    """The same request twice, by a voice of the test split, in a little noise, with a second of silence around each."""
    said = synthesise([Utterance(SAID, "en-029", "f4", 200)])[0]
    pause = np.zeros(16_000, np.int16)
    clean = np.concatenate([pause, said, pause, said, pause]).astype(np.float32) / 2
    noise = 10 * np.random.default_rng(0).standard_normal(clean.size)
    return np.asarray(np.rint(clean + noise), np.int16)


@pytest.mark.usefixtures("fetched")
def test_each_utterance_is_found_where_it_is(asked: Pcm) -> None:
    length = (asked.size - 3 * 16_000) // 2
    found = list(utterances(chunks_of(asked)))
    assert len(found) == 2
    for said in found:
        assert length - 4 * CHUNK <= said.size <= length + 8 * CHUNK
        assert np.abs(said.astype(np.float32)).max() > 5000


@pytest.mark.usefixtures("fetched")
def test_in_silence_and_in_noise_nobody_speaks() -> None:
    noise = np.asarray(300 * np.random.default_rng(0).standard_normal(32_000), np.int16)
    assert list(utterances(chunks_of(np.zeros(32_000, np.int16)))) == []
    assert list(utterances(chunks_of(noise))) == []


@pytest.mark.usefixtures("fetched")
def test_what_is_still_said_when_the_sound_ends_is_given(asked: Pcm) -> None:
    cut = asked[: 16_000 + 8_000]
    (said,) = utterances(chunks_of(cut))
    assert said.size >= 6_000


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize(
    ("meant", "language", "said"),
    [
        (labels("HassTurnOn", "kitchen", "light"), "en", "Turned on the lights in the kitchen"),
        (labels("HassTurnOff", "garage", "fan"), "fr", "Ventilateurs éteints dans le garage"),
        (
            labels("HassClimateSetTemperature", "garage", value="21"),
            "de",
            "Temperatur auf 21 Grad gestellt in der Garage",
        ),
        (labels("HassLightSet", "bedroom", "light", "40"), "en", "Brightness set in the bedroom"),
        (labels("HassLightSet", "bedroom", "light", "red"), "fr", "Couleur réglée dans la chambre"),
        (labels("HassVacuumCleanArea", "kitchen"), "en", "Cleaning kitchen"),
        (labels("HassStartTimer", value="5"), "en", "Timer set for 5 minutes"),
        (labels("HassGetCurrentTime"), "en", "12:05 PM"),
        (labels("HassClimateGetTemperature", "kitchen"), "de", "Das kann ich nicht nachsehen"),
    ],
)
def test_replies_are_those_of_the_package_and_name_the_room(meant: Mapping[str, str], language: str, said: str) -> None:
    assert replies.reply(meant, language, NOON) == said


@pytest.mark.usefixtures("fetched")
def test_there_is_a_reply_to_every_intent() -> None:
    for language in LANGUAGES:
        for name in INTENTS:
            assert replies.reply(labels(name, value="20"), language, NOON)


def test_another_kind_of_sound_is_refused(tmp_path: Path) -> None:
    assistant.write(tmp_path / "right.wav", np.arange(100, dtype=np.int16))
    np.testing.assert_array_equal(assistant.read(tmp_path / "right.wav"), np.arange(100))
    content = bytearray((tmp_path / "right.wav").read_bytes())
    content[24:28] = (8_000).to_bytes(4, "little")
    (tmp_path / "slow.wav").write_bytes(content)
    with pytest.raises(DataError, match="got 8000 Hz, 16 bits, 1 channels, expected 16000 Hz, 16 bits, 1 channel"):
        assistant.read(tmp_path / "slow.wav")
    (tmp_path / "none.wav").write_bytes(b"RIFF")
    for name, got in (("none.wav", "a file that ends within its header"), ("gone.wav", "No such file or directory")):
        with pytest.raises(DataError, match=rf"cannot read .*{name}: got {got}, expected a WAV .* Fix: ffmpeg"):
            assistant.read(tmp_path / name)


def test_a_sound_out_of_a_pipe_is_read_whatever_length_it_claims(tmp_path: Path) -> None:
    """Whoever writes into a pipe cannot go back to say how much it was: 4 GB, whose room a small device has not."""
    assistant.write(tmp_path / "piped.wav", np.arange(100, dtype=np.int16))
    content = bytearray((tmp_path / "piped.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    (tmp_path / "piped.wav").write_bytes(content)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(assistant.read(tmp_path / "piped.wav"), np.arange(100))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_bundle_of_another_model_is_refused_before_anybody_speaks(tiny_bundle: Path) -> None:
    got = "got one from image, text, motion to logits, expected one from audio to intent, area, domain, value"
    with (
        edgefuse.load(tiny_bundle) as pipeline,
        pytest.raises(DataError, match=f"the bundle is of another model: {got}"),
    ):
        assistant.check(pipeline)


@pytest.mark.usefixtures("fetched")
def test_a_sound_in_which_nobody_speaks_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgefuse, "load", nullcontext)  # no bundle is asked
    monkeypatch.setattr(assistant, "check", lambda _: None)
    assistant.write(tmp_path / "quiet.wav", np.zeros(16_000, np.int16))
    monkeypatch.setattr(sys, "argv", ["assistant", "any.edgefuse", "--wav", str(tmp_path / "quiet.wav")])
    assert assistant.main() == 0
    assert capsys.readouterr().err == f"assistant: nobody speaks in {tmp_path / 'quiet.wav'}\n"


def test_a_recogniser_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(DataError, match=r"the recogniser needs the package 'pocketsphinx'.*pip install pocketsphinx"):
        recognition.pocketsphinx()


@pytest.mark.usefixtures("fetched")
def test_a_request_is_answered_without_a_network(asked: Pcm, tmp_path: Path) -> None:
    """The room is the one that is shown, and both requests are answered, aloud."""
    model = intent.build(ROOT / "examples" / "intent" / "intent.safetensors")
    edgefuse.export(model, model.spec, "onnx", out=tmp_path / "intent.edgefuse", cache=tmp_path / "cache")
    assistant.write(tmp_path / "asked.wav", asked)
    Image.fromarray(picture(AREAS.index("garage") - 1, np.random.default_rng(1))).save(tmp_path / "room.png")
    before = {path.name for path in tmp_path.iterdir()}
    said = answered(tmp_path, "--image", "room.png", "--text", SAID)
    assert [(one["intent"], one["area"], one["domain"]) for one in said] == [("HassTurnOn", "garage", "light")] * 2
    assert {one["reply"] for one in said} == {"Turned on the lights in the garage"}
    reply = assistant.read(tmp_path / "reply.wav")
    (spoken,) = utterances(chunks_of(np.concatenate([reply, np.zeros(16_000, np.int16)])))
    assert spoken.size > 16_000
    assert {path.name for path in tmp_path.iterdir()} - before == {"reply.wav"}


def answered(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Run the assistant on `asked.wav` where there is no network, if the system has namespaces; return its lines."""
    alone = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("not checked: the assistant without a network: no network namespaces here")
    command = [sys.executable, "-m", "examples.voice.assistant", str(folder / "intent.edgefuse")]
    paths = [str(folder / word) if word.endswith(".png") else word for word in words]
    files = ["--wav", str(folder / "asked.wav"), "--reply", str(folder / "reply.wav")]
    done = subprocess.run([*alone, *command, *files, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_reply_that_cannot_be_written_is_told_and_a_sound_that_is_cut_off_is_heard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        assistant.write(tmp_path / "nowhere" / "reply.wav", np.zeros(4, np.int16))
    path = tmp_path / "reply.wav"
    assistant.write(path, np.arange(4, dtype=np.int16))
    path.write_bytes(path.read_bytes()[:-1])
    assert assistant.read(path).tolist() == [0, 1, 2]
