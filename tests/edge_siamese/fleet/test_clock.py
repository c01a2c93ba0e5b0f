"""The hybrid logical clock."""

from __future__ import annotations

import random

import pytest

from edge_siamese.fleet.clock import LATEST_MS, MAX_AHEAD_MS, PLAUSIBLE_MS, Clock, device_of, require_stamp
from edge_siamese.validation import SchemaError

NOW = 1_790_000_000_000


class Wall:
    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


def test_a_stamp_has_time_count_and_device() -> None:
    wall = Wall()
    clock = Clock("kitchen-1", wall)
    assert clock.next() == "001a0c4506c00-0000-kitchen-1" == f"{NOW:013x}-0000-kitchen-1"
    assert clock.next() == "001a0c4506c00-0001-kitchen-1"
    wall.ms += 1
    assert clock.next() == "001a0c4506c01-0000-kitchen-1"
    assert device_of(clock.next()) == "kitchen-1"


def test_stamps_increase_whatever_the_clocks_do() -> None:
    wall = Wall()
    clock, chance = Clock("b", wall), random.Random(1)
    last = clock.next()
    for _ in range(2000):
        wall.ms += chance.randint(-10_000, 10_000)
        if chance.random() < 0.1:
            clock.observe(last := max(last, f"{wall.ms + 10**6 * chance.randint(-1, 1):013x}-00ff-a"))
        following = clock.next()
        require_stamp(following)
        assert following > last
        last = following


def test_a_full_count_continues_in_the_next_millisecond() -> None:
    clock = Clock("a", lambda: NOW)
    clock.observe(f"{NOW:013x}-ffff-z")
    assert clock.next() == f"{NOW + 1:013x}-0000-a"


def test_a_device_without_a_time_of_day_follows_the_others() -> None:
    clock = Clock("a", lambda: 12)
    clock.observe(f"{NOW:013x}-0004-b")
    assert clock.next() == f"{NOW:013x}-0005-a"


LAST = f"{LATEST_MS - 1:013x}-ffff-evil"


def test_a_clock_ignores_the_last_possible_stamp() -> None:
    require_stamp(LAST)
    clock = Clock("a", lambda: NOW)
    assert clock.is_ahead(LAST)
    clock.observe(LAST)
    assert clock.next() == f"{NOW:013x}-0000-a"
    ahead = f"{NOW + MAX_AHEAD_MS:013x}-0000-b"
    assert not clock.is_ahead(ahead)
    clock.observe(ahead)
    assert clock.next() > ahead


def test_without_a_time_of_day_no_stamp_is_rejected() -> None:
    wall = Wall()
    wall.ms = PLAUSIBLE_MS - 1
    clock = Clock("a", wall)
    assert not clock.is_ahead(LAST)
    clock.observe(LAST)
    for _ in range(3):
        require_stamp(clock.next())
    wall.ms = NOW  # with the right time, the stamp has no effect
    assert clock.next() == f"{NOW:013x}-0000-a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "001a0c4506c00-0000-",
        "001a0c4506c00-0000-Kitchen",
        "001A0C4506C00-0000-a",
        "001a0c4506c00-0000-a\n",
        f"{LATEST_MS:013x}-0000-a",
        "fffffffffffff-ffff-a",
        "001a0c4506c00-0000-" + 65 * "a",
    ],
)
def test_invalid_stamps_are_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="must be a stamp, not '"):
        require_stamp(text)


def test_a_clock_needs_a_device_id() -> None:
    with pytest.raises(ValueError, match="a device id has 1 to 64 characters of a-z, 0-9, _ and -, not ''"):
        Clock("")
