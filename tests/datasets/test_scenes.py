"""Composed scenes, questions and sentences about them; needs no package: the pictures are blots."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from edgefuse.bundle.tokenizer.check import read_tokenizer
from edgefuse.datasets.scenes import CaptionItems, QuestionItems, Scenes, captions, composition, items, questions
from edgefuse.datasets.scenes.composition import Scene, Thing
from edgefuse.datasets.scenes.material import Material
from edgefuse.datasets.scenes.names import ANSWERS, CLOTHES, COLOURS, DIGITS, END, KINDS, UNKNOWN, tokenizer

SIDES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 0), "below": (-1, 0)}


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Scenes of two pictures of each kind: a filled square, and a smaller one."""
    pictures = np.zeros((2 * len(KINDS), 28, 28), np.uint8)
    pictures[::2, 4:24, 4:24] = 255
    pictures[1::2, 8:20, 8:20] = 255
    made = Material(pictures, np.repeat(np.arange(len(KINDS)), 2))
    monkeypatch.setattr(items, "_material", lambda split, settings: made)
    return Scenes("train")


def made(scenes: Scenes, count: int = 400) -> Iterator[Scene]:
    """Yield the first scenes."""
    return (scenes.scene(index) for index in range(count))


def beside(scene: Scene, relation: str, kind: str) -> str:
    """Return what is so to a thing, worked out anew."""
    (thing,) = (one for one in scene.things if one.kind == kind)
    rows, columns = SIDES[relation]
    found = [one.kind for one in scene.things if (one.row + rows, one.column + columns) == (thing.row, thing.column)]
    return found[0] if found else "nothing"


def answered(scene: Scene, text: str) -> str:
    """Answer a question by what its words say."""
    kinds, colours = {t.kind: t.colour for t in scene.things}, {t.colour: t.kind for t in scene.things}
    words = text.removesuffix("?").split()
    if "how many" in text:
        counted = {"digits": DIGITS, "clothes": (*CLOTHES,), "things": KINDS}[words[2]]
        return DIGITS[sum(thing.kind in counted for thing in scene.things)]
    if found := re.search(f"({'|'.join(SIDES)}) the (.*)\\?", text):
        return beside(scene, found[1], found[2])
    if "colour" in text:
        return next(kinds[word] for word in words if word in kinds)
    if text.startswith(("is there", "do you see")):
        return "yes" if words[-1] in kinds else "no"
    return colours[words[-1]]


def test_scenes_have_two_to_four_things_of_which_two_are_side_by_side(scenes: Scenes) -> None:
    counts = set()
    for scene in made(scenes):
        things = scene.things
        counts.add(len(things))
        for values in zip(*((t.kind, t.colour, (t.row, t.column), t.picture) for t in things), strict=True):
            assert len(set(values)) == len(things)
        assert any(True for _ in scene.pairs())
    assert counts == {2, 3, 4}


def test_questions_are_answered_by_what_is_there(scenes: Scenes) -> None:
    known = tokenizer(questions.tokens())
    about = set()
    for index, scene in enumerate(made(scenes)):
        for number in range(4):
            question = scenes.question(index, number)
            about.add(question.about)
            assert question.answer == answered(scene, question.text), question
            assert question.target == ANSWERS.index(question.answer)
            ids = known.encode(question.text.upper()).ids
            assert UNKNOWN not in ids
            assert len(ids) <= questions.MAX_LENGTH
    assert about == set(questions.WORDINGS)


def test_a_question_alone_does_not_give_its_answer_away(scenes: Scenes) -> None:
    asked = [scenes.question(index, number) for index in range(3000) for number in range(2)]
    guess = questions.guesses(asked[:4000])
    assert questions.guessed(guess, asked[4000:]) < 0.27
    limits = {"colour": 0.17, "thing": 0.14, "relation": 0.17, "count": 0.4, "presence": 0.56}
    for about, limit in limits.items():
        assert questions.guessed(guess, [one for one in asked[4000:] if one.about == about]) < limit


