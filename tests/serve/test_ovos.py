"""The plugin for OpenVoiceOS, found and called by its plugin manager in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve import voice

# What ovos-core does with the transformers of utterances that its configuration names.
ASSISTANT = """
import json, sys
from ovos_config.config import Configuration
from ovos_plugin_manager.templates.transformers import UtteranceTransformer
from ovos_plugin_manager.text_transformers import find_utterance_transformer_plugins, load_utterance_transformer_plugin
configured = Configuration()["utterance_transformers"]
plugins = {name: plugin for name, plugin in find_utterance_transformer_plugins().items() if name in configured}
assert all(load_utterance_transformer_plugin(name) is plugin for name, plugin in plugins.items())
assert all(issubclass(plugin, UtteranceTransformer) for plugin in plugins.values())
loaded = {name: plugin() for name, plugin in plugins.items()}
answers = []
for utterances in json.loads(sys.argv[1]):
    context = {"session": {"lang": "en"}}
    for module in loaded.values():
        utterances, data = module.transform(utterances, context)
        context.update(data)
    answers.append([utterances, context])
for module in loaded.values():
    if module._live is not None:
        cache = module._live.pipeline.cache
        assert (cache.hits, cache.misses) == (0, 0)  # nothing of an utterance is kept
    module.default_shutdown()
    module.default_shutdown()
    assert module.transform(["stop"], {}) == (["stop"], {})
print("ANSWERS", json.dumps({"loaded": list(loaded), "answers": answers}))
"""


def assistant(folder: Path, section: dict[str, Any], *said: list[str]) -> tuple[Any, str]:
    """Return what comes of utterances, and all that was written."""
    home = folder / "home"
    settings = home / ".config" / "mycroft" / "mycroft.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"utterance_transformers": {"edgefuse-intent": section}}), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    run = subprocess.run(
        [sys.executable, "-c", ASSISTANT, json.dumps(said)],
        env=kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("ANSWERS ")]
    said_of_it = run.stdout.replace(line, "") + run.stderr + logged(home)
    return json.loads(line.removeprefix("ANSWERS ")), said_of_it


def logged(home: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in home.rglob("*.log"))


def test_the_plugin_manager_finds_it_and_utterances_get_their_intent(tmp_path: Path) -> None:
    bundle = voice.intents(tmp_path / "intents.edgefuse")
    section = {"bundle": str(bundle), "threshold": 0.5}
    found, written = assistant(tmp_path, section, ["go please", "goat peas"], ["wait"], [], ["sesame"], [""])
    assert found["loaded"] == ["edgefuse-intent"]
    (asked, context), (_, nothing), (empty, untouched), (_, unknown), (blank, _) = found["answers"]
    assert asked == ["go please", "goat peas"]
    told = context["edgefuse"]
    assert (told["intent"], told["slots"]) == ("HassTurnOn", {"area": "kitchen"})
    assert 0.5 <= told["probability"] <= 1
    assert len(told["digest"]) == 64
    assert context["session"] == {"lang": "en"}
    assert (nothing["edgefuse"]["intent"], nothing["edgefuse"]["slots"]) == (None, {})
    assert (empty, untouched) == ([], {"session": {"lang": "en"}})
    assert unknown["edgefuse"]["intent"] is None
    assert blank == [""]
    assert "sesame" not in written


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({}, "the key 'bundle' names no bundle: got None, expected a path"),
        ({"bundle": "/nowhere.edgefuse"}, "edgefuse-intent does nothing: "),
        ({"bundle": "", "threshold": 2}, "the key 'bundle' names no bundle: got ''"),
    ],
)
def test_what_is_wrong_is_a_line_in_the_log_and_the_assistant_goes_on(
    tmp_path: Path, section: dict[str, Any], sentence: str
) -> None:
    found, written = assistant(tmp_path, section | {"active": True}, ["stop"])
    assert found["answers"] == [[["stop"], {"session": {"lang": "en"}}]]
    assert sentence in written
