"""The light's patterns: each distinct to an eye, and played exactly."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest

from edge_siamese.panel.led_signals import LedPlayer, Pattern, Signal, signal_table

ONES = {"flash": 0.12, "short": 0.4, "long": 1.2, "very long": inf}
GAPS = {"brief": 0.5, "pause": inf}


def kind(seconds: float, classes: dict[str, float]) -> str:
    return next(name for name, most in classes.items() if seconds <= most)


def signature(pattern: Pattern) -> tuple[object, ...]:
    """What an eye can distinguish: kinds of blinks and of gaps in one round, and whether it ends."""
    if pattern.steps[0][1] == inf:
        return ("dark",)
    if pattern.steps[0][0] == inf:
        return ("steady",)
    looks = tuple((kind(on, ONES), kind(off, GAPS)) for on, off in pattern.steps)
    return (*looks, "forever" if pattern.continuous else "passing")


def changes(signal: Signal, seconds: float) -> list[float]:
    """When the lamp switches, found by asking for one deadline after the other."""
    lamp = LedPlayer()
    lamp.show(signal, 100.0)
    now, lit, found = 100.0, False, []
    for _ in range(1000):
        if lamp.at(now) != lit:
            lit = not lit
            found.append(round(now - 100.0, 6))
        following = lamp.deadline(now)
        if following is None or following > 100.0 + seconds:
            return found
        assert following > now
        now = following
    raise AssertionError("the lamp's deadlines do not pass")


def test_no_two_signals_look_alike():
    seen = {signature(signal.pattern): signal for signal in Signal}
    assert len(seen) == len(Signal) == 20
    assert len({signal.appearance for signal in Signal}) == len(Signal)


def test_two_passing_signals_differ_in_their_first_round_even_without_their_gaps():
    ones = [
        tuple(kind(on, ONES) for on, _ in signal.pattern.steps)
        for signal in Signal
        if not signal.pattern.continuous
    ]
    assert len(set(ones)) == len(ones)


def test_no_blink_is_of_a_length_between_two_kinds():
    borders = [border for border in ONES.values() if border < inf]
    for signal in Signal:
        for on, _ in signal.pattern.steps:
            assert all(abs(on - border) / border > 0.2 for border in borders), signal


@pytest.mark.parametrize(
    ("signal", "count"),
    [(Signal.BLURRED, 2), (Signal.DARK, 3), (Signal.BRIGHT, 4), (Signal.MOVING, 5), (Signal.COLLISION, 6)],
)
def test_a_refusal_is_counted_twice(signal, count):
    switches = changes(signal, 60)
    assert len(switches) == 2 * 2 * count
    assert switches[:4] == [0.3, 0.5, 0.8, 1.0]
    assert signal.appearance.startswith(("two", "three", "four", "five", "six")[count - 2])


def test_patterns_switch_when_the_table_says():
    assert changes(Signal.SAVED, 60) == [0.3, 1.8]
    assert changes(Signal.VIEW_SAVED, 60) == [0.3, 1.0, 1.3, 2.0]
    assert changes(Signal.UNDONE, 60) == [0.3, 1.0, 1.2, 1.4, 1.6, 1.66]
    assert changes(Signal.READY, 9) == [0.0, 0.06, 4.0, 4.06, 8.0, 8.06]
    assert changes(Signal.REGISTERING, 0.3) == [0.0, 0.07, 0.14, 0.21, 0.28]
    assert changes(Signal.FAULT_CAMERA, 4.3) == [0.0, 0.7, 1.0, 1.7, 2.0, 2.2, 4.2]
    assert changes(Signal.RECOGNIZED, 60) == [0.0]
    assert changes(Signal.OFF, 60) == []


@pytest.mark.parametrize("signal", list(Signal))
def test_a_signal_can_be_followed_by_a_person(signal):
    on_and_off = pairwise(changes(signal, 20))
    fastest = 0.06 if signal in (Signal.REGISTERING, Signal.READY, Signal.UNDONE) else 0.1
    assert all(later - earlier >= fastest - 1e-6 for earlier, later in on_and_off)
    assert signal.pattern.length <= 12 or signal.pattern.continuous
    assert signal.meaning.endswith((".", "say why."))


def test_a_passing_signal_begins_and_ends_dark_so_that_it_is_seen_over_a_steady_light():
    lamp = LedPlayer()
    lamp.set_background(Signal.RECOGNIZED, 0.0)
    assert lamp.at(5.0) and lamp.deadline(5.0) is None
    lamp.show(Signal.SAVED, 10.0)
    assert [lamp.deadline(now) for now in (10.0, 10.5, 12.0)] == pytest.approx([10.3, 11.8, 12.6])
    assert [lamp.at(now) for now in (10.0, 10.29, 10.3, 11.79, 11.8, 12.59, 12.6)] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]
    assert lamp.signal(12.6) is Signal.RECOGNIZED


def test_the_background_signal_restarts_after_a_temporary_one():
    lamp = LedPlayer()
    lamp.set_background(Signal.READY, 0.0)
    lamp.show(Signal.NOTHING_TO_UNDO, 1.0)
    end = 1.0 + Signal.NOTHING_TO_UNDO.pattern.length
    assert lamp.at(end + 0.01) and not lamp.at(end + 0.1)
    assert lamp.deadline(end + 0.1) == pytest.approx(end + 4.0)


def test_a_new_signal_takes_the_place_of_the_old_one_and_none_ends_it():
    lamp = LedPlayer()
    lamp.show(Signal.COLLISION, 0.0)
    lamp.show(Signal.SAVED, 1.0)
    assert lamp.signal(1.1) is Signal.SAVED
    lamp.show(None, 1.5)
    assert lamp.signal(1.5) is Signal.OFF and not lamp.at(1.5)


def test_a_lasting_signal_shown_again_and_again_is_not_disturbed():
    lamp = LedPlayer()
    lamp.show(Signal.REGISTERING, 0.0)
    lamp.set_background(Signal.READY, 0.0)
    for number in range(10):
        lamp.show(Signal.REGISTERING, number * 0.01)
        lamp.set_background(Signal.READY, number * 0.01)
    assert not lamp.at(0.1)
    lamp.show(None, 0.11)
    assert not lamp.at(0.12)  # READY has been going on below it since 0


def test_a_passing_signal_shown_again_begins_again():
    lamp = LedPlayer()
    lamp.show(Signal.SAVED, 0.0)
    lamp.show(Signal.SAVED, 1.0)
    assert not lamp.at(1.1) and lamp.at(2.7)


def test_time_before_the_start_is_the_start():
    lamp = LedPlayer()
    lamp.show(Signal.SAVED, 10.0)
    assert not lamp.at(9.0)
    assert lamp.deadline(9.0) == pytest.approx(10.3)


def test_the_table_for_people_has_a_row_for_each_signal():
    rows = signal_table().splitlines()
    assert rows[:2] == ["| LED | meaning |", "|---|---|"]
    assert len(rows) == 2 + len(Signal)
    assert "| six short, twice | Refused: it looks like an object that is already registered. |" in rows