def test_captions_are_true_and_begin_with_their_prefix(scenes: Scenes) -> None:
    for index, scene in enumerate(made(scenes)):
        caption = scenes.caption(index, number=3)
        text = r"(an?) (\w+) (\w+) (left of|right of|above|below) (an?) (\w+) (\w+)(?: and (one|two) more things?)?"
        found = re.fullmatch(text, caption.text)
        assert found is not None
        assert (found[3], beside(scene, found[4], found[7])) == (found[3], found[3])
        there = {thing.kind: thing.colour for thing in scene.things}
        assert [there[found[3]], there[found[7]]] == [found[2], found[6]]
        assert [(a == "an") for a in (found[1], found[5])] == [c == "orange" for c in (found[2], found[6])]
        assert {None: 2, "one": 3, "two": 4}[found[8]] == len(scene.things)
        assert caption.text.startswith(caption.prefix + " ")
        assert 2 <= len(caption.prefix.split()) <= captions.PREFIX_LENGTH
        assert len(caption.ids) <= captions.STEPS
        assert caption.ids[-1] == END
        assert captions.spelled(caption.ids) == caption.text
        assert caption.text in captions.truths(scene)
        assert caption.text.replace(found[2], "grey") not in captions.truths(scene)


def test_pictures_show_what_is_said_where_it_is_said(scenes: Scenes) -> None:
    names, values = list(COLOURS), np.array(list(COLOURS.values()), np.float64)
    right = []
    for index, scene in enumerate(made(scenes, 40)):
        picture = scenes.picture(index)
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8
        for thing in scene.things:
            cell = picture[thing.row * 48 :, thing.column * 48 :][:48, :48].reshape(-1, 3)
            brightest = cell[np.argsort(cell.max(axis=1))[-100:]].mean(axis=0)
            right.append(names[int(((values - brightest) ** 2).sum(axis=1).argmin())] == thing.colour)
    assert np.mean(right) > 0.9


def test_items_are_the_same_every_time(scenes: Scenes) -> None:
    asked, said = QuestionItems(scenes, 20, 3), CaptionItems(scenes, 20)
    assert (len(asked), len(said)) == (60, 20)
    assert [asked[i].group for i in range(4)] == ["train 0", "train 0", "train 0", "train 1"]
    for index in (0, 7, 19):
        for data in (asked, said):
            one, other = data[index], data[index]
            assert np.array_equal(one.inputs["image"], other.inputs["image"])
            assert {**one.inputs, "image": 0} == {**other.inputs, "image": 0}
            assert np.array_equal(one.target, other.target)
    assert said[0].inputs["prefix"] == scenes.caption(0).prefix
    assert asked[4].inputs["question"] == scenes.question(1, 1).text
    assert np.array_equal(asked[4].inputs["image"], scenes.picture(1))
    assert not np.array_equal(scenes.picture(1), scenes.picture(2))


def test_a_guess_knows_the_prefix_and_the_most_frequent_words() -> None:
    def thing(colour: str, kind: str, column: int) -> Thing:
        return Thing(kind, colour, 0, column, 0)

    scene = Scene((thing("red", "two", 0), thing("blue", "bag", 1)))
    left = captions.Caption("a red two left of a blue bag", "a red")
    right = captions.Caption("a blue bag right of a red two", "a blue bag")
    assert captions.truths(scene) == {left.text, right.text}
    guess = captions.Guess([left, right, right], prefixed=True)
    assert captions.spelled(guess.sentence(left)) == left.text
    assert tuple(guess.tokens(right)) == right.ids
    blind = captions.Guess([left, right, right], prefixed=False)
    assert captions.spelled(blind.sentence(left)) == right.text
    assert [one == other for one, other in zip(blind.tokens(left), left.ids, strict=True)].count(False) == 1
    unseen = captions.Caption("a green two left of a blue bag", "a green")
    assert captions.spelled(guess.sentence(unseen)).startswith("a green ")


def test_tokenizers_may_go_into_a_bundle() -> None:
    for tokens in (questions.tokens(), captions.TOKENS):
        assert len(set(tokens)) == len(tokens)
        read_tokenizer("tokenizer.json", tokenizer(tokens).to_str().encode(), 5)
    assert composition.SIZE == 96
