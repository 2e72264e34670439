"""Requests are drawn with the slots that their sentences fill; needs the package of templates."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from edgefuse.datasets import intent
from edgefuse.datasets.dialogue import grammar
from edgefuse.datasets.dialogue.commands import ROOMS
from edgefuse.datasets.intent import requests
from edgefuse.datasets.intent.items import SAMPLES
from edgefuse.datasets.intent.requests import AREAS, INTENTS, NONE, SLOTS, VALUES, Request
from edgefuse.errors import DataError
from examples.voice.voice_activity import VoiceActivity, chunks_of, utterances

SMALL = intent.Settings(requests=(60, 6, 6, 12))


@pytest.fixture(scope="module")
def train() -> tuple[Request, ...]:
    try:
        return requests.drawn("train", 3000, seed=1)
    except DataError as error:
        pytest.skip(f"not checked: the requests of 'intent': {error}")


def test_lists_that_a_template_may_take_values_from_are_those_of_its_rules_too() -> None:
    rules = {"here": "in [the] {area}|at home", "set": "set {color:colour}"}
    assert grammar.named("<set> (<here>|[{volume}] (a;b))", rules) == {"area", "color", "volume"}
    assert grammar.named("on", rules) == frozenset()
    with pytest.raises(DataError, match="a template names what is not there: got '<there>', expected here, set"):
        grammar.named("<there>", rules)


def test_every_intent_is_asked_for_in_every_language(train: tuple[Request, ...]) -> None:
    asked = {(request.language, request.intent) for request in train}
    assert asked == {(language, name) for language in requests.LANGUAGES for name in INTENTS}
    assert {request.value for request in train} == {*VALUES}
    assert {request.domain for request in train} == {*requests.DOMAINS}
    assert {request.area for request in train} == {None, *AREAS}


def test_what_fills_a_slot_stands_in_the_sentence(train: tuple[Request, ...]) -> None:
    colours = {"de": {"blue": "blau"}, "fr": {"red": "rouge"}, "en": {"green": "green"}}
    for request in train:
        text = request.text.casefold()
        if request.area not in (None, NONE):
            assert ROOMS[request.language][AREAS.index(request.area) - 1].casefold() in text
        if request.value.isdigit():
            assert request.value in text
        assert colours[request.language].get(request.value, "") in text


def test_the_room_that_is_shown_is_meant_where_none_is_named_and_needed(train: tuple[Request, ...]) -> None:
    for request in train[:300]:
        meant = {request.labels(shown)["area"] for shown in range(1, len(AREAS))}
        assert meant == ({*AREAS[1:]} if request.area is None else {request.area})
    assert not [one for one in train if one.intent == "HassGetCurrentTime" and one.area != NONE]
    assert 0.3 < np.mean([request.area is None for request in train]) < 0.6


def test_splits_share_no_sentence_and_are_drawn_alike_each_time(train: tuple[Request, ...]) -> None:
    drawn = {split: requests.drawn(split, 150, seed=1) for split in requests.SHARES}
    assert drawn["train"] == train[:150]
    for one, other in combinations(drawn.values(), 2):
        assert not {request.text.casefold() for request in one} & {request.text.casefold() for request in other}
    assert requests.drawn("test", 150, seed=2) != drawn["test"]


@pytest.mark.usefixtures("train")
def test_a_sample_is_a_pure_function_of_its_index() -> None:
    items = intent.items("calibration", SMALL)
    sample, again = items[2], intent.items("calibration", SMALL)[2]
    for name, value in sample.inputs.items():
        np.testing.assert_array_equal(value, again.inputs[name])
    assert sample.inputs["image"].shape == (64, 64)  # type: ignore[union-attr]
    assert sample.inputs["audio"].shape == (SAMPLES,)  # type: ignore[union-attr]
    assert np.abs(np.asarray(sample.inputs["audio"], np.float32)).max() > 1000
    assert {slot: SLOTS[slot][place] for slot, place in sample.target.items()} == items.labels(2)


@pytest.mark.usefixtures("train")
def test_another_setting_is_another_data_set() -> None:
    assert intent.load(SMALL).digest == intent.load(SMALL).digest
    assert intent.load(SMALL).digest != intent.load(intent.Settings(requests=(60, 6, 6, 12), seed=2)).digest


def sound(items: intent.IntentItems, index: int) -> npt.NDArray[np.int16]:
    return np.asarray(items[index].inputs["audio"], np.int16)


@pytest.mark.usefixtures("train")
def test_a_sound_begins_before_or_within_what_is_said() -> None:
    clear = replace(SMALL, snr_db=(60.0, 60.0))
    on_time, later, cut = (
        sound(intent.items("calibration", replace(clear, before_ms=(span, span))), 0).astype(np.float32)
        for span in (0.0, 50.0, -50.0)
    )
    assert np.abs(later[:800]).max() < 0.01 * np.abs(later).max()
    scale = later[800:].std() / on_time[:-800].std()  # what is noise depends on the clip's loudness
    np.testing.assert_allclose(later[800:], scale * on_time[:-800], atol=0.02 * np.abs(later).max())
    np.testing.assert_allclose(cut[:-800], scale * on_time[800:], atol=0.02 * np.abs(later).max())


@pytest.mark.usefixtures("train")
def test_a_request_begins_elsewhere_each_time_that_it_comes() -> None:
    """And its text and its picture do not depend on that."""
    settings = replace(SMALL, snr_db=(60.0, 60.0), before_ms=(0.0, 500.0))
    items, fixed = intent.items("calibration", settings, count=24), intent.items("calibration", SMALL, count=24)
    starts = set()
    for index in range(0, 24, 6):
        loud = np.abs(sound(items, index).astype(np.float32))
        starts.add(int(np.argmax(loud > 0.05 * loud.max())))
        assert items[index].inputs["text"] == fixed[index].inputs["text"]
        np.testing.assert_array_equal(items[index].inputs["image"], fixed[index].inputs["image"])
    assert len(starts) == 4


@pytest.mark.usefixtures("train")
def test_voice_activity_begins_within_the_range_that_is_drawn_from() -> None:
    try:
        VoiceActivity()
    except DataError as error:
        pytest.skip(f"not checked: where voice activity begins: {error}")
    items, rng = intent.items("test", replace(SMALL, before_ms=(0.0, 0.0))), np.random.default_rng(0)
    low, high = intent.Settings().before_ms
    within = []
    for index in range(len(items)):
        first, last = (np.rint(10 * rng.standard_normal(16_000 + 40 * index)).astype(np.int16) for _ in range(2))
        whole = np.concatenate([first, sound(items, index), last])
        said = next(utterances(chunks_of(whole)))
        (begins,) = np.flatnonzero((sliding_window_view(whole, 64) == said[:64]).all(axis=1))
        within.append(low <= (first.size - begins) / 16 <= high)
    assert np.mean(within) > 0.8
