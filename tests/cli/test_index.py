"""`edgefuse index`, and `edgefuse run --index`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import dual

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and pictures."""
    folder = tmp_path_factory.mktemp("made")
    dual.bundle(folder / "colours")
    dual.pictures(folder / "pictures")
    return folder


def test_a_folder_becomes_an_index_that_texts_and_pictures_search(cli: Cli, made: Path) -> None:
    done = cli("index", made / "colours", made / "pictures", "-o", "i")
    assert (done.returncode, done.stdout) == (0, "5 of 'image' in i, 3 numbers each\n"), done.stderr
    found = cli("run", made / "colours", "--index", "i", "--query", "red red yellow", "--top", "2")
    assert (found.returncode, found.stderr) == (0, "")
    header, first, second, last = found.stdout.splitlines()
    assert header.split() == ["score", "name"]
    assert first.split() == ["0.9490", str(made / "pictures" / "red.png")]
    assert second.endswith("yellow.png")
    assert last == "of 5 by text, rung 'float'"
    told = cli("run", made / "colours", "--index", "i", "--image", made / "pictures" / "blue.png", "--json")
    answer = json.loads(told.stdout)
    assert answer["hits"][0] == {"name": str(made / "pictures" / "blue.png"), "score": pytest.approx(1)}
    assert (answer["of"], answer["present"], answer["rung"]) == (5, ["image"], "float")


def test_lines_of_a_text_are_items(cli: Cli, made: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("green\n\n red  \r\n", encoding="utf-8")
    done = cli("index", made / "colours", "words.txt", "-o", "i", "--modality", "text", "--json")
    assert json.loads(done.stdout) == {"index": "i", "items": 2, "left_out": [], "size": 3}
    found = cli("run", made / "colours", "--index", "i", "--image", made / "pictures" / "red.png", "--json")
    assert [hit["name"] for hit in json.loads(found.stdout)["hits"]] == ["words.txt:3: red", "words.txt:1: green"]


def test_what_cannot_be_read_is_named_and_left_out(cli: Cli, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "a\x1b[31m.png").write_bytes(b"no picture")
    (folder / ".hidden").write_bytes(b"no picture")
    shutil.copy(made / "pictures" / "red.png", folder / "\x1b]0;title\x07.png")
    done = cli("index", made / "colours", folder, "gone.png", "-o", "i")
    assert (done.returncode, done.stdout) == (1, "1 of 'image' in i, 3 numbers each; 2 left out\n")
    assert "left out: " in done.stderr
    assert "gone.png: the file for 'image' cannot be read" in done.stderr
    found = cli("run", made / "colours", "--index", "i", "--query", "red").stdout
    assert r"\x1b]0;title\x07.png" in found
    assert "\x1b" not in done.stderr + found


def test_nothing_to_index_leaves_nothing(cli: Cli, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("index", made / "colours", "empty", "-o", "i")
    assert done.returncode == 2
    assert "there is nothing to index: got no item that can be read, expected at least one" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--query", "red"), "--query is of a search, which needs an index: got --query without --index"),
        (("--text", "red", "--top", "2"), "--top is of a search, which needs an index: got --top without --index"),
        (
            ("--index", "i", "--query", "red", "--text", "red"),
            "the text 'text' is given twice: got --query beside --text",
        ),
        (("--index", "i", "--query", "red", "--generate", "num_beams=2"), "a search makes no tokens: got --generate"),
        (("--index", "gone", "--query", "red"), "there is no index at 'gone': got index.json: No such file"),
        (("--index", "i"), "no input is given"),
        (("--index", "i", "--query", "red", "--top", "0"), "'0' is not a whole number from 1 to 10000"),
        (
            ("--index", "i", "--query", "red", "--image", "red.png"),
            "'colours' does not give one embedding of image and text: got shade, word",
        ),
        (("--index", "i", "--query", "red", "--rung", "other"), "Fix: name the rung 'float'."),
    ],
)
def test_a_search_that_cannot_be_made_is_a_sentence(
    cli: Cli, made: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    shutil.copy(made / "pictures" / "red.png", tmp_path)
    if "i" in arguments:
        assert cli("index", made / "colours", "red.png", "-o", "i").returncode == 0
    done = cli("run", made / "colours", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
