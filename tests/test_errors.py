"""Messages stay one line of bounded length, whatever a hostile file puts into them."""

from __future__ import annotations

import pickle
import re

import pytest

from edgefuse.errors import MAX_SHOWN, BundleError, EdgefuseError, ModelError, cited, shown


def test_a_message_says_what_got_expected_and_fix() -> None:
    error = EdgefuseError("it is wrong", got=3, expected="4", fix="do it again.")
    assert str(error) == "it is wrong: got 3, expected 4. Fix: do it again."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("größe 請 🛑", "größe 請 🛑"),
        ("\x1b[2J\r\n\t", r"\x1b[2J\r\n\t"),
        ("\ud800 \u202e \u2028", r"\ud800 \u202e \u2028"),
        (10**5000, "a number that is too long to show"),
        ([1, 10**5000], "a number that is too long to show"),
        ("x" * MAX_SHOWN, "x" * MAX_SHOWN),
        ("x" * 10**6, "x" * (MAX_SHOWN - 3) + "..."),
        ("\0" * 100, r"\x00" * 49 + r"\..."),
    ],
    ids=range(8),
)
def test_a_value_is_shown_in_one_line_that_ends(value: object, text: str) -> None:
    assert shown(value) == text


def test_no_part_of_a_message_is_endless() -> None:
    message = str(BundleError("a" * 10**6, got=list(range(10**6)), expected="b" * 10**6, fix="c" * 10**6))
    assert len(message) < 4_000
    assert message.isprintable()


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise TypeError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelError("it is wrong", got=3, expected=4, fix="do it again"), "it is wrong (3)"),
        (ModelError("it is wrong", fix="do it again"), "it is wrong"),
        (RuntimeError("shape '[2]' is invalid.\nmore"), "RuntimeError: shape '[2]' is invalid"),
        (RuntimeError("in state_dict:\n\tMissing key"), "RuntimeError: in state_dict: Missing key"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
        (UnspeakableError(), "UnspeakableError: an error that cannot be spelled"),
    ],
    ids=range(7),
)
def test_an_error_is_cited_by_what_it_says_and_got(error: Exception, said: str) -> None:
    assert cited(error) == said
    assert cited(pickle.loads(pickle.dumps(error))) == said
    outer = str(ModelError("the stage fails", got=cited(error), fix="mend it"))
    assert (outer.count("got "), outer.count("Fix: ")) == (1, 1)


def test_only_what_is_for_people_is_cited() -> None:
    error = RuntimeError("[core.cpp:7] no kernel:\n[core.cpp:9] Add")
    assert cited(error, clean=lambda text: re.sub(r"\[.*?\] ", "", text)) == "RuntimeError: no kernel: Add"
    assert cited(error, clean=lambda _: "") == "RuntimeError"


def test_a_sentence_that_ends_with_another_ends_once() -> None:
    inner = BundleError("it is wrong", fix="do it again")
    assert str(ModelError(f"the sample is wrong: {inner}")) == "the sample is wrong: it is wrong. Fix: do it again."
