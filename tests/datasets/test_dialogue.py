"""Sentences are drawn from templates, and replies name the room that is meant; needs the package of templates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgefuse.datasets import dialogue
from edgefuse.datasets.dialogue import commands, grammar
from edgefuse.datasets.dialogue.items import END, STEPS, guessed, ids, labels
from edgefuse.datasets.dialogue.pictures import picture
from edgefuse.datasets.dialogue.speech import SAMPLES
from edgefuse.errors import DataError

SMALL = dialogue.Settings(commands=(60, 6, 6, 12))


@pytest.fixture(scope="module")
def fetched() -> None:
    try:
        commands.words()
    except DataError as error:
        pytest.skip(f"not checked: the commands of 'dialogue': {error}")


def every(template: str, rules: dict[str, str] | None = None) -> set[str]:
    """Return the sentences that many draws give."""
    rng = np.random.default_rng(0)
    return {grammar.draw(template, rules or {}, {"area": "hall"}, rng) for _ in range(300)}


def test_templates_say_what_they_may() -> None:
    assert every("(turn|switch) on [the] light[s]") == {
        f"{verb} on {the}light{s}" for verb in ("turn", "switch") for the in ("", "the ") for s in ("", "s")
    }
    assert every("light (on;<here>)", {"here": "[in] here|at home"}) == {
        *("light on in here", "light on here", "light on at home"),
        *("light in here on", "light here on", "light at home on"),
    }
    assert every("{area:name} [(a|[b] c)]") == {"hall", "hall a", "hall c", "hall b c"}


@pytest.mark.parametrize("template", ["a (b", "a b)", "[a (b])", "(a]"])
def test_a_bracket_without_its_partner_is_refused(template: str) -> None:
    with pytest.raises(DataError, match="a template has a bracket without its partner"):
        grammar.parse(template)


def test_what_a_template_names_must_be_there() -> None:
    with pytest.raises(DataError, match="a template names what is not there: got '<here>', expected there"):
        every("on <here>", {"there": "there"})


def test_rooms_look_different() -> None:
    one = [picture(room, np.random.default_rng(3)) for room in range(6)]
    assert {frame.shape for frame in one} == {(64, 64)}
    assert all((a != b).any() for a, b in combinations(one, 2))


@pytest.mark.usefixtures("fetched")
def test_guesses_are_the_likeliest_token_after_each_beginning() -> None:
    # first "Licht" (2 of 3), after it "auf", after both the end; "Allumé" is no guess, and after it nothing is known
    assert guessed(["Licht auf", "Licht auf", "Allumé"], ["Licht auf", "Allumé auf"]) == pytest.approx(3 / 6)


@pytest.mark.usefixtures("fetched")
def test_splits_share_no_sentence_and_are_drawn_alike_each_time() -> None:
    drawn = {split: commands.drawn(split, 150, seed=1) for split in commands.SHARES}
    for one, other in combinations(drawn.values(), 2):
        assert not {command.text.casefold() for command in one} & {command.text.casefold() for command in other}
    assert commands.drawn("test", 150, seed=1) == drawn["test"] != commands.drawn("test", 150, seed=2)
    assert {command.language for command in drawn["test"]} == set(commands.LANGUAGES)
    assert 0.3 < np.mean([command.room is None for command in drawn["train"]]) < 0.7


@pytest.mark.usefixtures("fetched")
def test_a_named_room_is_replied_whatever_is_shown_and_else_the_one_that_is() -> None:
    for command in commands.drawn("train", 200, seed=3):
        for shown, place in enumerate(commands.PLACES[command.language]):
            meant = place if command.room is None else commands.PLACES[command.language][command.room]
            assert command.answer(shown) == f"{command.reply} {meant}"
            assert len(ids(command.answer(shown))) <= STEPS
        if command.room is not None:
            assert commands.ROOMS[command.language][command.room].casefold() in command.text.casefold()


@pytest.mark.usefixtures("fetched")
def test_replies_are_those_of_the_package() -> None:
    replies = {command.reply for command in commands.drawn("train", 300, seed=4)}
    assert {"Turned on the lights", "Licht ausgeschaltet", "Ventilateurs éteints"} <= replies
    assert any(f"Temperature set to {degrees} degrees" in replies for degrees in commands.DEGREES)


@pytest.mark.usefixtures("fetched")
def test_a_sample_is_a_pure_function_of_its_index() -> None:
    items = dialogue.items("calibration", SMALL)
    sample, again = items[2], dialogue.items("calibration", SMALL)[2]
    for name, value in sample.inputs.items():
        np.testing.assert_array_equal(value, again.inputs[name])
    assert sample.inputs["image"].shape == (64, 64)  # type: ignore[union-attr]
    assert sample.inputs["audio"].shape == (SAMPLES,)  # type: ignore[union-attr]
    assert np.abs(np.asarray(sample.inputs["audio"], np.float32)).max() > 1000
    spelled = " ".join(labels()[token] for token in sample.target[:-1])
    assert (spelled, sample.target[-1]) == (items.reply(2), END)


@pytest.mark.usefixtures("fetched")
def test_another_setting_is_another_data_set() -> None:
    assert dialogue.load(SMALL).digest == dialogue.load(SMALL).digest
    assert dialogue.load(SMALL).digest != dialogue.load(dialogue.Settings(commands=(60, 6, 6, 12), seed=2)).digest
