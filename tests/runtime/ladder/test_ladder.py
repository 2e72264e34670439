"""The controller, by replay: no clock is read, and no device has to be hot."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgefuse.bundle.manifest import Manifest
from edgefuse.errors import BundleError, InputError
from edgefuse.runtime.ladder import Change, Ladder, Reading, Replay, Settings, Signals, Step, steps_of
from tests.runtime.ladder.simulated import ACCURACY, PERIOD_S, TIMES_MS, manifest_of, run

FULL = "image+text+motion"


@pytest.fixture
def manifest(tiny_manifest: Manifest) -> Manifest:
    return manifest_of(tiny_manifest)


def throttled(begin_s: float, end_s: float, to: float = 0.5) -> Callable[[float], float]:
    return lambda now_s: to if begin_s <= now_s < end_s else 1.0


def test_a_device_at_half_speed_keeps_its_deadlines_by_the_ladder_alone(manifest: Manifest) -> None:
    speed = throttled(10.0, 30.0)
    without = run(manifest, None, speed, 50.0)
    ladder = Ladder(manifest)
    within = run(manifest, ladder, speed, 50.0)
    assert without.missed(12.0, 30.0) > 0.3
    assert within.missed(12.0, 30.0) <= 0.01
    assert within.missed(0.0, 10.0) == within.missed(40.0, 50.0) == 0.0
    assert [change.rung for _, change in within.changes] == ["reduced-2", "fast"]
    (down_s, _), (up_s, _) = within.changes
    assert down_s < 12.0
    assert 30.0 < up_s < 40.0
    assert min(within.rests_s) >= 5.0


def test_the_accuracy_that_is_paid_is_what_the_rungs_promise(manifest: Manifest) -> None:
    ladder = Ladder(manifest)
    rungs = [rung for rung in run(manifest, ladder, throttled(10.0, 30.0), 50.0).rungs if rung]
    rng = np.random.default_rng(0)
    right = [rng.random() < ACCURACY[rung] for rung in rungs]  # items as the test split has them
    error = 1.96 * math.sqrt(0.25 / len(right))
    promised = ladder.promised()[FULL]
    assert promised == pytest.approx(np.mean([ACCURACY[rung] for rung in rungs]), abs=1e-3)
    assert abs(np.mean(right) - promised) < error
    assert sum(ladder.answered) == len(rungs)
    assert ladder.answered[1] == 0  # which would not have been enough


def test_a_device_that_is_a_little_slower_pays_for_the_next_rung_only(manifest: Manifest) -> None:
    found = run(manifest, Ladder(manifest), throttled(5.0, 25.0, to=0.65), 40.0)
    assert [change.rung for _, change in found.changes] == ["reduced-1", "fast"]


def test_a_slow_moment_is_no_reason_to_go_down(manifest: Manifest) -> None:
    found = run(manifest, Ladder(manifest), lambda now_s: 0.5 if 3.0 <= now_s % 5 < 3.12 else 1.0, 30.0)
    assert found.missed(0.0, 30.0) > 0.02
    assert not found.changes


def test_it_does_not_follow_a_device_that_changes_all_the_time(manifest: Manifest) -> None:
    found = run(manifest, Ladder(manifest), lambda now_s: 1.0 if now_s % 8 < 4 else 0.5, 120.0)
    assert found.changes
    assert min(found.rests_s) >= 5.0


class Quota:
    """A device on which a rung misses deadlines that its times do not foretell: they look alike on all of them."""

    def __init__(self, ladder: Ladder, needed: int) -> None:
        self.ladder, self.needed = ladder, needed

    def until(self, end_s: float) -> list[tuple[float, Change]]:
        """Predict every 10 ms."""
        found = []
        for number in range(int(end_s / PERIOD_S)):
            now_s = number * PERIOD_S
            rung = self.ladder.steps.index(self.ladder.step)
            used = 0.3 if rung >= self.needed else 1.5
            self.ladder.observe(now_s, used * PERIOD_S, PERIOD_S)
            if change := self.ladder.decide(now_s):
                found.append((now_s, change))
        return found


def test_a_rung_that_fails_again_is_tried_ever_later(manifest: Manifest) -> None:
    settings = Settings(first_wait_s=10.0, longest_wait_s=60.0)
    changes = Quota(Ladder(manifest, settings=settings), needed=1).until(300.0)
    tried_s = [now_s for now_s, change in changes if change.rung == "fast"]  # which the times say would fit
    below_s = np.diff(tried_s) - settings.hold_s - settings.calm_s  # it fails for the one, and waits for the other
    assert below_s[:5] == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0], abs=1.0)
    assert min(np.diff([now_s for now_s, _ in changes])) >= 5.0


def test_what_the_system_lets_a_process_use_is_no_room_for_a_slower_rung(manifest: Manifest) -> None:
    half = Replay([(0.0, Reading(processors=0.5)), (60.0, Reading(processors=1.0))])
    changes = Quota(Ladder(manifest, half), needed=2).until(50.0)
    assert [change.rung for _, change in changes] == ["reduced-2"]


def predict(ladder: Ladder, from_s: float, to_s: float) -> list[tuple[float, Change]]:
    """Predict every tenth of a second, never late."""
    found = []
    for number in range(round(10 * from_s), round(10 * to_s)):
        ladder.observe(number / 10, 0.02, 0.1)
        if change := ladder.decide(number / 10):
            found.append((number / 10, change))
    return found


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Reading(load=1.0), "100% of all processors in use (limit 98%)"),
        (Reading(temperature_c=91.0), "91 degrees (limit 85)"),
        (Reading(throttled=True), "clocks held back against heat"),
        (Reading(available_bytes=2e7), "20 MB of memory left (limit 32)"),
        (Reading(battery=0.15), "battery at 15% (limit 20%)"),
    ],
    ids=["load", "temperature", "throttled", "memory", "battery"],
)
def test_each_signal_costs_a_step_at_a_time_and_gives_it_back(manifest: Manifest, bad: Reading, words: str) -> None:
    good = Reading(load=0.2, temperature_c=50.0, throttled=False, available_bytes=1e9, battery=0.9)
    ladder = Ladder(manifest, Replay([(0.0, good), (10.0, bad), (20.0, good)]))
    changes = predict(ladder, 0.0, 60.0)
    assert [change.rung for _, change in changes] == ["reduced-1", "reduced-2", "reduced-1", "fast"]
    assert changes[0][1].cause == words
    times_s = [now_s for now_s, _ in changes]
    assert 12.0 <= times_s[0] < 13.0  # sustained for two seconds
    assert min(np.diff(times_s)) >= 5.0


def test_what_a_device_did_not_tell_meanwhile_has_not_lasted(manifest: Manifest) -> None:
    flat, silent = Reading(battery=0.1), Reading()
    charged = Replay([(0.0, flat), (1.0, silent), (30.0, flat), (31.0, silent)])  # a second each, of the two it takes
    assert run(manifest, Ladder(manifest, charged), lambda _: 1.0, 40.0).changes == []


def test_near_a_limit_it_stays_where_it_is(manifest: Manifest) -> None:
    near = Replay([(0.0, Reading(temperature_c=86.0)), (4.0, Reading(temperature_c=83.0))])
    assert [change.rung for _, change in predict(Ladder(manifest, near), 0.0, 60.0)] == ["reduced-1"]


def test_below_the_last_rung_it_leaves_out_what_it_may_at_the_known_price(manifest: Manifest) -> None:
    hot = Replay([(0.0, Reading(throttled=True)), (30.0, Reading(throttled=False))])
    ladder = Ladder(manifest, hot, Settings(may_drop=("text", "image")))
    changes = predict(ladder, 0.0, 70.0)
    assert [(change.rung, change.without) for _, change in changes] == [
        ("reduced-1", ()),
        ("reduced-2", ()),
        ("reduced-2", ("text",)),
        ("reduced-2", ("text", "image")),
        ("reduced-2", ("text",)),
        ("reduced-2", ()),
        ("reduced-1", ()),
        ("fast", ()),
    ]
    prices = {price.subset: price for price in changes[2][1].price}
    last = manifest.rung("reduced-2").accuracy
    assert (prices[FULL].before, prices[FULL].now) == (manifest.rung().accuracy[FULL], last["image+motion"])
    assert prices[FULL].lost is None  # the bundle compares the same inputs
    assert prices["image+motion"].lost == pytest.approx((0.06, 0.08))
    assert prices["text"].now == last["text"]  # nothing else is given, so it is not left out


def test_misses_never_drop_a_modality_before_the_last_rung_was_tried(manifest: Manifest) -> None:
    ladder = Ladder(manifest, settings=Settings(may_drop=("text",)))
    changes = Quota(ladder, needed=3).until(8.0)
    assert [(change.rung, change.without) for _, change in changes] == [("reduced-2", ()), ("reduced-2", ("text",))]


def test_every_change_is_logged_with_cause_and_price(manifest: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgefuse.runtime.ladder"):
        run(manifest, Ladder(manifest), throttled(1.0, 9.0), 20.0)
    down, up = (record.getMessage() for record in caplog.records)
    assert down.startswith("down to 'reduced-2', since ")
    assert "deadlines were missed" in down
    assert f"price: {FULL} 0.95 -> 0.88 (lost 0.06 to 0.08), image+text 0.85 -> 0.78" in down
    assert up.startswith("up to 'fast', since predictions take 3")
    assert "70% is expected" in up or "69% is expected" in up or "71% is expected" in up


def test_a_step_is_faster_than_the_one_above_and_loses_less_than_those_below(tiny_manifest: Manifest) -> None:
    times = {"fast": 7.0, "reduced-1": 3.4, "reduced-2": 3.5}
    assert [step.rung for step in steps_of(manifest_of(tiny_manifest, times))] == ["fast", "reduced-1"]
    close = TIMES_MS | {"reduced-1": 6.8}
    assert [step.rung for step in steps_of(manifest_of(tiny_manifest, close))] == ["fast", "reduced-2"]


def test_what_was_measured_on_this_device_counts(manifest: Manifest) -> None:
    here = {rung.name: rung.figures[0] for rung in manifest_of(manifest, TIMES_MS | {"reduced-1": 3.0}).rungs}
    assert [step.rung for step in steps_of(manifest, figures=here)] == ["fast", "reduced-1"]


def test_without_times_there_is_one_step(tiny_manifest: Manifest) -> None:
    assert [(step.rung, step.time) for step in steps_of(tiny_manifest)] == [("float", None)]
    assert predict(Ladder(tiny_manifest, Replay([(0.0, Reading(throttled=True))])), 0.0, 10.0) == []


def test_a_step_spells_itself() -> None:
    assert str(Step("fast", ("text", "image"), None, ())) == "'fast' without text and image"


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (("smell",), "cannot leave out this modality: got 'smell', expected each once, of image, text, motion"),
        (("text", "text"), "got 'text'"),
        (("text", "image", "motion"), "cannot leave out every modality"),
    ],
)
def test_what_cannot_be_left_out_is_refused(manifest: Manifest, dropped: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ladder(manifest, settings=Settings(may_drop=dropped))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("fits", 1.5, "a share from 0 to 1"),
        ("fits", 0.0, "more than 0"),
        ("hold_s", -1.0, "zero or more"),
        ("margin", 1.5, "a share from 0 to 1"),
        ("hold_s", True, "zero or more"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"{field} of a ladder is out of range: got {value}, expected {expected}"):
        replace(Settings(), **{field: value})  # type: ignore[arg-type]


def test_one_name_is_no_list_of_modalities() -> None:
    with pytest.raises(InputError, match="may_drop of a ladder is no list of modalities: got 'image', expected a"):
        Settings(may_drop="image")  # type: ignore[arg-type] # which a string is not
    assert Settings(may_drop=["image"]).may_drop == ("image",)  # type: ignore[arg-type]


def test_predictions_take_bounded_memory_and_deadlines_may_be_none_or_over(manifest: Manifest) -> None:
    ladder = Ladder(manifest)
    for number in range(20_000):
        ladder.observe(number * 1e-6, 1.0, math.inf)
    assert ladder.decide(0.02) is None
    ladder.observe(0.021, 1.0, 0.0)
    assert len(ladder._window._seen) == 4096
    assert math.isfinite(ladder._window.used)


def test_settings_may_be_numbers_of_numpy() -> None:
    settings = Settings(hold_s=np.float32(2.5), most_load=np.int64(1))  # type: ignore[arg-type] # which are numbers
    assert settings == Settings(hold_s=2.5, most_load=1.0)
    assert type(settings.hold_s) is float


def test_it_goes_on_from_the_rung_that_runs(manifest: Manifest) -> None:
    ladder = Ladder(manifest)
    for number in range(20):  # late at the second rung, where a caller has begun
        ladder.observe(number / 10, 0.13, 0.1, "reduced-1")
        if change := ladder.decide(number / 10):
            break
    assert change is not None
    assert change.rung == "reduced-2", "expectations are from that rung on"
    ladder = Ladder(manifest)
    changes: list[Change] = []
    for number in range(100):
        ladder.observe(number / 10, 0.02, 0.1, changes[-1].rung if changes else "reduced-2")
        changes += [change for change in [ladder.decide(number / 10)] if change]
    assert [change.rung for change in changes] == ["fast"]
    ladder.observe(10.0, 0.02, 0.1, "a rung of another bundle")
    assert ladder.step.rung == "fast"


def test_it_may_begin_at_a_rung_below_which_it_stays(manifest: Manifest) -> None:
    ladder = Ladder(manifest, rung="reduced-1")
    assert [step.rung for step in ladder.steps] == ["reduced-1", "reduced-2"]
    assert ladder.steps[1].price[0].before == pytest.approx(ACCURACY["reduced-1"])
    ladder.observe(0.0, 0.02, 0.1, "fast")  # which is none of its steps
    assert [step.rung for step in ladder.steps] == ["fast", "reduced-1", "reduced-2"]
    with pytest.raises(BundleError, match="no such rung"):
        Ladder(manifest, rung="gone")


class Broken:
    """A device's own signals, which fail."""

    def read(self, now_s: float) -> Reading:
        raise KeyError("sensor\n0")


class Odd:
    """A device's own signals, which are no readings."""

    def read(self, now_s: float) -> Reading:
        return {"temperature_c": 50.0}  # type: ignore[return-value] # as their author may write


@pytest.mark.parametrize(("signals", "error"), [(Broken(), "KeyError: "), (Odd(), "AttributeError: ")])
def test_signals_that_fail_are_no_reading_and_said_once(
    signals: Signals, error: str, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    ladder = Ladder(manifest, signals)
    with caplog.at_level(logging.WARNING, "edgefuse.runtime.ladder"):
        assert predict(ladder, 0.0, 5.0) == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the ladder goes on without a reading of the device: {error}")
